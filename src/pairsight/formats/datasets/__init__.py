"""How published datasets lay out their rows: one family a file, each found by its name in the registry of formats."""
