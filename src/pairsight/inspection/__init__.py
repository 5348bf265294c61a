"""What to know about a dataset before training on it."""
