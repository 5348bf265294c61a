"""An annotator's prompt, and a VLM that answers it."""
