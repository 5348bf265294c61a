"""What a training will take, before any weights are read: a run on tensors without values, and what it counts."""
