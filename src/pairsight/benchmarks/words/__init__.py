"""Reading words: yes and no, options, nouns, and how alike words are."""
