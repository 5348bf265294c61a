"""Records as rows of other tools: what of a record an example holds, how images are kept, what rows give back."""
