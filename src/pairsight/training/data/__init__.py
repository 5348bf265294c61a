"""Training data in tokens, kept on disk."""
