"""Images of a training: numbered units, and the vision tower and projector that make their features."""
