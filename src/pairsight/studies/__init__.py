"""Studies: analyses of finished runs, each with a table and a figure."""
