"""Text analysis: yes and no, option letters, nouns, objects, normalisation and word similarity."""
