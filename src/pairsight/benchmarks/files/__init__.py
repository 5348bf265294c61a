"""Official files and answer files: what is read and written beside a benchmark's rule."""
