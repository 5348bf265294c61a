"""A study, its result (a table, a figure and a summary), and the comparison of two tables of scores."""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairsight.benchmarks.files.tables import score_columns
from pairsight.benchmarks.protocol import Benchmark
from pairsight.config import BaseConfig
from pairsight.errors import RunError, one_line
from pairsight.statistics import Difference, paired_bootstrap

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study's table, figure and summary.

    Attributes:
        name: the stem of its file names, e.g. "guidance_wins".
        title: a one-line title.
        columns: the table's column names.
        rows: the table's rows, one cell per column; None is blank.
        figure: SVG text.
        summary: what the table shows and how it was counted.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    figure: str
    summary: str

    def write(self, folder: str | Path) -> tuple[Path, Path, Path]:
        """Write `NAME.csv`, `NAME.svg` and `NAME.md` into a folder, which is created if missing."""
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        paths = (out / f"{self.name}.csv", out / f"{self.name}.svg", out / f"{self.name}.md")
        for path, text in zip(paths, (self.csv(), self.figure, self.markdown()), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths

    def csv(self) -> str:
        """The table as CSV, with numbers in full precision."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in self.rows])
        return buffer.getvalue()

    def markdown(self) -> str:
        """Title, summary and table as Markdown, with numbers to three digits."""
        lines = [f"# {self.title}", "", self.summary, "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line([_cell(cell) for cell in row]) for row in self.rows]
        return "\n".join([*lines, "", f"![{self.title}]({self.name}.svg)", ""])


class Study(BaseConfig, ABC):
    """The base class of all studies. A subclass is one file: its options as fields, and `results`."""

    @abstractmethod
    def results(self, *, quiet: bool = False) -> list[StudyResult]:
        """Run the study and write its results; finished parts of earlier calls are reused.

        Args:
            quiet: show no progress.
        """


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.3f}" if isinstance(cell, float) else " ".join(str(cell).split())


def compare_scores(base: Path, other: Path, name: str, benchmark: Benchmark) -> dict[str, Difference]:
    """Differences other − base by the official rule, with paired intervals, on the groups in both tables of scores.

    Args:
        base: the base's `scores-<model>.parquet`.
        other: another model's table, possibly of another evaluation on the same file.
        name: the benchmark's name in both tables.
        benchmark: the benchmark with its metrics.

    Raises:
        RunError: the tables share no group of the benchmark, or one has no scores of it.
    """
    first, second = (_sums(file, name) for file in (base, other))
    shared = [group for group in first if group in second]
    if not shared:
        raise RunError(f"{base} and {other} share no item of '{name}': evaluate both on the same file")
    return paired_bootstrap(
        np.array([first[group][1] for group in shared]),
        np.array([second[group][1] for group in shared]),
        [first[group][0] for group in shared],
        benchmark.combine,
    )


def _sums(file: Path, name: str) -> dict[str, tuple[str, list[float]]]:
    """Group -> its cluster and sums."""
    import pyarrow.parquet as pq

    known = score_columns(file)
    try:
        table = pq.read_table(file, filters=[("benchmark", "=", name), ("parser", "=", "official")])
        rows = zip(*(table.column(column).to_pylist() for column in ("group", "cluster", "sums")), strict=True)
    except (OSError, ValueError, LookupError) as error:
        raise RunError(f"{file} is damaged ({one_line(error, 100)}); move it away and evaluate again") from None
    if name not in known:
        raise RunError(f"{file} holds no scores of '{name}'; it has {', '.join(known) or 'none'}")
    return {group: (cluster, sums) for group, cluster, sums in rows}
