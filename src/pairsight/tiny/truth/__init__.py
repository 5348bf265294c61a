"""The world's truth as annotator, writer, judge and server."""
