"""Models that return a number: image-text scorers, reward models, judges of images."""
