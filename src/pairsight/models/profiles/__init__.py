"""Named profiles: how the authors of a model family show it images and write its prompts."""
