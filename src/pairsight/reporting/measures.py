"""Tables and the forest plot of the measures: base, aligned, the difference with its interval, and the controls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pairsight import plots
from pairsight.benchmarks.results import Metric, Section, System, Verdict
from pairsight.reporting.page import visible
from pairsight.reporting.words import (
    MEANINGS,
    between,
    chance,
    control_title,
    group_title,
    interval,
    label,
    number,
    section_title,
    share,
    system_title,
)

_MOST_PLOTTED = 16
_MOST_DETAILS = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """A difference as shown: its value, its interval with the p-value, and its verdict."""

    aligned: str
    difference: str
    interval: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """One measure: its name, its meaning, the base's value and one cell per column."""

    label: str
    meaning: str
    base: str
    cells: tuple[Cell | None, ...]
    notes: str


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one benchmark; notes that all rows share are in its title."""

    title: str
    rows: tuple[MeasureRow, ...]
    file: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Measures as rows; columns are systems, or one system and its controls.

    `repeats` are parts with the first part's measures on the same file under other settings, such as another
    temperature; the page shows them collapsed.
    """

    columns: tuple[str, ...]
    parts: tuple[Part, ...]
    repeats: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """How a benchmark was run, as pairs of name and value."""

    name: str
    values: tuple[tuple[str, str], ...]


def side_by_side(systems: Sequence[System]) -> Table | None:
    """All systems compared with the base they share; None for a single system, or when their bases differ."""
    if len(systems) < 2:
        return None
    asked: list[Section] = []
    for section in (one for system in systems for one in system.sections):
        if not any(one.measures_same_as(section) for one in asked):
            asked.append(section)
    parts = []
    for first in asked:
        same = [_section(system, first) for system in systems]
        rows = []
        for name in dict.fromkeys(name for section in same if section is not None for name in section.metrics):
            found = [section.metrics.get(name) if section is not None else None for section in same]
            known = [metric for metric in found if metric is not None]
            if len({number(metric.base) for metric in known}) > 1:
                return None
            rows.append(_row(known[0], [_cell(metric) for metric in found]))
        parts.append(_part(section_title(first), rows, first))
    return _table([system_title(system.name) for system in systems], parts)


def system_table(system: System) -> Table | None:
    """One system and its controls; None where it has no measures."""
    parts = []
    for section in system.sections:
        rows = []
        for metric in section.metrics.values():
            controls = [system.control(name, section, metric.name) for name in system.controls]
            rows.append(_row(metric, [_cell(metric), *map(_cell, controls)]))
        parts.append(_part(section_title(section), rows, section))
    return _table(["aligned", *map(control_title, system.controls)], parts)


def detail_tables(system: System) -> list[tuple[str, Table]]:
    """Each benchmark's measures by the other parser and by category, as (benchmark, table).

    A model that was scored alone has no columns: each measure's interval is in its notes.
    """
    tables = []
    for section in system.sections:
        details = {f"{section.other_parser[0]} parser": section.other_parser[1]} if section.other_parser else {}
        details |= section.categories
        compared = any(metric.aligned is not None for metrics in details.values() for metric in metrics.values())
        parts, left = [], _MOST_DETAILS
        for name, metrics in details.items():
            shown = list(metrics.values())[:left]
            rows = [_row(metric, [_cell(metric)]) if compared else _alone(metric) for metric in shown]
            left -= len(rows)
            if rows:
                parts.append(_part(group_title(name), [replace(row, meaning="") for row in rows]))
        if parts:
            tables.append((section_title(section), Table(("aligned",) if compared else (), tuple(parts))))
    return tables


def forest_plot(system: System) -> str:
    """A plot of the first fractions' differences with intervals, of a system and its controls; "" without any."""
    all_shown = [(s, m) for s, m in system.figures if _is_fraction(m) and estimate(m) is not None]
    if not all_shown:
        return ""
    first = all_shown[0][0]
    own = {metric.name for section, metric in all_shown if section is first}
    shown = [(s, m) for s, m in all_shown if s is first or s.file != first.file or m.name not in own][:_MOST_PLOTTED]
    series = {"aligned": [estimate(metric) for _, metric in shown]}
    for name in system.controls:
        series[control_title(name)] = [estimate(system.control(name, section, m.name)) for section, m in shown]
    labels = [
        label(metric.name, metric.better) if section is first else f"{section_title(section)} {label(metric.name)}"
        for section, metric in shown
    ]
    alt = "Differences from the base with 95 % intervals: " + "; ".join(
        f"{text} {number(metric.difference, signed=True)} ({interval(metric.low, metric.high)})"
        for text, (_, metric) in zip(labels, shown, strict=True)
    )
    return plots.intervals(labels, series, x_label="difference from the base", alt=alt)


def group_settings(system: System) -> list[GroupSettings]:
    """The settings of each benchmark, and how many questions have no answer."""
    found = []
    for section in system.sections:
        values = [("file", visible(section.file, 200))] if section.file else []
        values += [(visible(name, 40).replace("_", " "), _setting(name, v)) for name, v in section.settings.items()]
        if section.fallbacks:
            values.append(("in place of the original's tools", visible("; ".join(section.fallbacks), 300)))
        for model, count in section.failed.items():
            values += [(f"unanswered by the {visible(model, 40)} model", str(count))] if count else []
        found += [GroupSettings(section_title(section), tuple(values))] if values else []
    return found


def unparsed(metric: Metric) -> str:
    """How many answers the scoring rule could not read, with the base's where it was compared."""
    own, base = share(metric.unparsed, metric.num_items), share(metric.unparsed_base, metric.num_items)
    return f"{own or 0}, base's {base}" if base else own


def _section(system: System, other: Section) -> Section | None:
    """The system's section that asked the same questions in the same way."""
    return next((section for section in system.sections if section.measures_same_as(other)), None)


def _table(columns: Sequence[str], parts: Sequence[Part]) -> Table | None:
    kept = [part for part in parts if part.rows]
    if not kept:
        return None
    first = kept[0]
    measures = {row.label for row in first.rows}
    repeats = [part for part in kept[1:] if part.file == first.file and {row.label for row in part.rows} == measures]
    return Table(tuple(columns), tuple(part for part in kept if part not in repeats), tuple(repeats))


def _part(title: str, rows: Iterable[MeasureRow], section: Section | None = None) -> Part:
    kept = tuple(rows)
    notes = {row.notes for row in kept}
    shared = notes.pop() if len(notes) == 1 else ""
    title = " · ".join(text for text in (title, shared) if text)
    file = section.file if section is not None else ""
    return Part(title, tuple(replace(row, notes="") for row in kept) if shared else kept, file)


def _setting(name: str, value: object) -> str:
    if value is None or value == "":
        return "none"
    if name == "sha256":
        return f"{visible(value, 80)[:12]}…"
    return f"{value:g}" if isinstance(value, float) else visible(value, 80)


def _row(metric: Metric, cells: Sequence[Cell | None]) -> MeasureRow:
    notes = []
    if metric.num_items is not None:
        notes.append(f"{metric.num_items} items")
    notes += [f"{text} unparsed" for text in [unparsed(metric)] if text]
    if metric.temperature is not None:
        notes.append(f"temperature {metric.temperature:g}")
    return MeasureRow(
        label=label(metric.name, metric.better),
        meaning=MEANINGS.get(metric.name, ""),
        base=number(metric.base),
        cells=tuple(cells),
        notes=", ".join(notes),
    )


def _alone(metric: Metric) -> MeasureRow:
    row = _row(metric, ())
    return replace(row, notes=f"{between(metric.low, metric.high)}, {row.notes}".strip(", "))


def _cell(metric: Metric | None) -> Cell | None:
    if metric is None or metric.aligned is None:
        return None
    return Cell(
        number(metric.aligned),
        number(metric.difference, signed=True),
        ", ".join(filter(None, (interval(metric.low, metric.high), chance(metric.p_value)))),
        metric.verdict,
    )


def estimate(metric: Metric | None) -> plots.Estimate:
    """A difference with its interval, as plots draw it; None where one of them is not known."""
    if metric is None or metric.difference is None or metric.low is None or metric.high is None:
        return None
    return (metric.difference, metric.low, metric.high)


def _is_fraction(metric: Metric) -> bool:
    return all(value is not None and 0.0 <= value <= 1.0 for value in (metric.base, metric.aligned))
