"""The rendered world: scenes, questions, captions and files."""
