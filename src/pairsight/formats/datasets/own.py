"""Pairsight's own table of pairs: TRL's columns and the records themselves, so that nothing is lost."""

from pathlib import Path
from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets.format import Example, Format, Head
from pairsight.formats.rows import Row


class OwnPairs(Format):
    """What `build` leaves in `data/pairs-*.parquet`; it is read by `read_pairs`, before formats are looked at."""

    title: ClassVar[str] = "Pairsight"
    containers: ClassVar[tuple[Container, ...]] = ("parquet",)
    keeps_records: ClassVar[bool] = True

    def detect(self, head: Head) -> bool:
        """Never: such tables are recognised before."""
        return False

    def example(self, row: Row) -> Example:
        """DataError: a row of such a table is read with its record."""
        raise DataError(f"{row.location}: leave --format out: Pairsight's own tables are known by themselves", "format")

    def next_step(self, target: Path, file: str) -> str:
        """How it is trained on."""
        return f"pairsight align {target / file} --model MODEL"
