"""Readers and writers of official files and answer files."""
