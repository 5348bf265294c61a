"""Files that hold rows: JSON, JSON Lines, CSV, Parquet, Arrow and WebDataset, one file or a folder of them."""
