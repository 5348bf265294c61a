"""One benchmark per file: its official files, questions and rule."""
