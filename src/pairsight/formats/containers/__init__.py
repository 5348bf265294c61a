"""Files that hold rows: JSON, JSON Lines, CSV, Parquet, Arrow and WebDataset, one file or a folder of them."""

from collections.abc import Mapping

Values = Mapping[str, object]
"""A row's values by column."""
