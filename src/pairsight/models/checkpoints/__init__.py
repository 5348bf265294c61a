"""Checkpoints of other layouts: pickles to safetensors, original LLaVA to `transformers` and back."""
