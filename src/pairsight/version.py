"""The version: a leaf, so that every room can note it without importing the package's face."""

__version__ = "0.1.0"
