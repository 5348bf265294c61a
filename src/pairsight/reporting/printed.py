"""Figures that papers printed of the same model, next to ours, with a warning where the settings differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from pairsight.benchmarks.published import PrintedFigure
from pairsight.benchmarks.results import Section, System
from pairsight.reporting.page import visible
from pairsight.reporting.words import label, number, section_title

_PAPERS = {"seva": "SeVa", "pds_dpo": "PDS-DPO", "li2024": "Li et al. 2024"}


@dataclass(frozen=True, slots=True)
class Printed:
    """One figure of a paper, and ours of the base model."""

    measure: str
    ours: str
    printed: str
    where: str
    differs: str


def printed_beside(system: System) -> tuple[Printed, ...]:
    """All figures that papers printed of the system's base model."""
    return tuple(row for section in system.sections for row in _of_section(section))


def _of_section(section: Section) -> Iterator[Printed]:
    for figure in section.published:
        metric = section.metrics.get(figure.metric)
        if metric is not None:
            yield Printed(
                f"{section_title(section)} {label(metric.name, metric.better)}",
                number(metric.base),
                number(figure.value),
                _where(figure),
                visible("; ".join(figure.differs), 400),
            )


def _where(figure: PrintedFigure) -> str:
    table = f"Table {figure.table}" if figure.table.isdigit() else figure.table
    parts = [_PAPERS.get(figure.paper, figure.paper), table, figure.row, figure.note]
    return ", ".join(visible(part, 120) for part in parts if part)
