"""The rows of bench/RESULTS.md, kept in results.json so that rows measured at different times stand in one table."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One figure: each run's value, what it is compared with, and on what it was measured.

    Args:
        part: the row of the benchmark that gave it (`--rows`).
        title: what was measured.
        detail: what the value is made of, in words.
        values: one a run.
        unit: written behind the median.
        at_least: the goal, if it is a lower bound.
        at_most: the goal, if it is an upper bound.
        commit: of the code that was measured.
        machine: processor, cores and threads.
        versions: package -> version.
        matrix_gflops: best rate of a plain fp32 matrix product before and after, GFLOP/s.
        others: largest share of the cores that other processes took during a run; None: not known.
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
        """The figure."""
        return statistics.median(self.values)

    def goal(self) -> str:
        """The goal, and whether the median reaches it."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}, {'reached' if self.median >= self.at_least else 'missed'}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g}{self.unit}, {'reached' if self.median <= self.at_most else 'missed'}"
        return "–"

    def markdown(self) -> str:
        """A line of the table."""
        digits = 2 if self.median >= 0.1 else 4
        low, high = min(self.values), max(self.values)
        spread = f" ({low:.{digits}f}–{high:.{digits}f})" if len(self.values) > 1 else ""
        result = f"{self.detail}: **{self.median:.{digits}f}{self.unit}**{spread}"
        rates = " / ".join(f"{rate:.0f}" for rate in self.matrix_gflops) or "–"
        others = "–" if self.others is None else f"{self.others:.0%}"
        cells = (self.title, result, self.goal(), str(len(self.values)), rates, others, self.commit)
        return f"| {' | '.join(cells)} |"


def read_rows(path: Path, parts: Iterable[str]) -> dict[str, Row]:
    """The rows measured before, without those of parts that no longer exist."""
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
    """Write results.json: each row with its median."""
    plain = {key: asdict(row) | {"median": row.median} for key, row in rows.items()}
    path.write_text(json.dumps({"rows": plain}, indent=2, ensure_ascii=False) + "\n")


def merged(rows: Mapping[str, Row], measured: Mapping[str, Row], parts: Iterable[str]) -> dict[str, Row]:
    """`rows` with the measured ones replaced or added, in the order of `parts`."""
    order = {part: index for index, part in enumerate(parts)}
    return dict(sorted((dict(rows) | dict(measured)).items(), key=lambda entry: order[entry[1].part]))


def machines(rows: Iterable[Row]) -> str:
    """Machines and versions of all rows; more than one only where rows differ."""
    names: dict[str, None] = {}
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        names[row.machine] = None
        for package, number in (row.versions or {}).items():
            versions.setdefault(package, {})[number] = None
    listed = ", ".join(f"{package} {' and '.join(numbers)}" for package, numbers in versions.items())
    return f"{' and '.join(names)}; {listed}."


def markdown(rows: Mapping[str, Row], about: str) -> str:
    """bench/RESULTS.md: what the figures are, and the table."""
    head = "| measured | result | goal | runs | matrix product before / after, GFLOP/s | others' CPU | commit |"
    lines = [head, "|---|---|---|---|---|---|---|", *(row.markdown() for row in rows.values())]
    return "\n".join([about, *lines, ""])
