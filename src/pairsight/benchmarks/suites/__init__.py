"""One benchmark a file: its official files, its questions, its rule."""
