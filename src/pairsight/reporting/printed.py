"""What papers printed of the same model, beside our figures, with a warning where our settings are not theirs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pairsight.reporting.results import Group, System
from pairsight.reporting.visible import visible
from pairsight.reporting.words import group_title, label, number

_PAPERS = {"seva": "SeVa", "pds_dpo": "PDS-DPO", "li2024": "Li et al. 2024"}


@dataclass(frozen=True, slots=True)
class Printed:
    """One figure of a paper and ours of the base model."""

    measure: str
    ours: str
    printed: str
    where: str
    differs: str


def printed_beside(system: System) -> tuple[Printed, ...]:
    """All figures that papers printed of the system's base."""
    return tuple(row for group in system.groups for row in _of_group(group))


def _of_group(group: Group) -> Iterator[Printed]:
    ours = {change.name: change for change in group.changes}
    rows = group.settings.get("published")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, Mapping) or row.get("metric") not in ours:
            continue
        change = ours[row["metric"]]
        differs = row.get("differs")
        yield Printed(
            f"{group_title(group.name)} {label(change.name, change.better)}",
            number(change.base),
            number(_number(row.get("value"))),
            _where(row),
            visible("; ".join(map(str, differs)), 400) if isinstance(differs, list) else "",
        )


def _where(row: Mapping[str, Any]) -> str:
    paper, table = str(row.get("paper", "")), str(row.get("table", ""))
    parts = [_PAPERS.get(paper, paper), f"Table {table}" if table.isdigit() else table, row.get("row"), row.get("note")]
    return ", ".join(visible(part, 120) for part in parts if part)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
