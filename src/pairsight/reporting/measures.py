"""The tables and the forest plot of the measures: base, aligned, difference with its interval, controls beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pairsight import plots
from pairsight.reporting.results import Change, System, Verdict
from pairsight.reporting.visible import visible
from pairsight.reporting.words import (
    MEANINGS,
    between,
    chance,
    control_title,
    group_title,
    interval,
    label,
    number,
    share,
    system_title,
)

_MOST_PLOTTED = 16
_MOST_DETAILS = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """A difference as shown: its value, its interval with the p-value, and what it says."""

    aligned: str
    difference: str
    interval: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One measure: its name, what it means, the base's value and one cell per column."""

    label: str
    meaning: str
    base: str
    cells: tuple[Cell | None, ...]
    notes: str


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one benchmark, with what all of them share said in its title."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Measures as rows; columns are systems, or one system and its controls.

    `repeats` are parts with the measures of the first one, taken otherwise (at another temperature): folded away.
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
    """All systems beside the base they share; None for a single one, or when their bases differ."""
    if len(systems) < 2:
        return None
    groups = dict.fromkeys(group.name for system in systems for group in system.groups)
    parts = []
    for group in groups:
        measures = dict.fromkeys(c.name for system in systems for g, c in system.changes if g.name == group)
        rows = []
        for measure in measures:
            found = [_find(system, group, measure) for system in systems]
            known = [change for change in found if change is not None]
            if len({number(change.base) for change in known}) > 1:
                return None
            rows.append(_row(known[0], [_cell(change) for change in found]))
        parts.append(_part(group, rows))
    return _table([system_title(system.name) for system in systems], parts)


def system_table(system: System) -> Table | None:
    """One system and its controls; None without measures."""
    parts = []
    for group in system.groups:
        rows = []
        for change in group.changes:
            beside = [system.control(name, group.name, change.name) for name in system.controls]
            rows.append(_row(change, [_cell(change), *map(_cell, beside)]))
        parts.append(_part(group.name, rows))
    return _table(["aligned", *map(control_title, system.controls)], parts)


def detail_tables(system: System) -> list[tuple[str, Table]]:
    """Per benchmark, its measures by the other parser and by category, as (benchmark, table).

    A model that was scored alone has no columns: each measure's interval stands in its notes.
    """
    tables = []
    for group in system.groups:
        compared = any(change.aligned is not None for changes in group.details.values() for change in changes)
        parts, left = [], _MOST_DETAILS
        for name, changes in group.details.items():
            rows = [_row(change, [_cell(change)]) if compared else _alone(change) for change in changes[:left]]
            left -= len(rows)
            if rows:
                parts.append(_part(name, [replace(row, meaning="") for row in rows]))
        if parts:
            tables.append((group_title(group.name), Table(("aligned",) if compared else (), tuple(parts))))
    return tables


def forest_plot(system: System) -> str:
    """Differences with intervals of the first fractions, the system and its controls; empty when there are none."""
    all_shown = [(g, c) for g, c in system.changes if _is_fraction(c) and _estimate(c) is not None]
    if not all_shown:
        return ""
    first = all_shown[0][0].name
    own = {change.name for group, change in all_shown if group.name == first}
    shown = [(g, c) for g, c in all_shown if g.name == first or c.name not in own][:_MOST_PLOTTED]
    series = {"aligned": [_estimate(change) for _, change in shown]}
    for name in system.controls:
        beside = [system.control(name, group.name, change.name) for group, change in shown]
        series[control_title(name)] = [_estimate(change) for change in beside]
    labels = [
        label(change.name, change.better) if group.name == first else f"{group_title(group.name)} {label(change.name)}"
        for group, change in shown
    ]
    alt = "Differences to the base with 95 % intervals: " + "; ".join(
        f"{text} {number(change.difference, signed=True)} ({interval(change.low, change.high)})"
        for text, (_, change) in zip(labels, shown, strict=True)
    )
    return plots.intervals(labels, series, x_label="difference to the base", alt=alt)


def group_settings(system: System) -> list[GroupSettings]:
    """The settings of each benchmark that are plain values, and what failed."""
    found = []
    for group in system.groups:
        values = [
            (visible(name, 40).replace("_", " "), _setting(name, value))
            for name, value in group.settings.items()
            if not isinstance(value, dict | list)
        ]
        fallbacks = group.settings.get("fallbacks")
        if isinstance(fallbacks, list) and fallbacks:
            values.append(("stands in for the original's tools", visible("; ".join(map(str, fallbacks)), 300)))
        failed = group.settings.get("failed")
        for model, count in failed.items() if isinstance(failed, dict) else ():
            values += [(f"unanswered by the {visible(model, 40)} model", visible(count, 20))] if count else []
        found += [GroupSettings(group_title(group.name), tuple(values))] if values else []
    return found


def unparsed(change: Change) -> str:
    """How many answers the scoring rule could not read, the base's too where it was compared."""
    items = change.notes.get("num_items")
    own, base = share(change.notes.get("unparsed"), items), share(change.notes.get("unparsed_base"), items)
    return f"{own or 0}, base's {base}" if base else own


def _find(system: System, group: str, measure: str) -> Change | None:
    return next((c for g, c in system.changes if g.name == group and c.name == measure), None)


def _table(columns: Sequence[str], parts: Sequence[Part]) -> Table | None:
    kept = [part for part in parts if part.rows]
    if not kept:
        return None
    measures = {row.label for row in kept[0].rows}
    repeats = [part for part in kept[1:] if {row.label for row in part.rows} == measures]
    return Table(tuple(columns), tuple(part for part in kept if part not in repeats), tuple(repeats))


def _part(group: str, rows: Iterable[Row]) -> Part:
    kept = tuple(rows)
    notes = {row.notes for row in kept}
    shared = notes.pop() if len(notes) == 1 else ""
    title = " · ".join(text for text in (group_title(group), shared) if text)
    return Part(title, tuple(replace(row, notes="") for row in kept) if shared else kept)


def _setting(name: str, value: object) -> str:
    if value is None or value == "":
        return "none"
    if name == "sha256":
        return f"{visible(value, 80)[:12]}…"
    return f"{value:g}" if isinstance(value, float) else visible(value, 80)


def _row(change: Change, cells: Sequence[Cell | None]) -> Row:
    notes = []
    if "num_items" in change.notes:
        notes.append(f"{visible(change.notes['num_items'], 20)} items")
    notes += [f"{text} unparsed" for text in [unparsed(change)] if text]
    if change.notes.get("temperature") is not None:
        notes.append(f"temperature {_setting('temperature', change.notes['temperature'])}")
    return Row(
        label=label(change.name, change.better),
        meaning=MEANINGS.get(change.name, ""),
        base=number(change.base),
        cells=tuple(cells),
        notes=", ".join(notes),
    )


def _alone(change: Change) -> Row:
    row = _row(change, ())
    return replace(row, notes=f"{between(change.low, change.high)}, {row.notes}".strip(", "))


def _cell(change: Change | None) -> Cell | None:
    if change is None or change.aligned is None:
        return None
    return Cell(
        number(change.aligned),
        number(change.difference, signed=True),
        ", ".join(filter(None, (interval(change.low, change.high), chance(change.notes.get("p_value"))))),
        change.verdict,
    )


def _estimate(change: Change | None) -> plots.Estimate:
    if change is None or change.difference is None or change.low is None or change.high is None:
        return None
    return (change.difference, change.low, change.high)


def _is_fraction(change: Change) -> bool:
    return all(value is not None and 0.0 <= value <= 1.0 for value in (change.base, change.aligned))
