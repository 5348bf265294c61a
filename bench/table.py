"""The rows of bench/RESULTS.md, stored in results.json so that one table can have rows measured at different times."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One row of the table: each run's value, the goal, and where it was measured.

    Args:
        part: the benchmark's part that measured it (`--rows`).
        title: what was measured.
        detail: the quantities behind the value, in words.
        values: one value per run.
        unit: written after the median.
        at_least: the goal, if it is a lower bound.
        at_most: the goal, if it is an upper bound.
        commit: the commit of the measured code.
        machine: processor, cores and threads.
        versions: package -> version.
        matrix_gflops: best rates of a plain fp32 matrix product before and after, in GFLOP/s.
        others: the largest share of the cores used by other processes during a run; None: unknown.
    """

    part: str
    title: str
    detail: str
    values: tuple[float, ...]
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None
    commit: str = ""
    machine: str = ""
    versions: Mapping[str, str] | None = None
    matrix_gflops: tuple[float, ...] = ()
    others: float | None = None

    @property
    def median(self) -> float:
        """The median of all runs."""
        return statistics.median(self.values)

    def goal(self) -> str:
        """The goal, and whether the median meets it."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}, {'reached' if self.median >= self.at_least else 'missed'}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}{self.unit}, {'reached' if self.median <= self.at_most else 'missed'}"
        return "–"

    def markdown(self) -> str:
        """The row as a line of a Markdown table."""
        digits = 2 if self.median >= 0.1 else 4
        low, high = min(self.values), max(self.values)
        spread = f" ({low:.{digits}f}–{high:.{digits}f})" if len(self.values) > 1 else ""
        result = f"{self.detail}: **{self.median:.{digits}f}{self.unit}**{spread}"
        rates = " / ".join(f"{rate:.0f}" for rate in self.matrix_gflops) or "–"
        others = "–" if self.others is None else f"{self.others:.0%}"
        cells = (self.title, result, self.goal(), str(len(self.values)), rates, others, self.commit)
        return f"| {' | '.join(cells)} |"


def read_rows(path: Path, parts: Iterable[str]) -> dict[str, Row]:
    """The rows measured before, except those of parts that no longer exist."""
    if not path.is_file():
        return {}
    known = set(parts)
    read = {}
    for key, plain in json.loads(path.read_text())["rows"].items():
        lists = {name: tuple(plain[name]) for name in ("values", "matrix_gflops")}
        row = Row(**{name: value for name, value in plain.items() if name != "median"} | lists)
        if row.part in known:
            read[key] = row
    return read


def write_rows(path: Path, rows: Mapping[str, Row]) -> None:
    """Write results.json, each row with its median."""
    plain = {key: asdict(row) | {"median": row.median} for key, row in rows.items()}
    path.write_text(json.dumps({"rows": plain}, indent=2, ensure_ascii=False) + "\n")


def merged(rows: Mapping[str, Row], measured: Mapping[str, Row], parts: Iterable[str]) -> dict[str, Row]:
    """`rows` with the measured ones replaced or added, in the order of `parts`."""
    order = {part: index for index, part in enumerate(parts)}
    return dict(sorted((dict(rows) | dict(measured)).items(), key=lambda entry: order[entry[1].part]))


def machines(rows: Iterable[Row]) -> str:
    """Machines and versions of all rows, each listed once."""
    names: dict[str, None] = {}
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        names[row.machine] = None
        for package, number in (row.versions or {}).items():
            versions.setdefault(package, {})[number] = None
    listed = ", ".join(f"{package} {' and '.join(numbers)}" for package, numbers in versions.items())
    return f"{' and '.join(names)}; {listed}."


def markdown(rows: Mapping[str, Row], about: str) -> str:
    """The text of bench/RESULTS.md: an introduction and the table."""
    head = "| measured | result | goal | runs | matrix product before / after, GFLOP/s | others' CPU | commit |"
    lines = [head, "|---|---|---|---|---|---|---|", *(row.markdown() for row in rows.values())]
    return "\n".join([about, *lines, ""])
