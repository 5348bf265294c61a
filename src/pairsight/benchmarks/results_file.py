"""The file `results.json`: read in both schemas, merged with newer results, written complete or not at all."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pairsight.benchmarks.results import Results, Section, System
from pairsight.bounded import read_json
from pairsight.errors import DataError, RunError
from pairsight.store.durable import write_file
from pairsight.store.lock import folder_lock

_LOG = logging.getLogger("pairsight.results")


def read_results(path: Path) -> Results:
    """The content of a `results.json`.

    Raises:
        DataError: the file is not JSON, has another schema, or a part has another shape.
    """
    try:
        plain = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    try:
        return Results.from_plain(plain)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def results_at(path: Path) -> Results:
    """What a `results.json` holds so far; nothing where there is none.

    Raises:
        RunError: the file cannot be read, or has another schema.
    """
    if not path.exists():
        return Results()
    try:
        return read_results(path)
    except DataError as error:
        raise RunError(f"{error}; move it away and evaluate again") from None


def write_results(path: Path, results: Results) -> None:
    """Write a `results.json`, complete or not at all."""
    text = json.dumps(results.to_plain(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode("utf-8", "backslashreplace"))


def update_results(path: Path, new: Results) -> Results:
    """Merge results into the `results.json` at `path`, atomically; what had to go is logged.

    Returns:
        The content as written.

    Raises:
        RunError: the file there cannot be read, or has another schema.
    """
    with folder_lock(path.parent):
        whole, removed = merged(results_at(path), new)
        write_results(path, whole)
    for line in removed:
        _LOG.warning("%s", line)
    return whole


def merged(old: Results, new: Results) -> tuple[Results, list[str]]:
    """Results with newer ones laid over them, and what had to go, in words.

    A system is its adapter: the same folder under another name is renamed, and what was measured of other weights
    under a name goes. A section replaces the one of the same benchmark, file and evaluation; those of other systems go
    where they cannot be compared with it any more.
    """
    known, removed = _named_now(old, new)
    fresh = [*new.sections, *(section for system in new.systems.values() for section in system.sections)]
    systems: dict[str, System] = {}
    for name in {**known, **new.systems}:
        before, now = known.get(name), new.systems.get(name)
        kept = []
        for section in before.sections if before is not None else ():
            reason = _stale(section, before, now, fresh)
            if reason:
                removed.append(_line(name, section, reason))
            else:
                kept.append(section)
        if now is None and before is not None and before.sections and not kept:
            continue
        systems[name] = _joined(name, before, now, kept)
    alone = [section for section in old.sections if not _stale(section, old, new, fresh)]
    primary = new.primary or next((name for name, system in known.items() if system.name == old.primary), "")
    return (
        Results(
            systems=systems,
            sections=_laid_over(alone, new.sections),
            base=new.base or old.base,
            run=new.run or old.run,
            primary=primary if primary in systems else "",
        ),
        removed,
    )


def _named_now(old: Results, new: Results) -> tuple[dict[str, System], list[str]]:
    """The old systems by what they are called now, and what had to go because its name is another adapter's now."""
    adapters = {system.aligned: system.name for system in new.systems.values() if system.aligned}
    names = {}
    for system in old.systems.values():
        same = system.name in new.systems and new.systems[system.name].aligned == system.aligned
        names[system.name] = system.name if same else adapters.get(system.aligned, system.name)
    known: dict[str, System] = {}
    removed: list[str] = []
    for system in sorted(old.systems.values(), key=lambda system: system.aligned not in adapters):
        name = names[system.name]
        if name in known:
            removed += [_line(name, section, _another(system)) for section in system.sections]
        else:
            known[name] = system
    return {name: known[name] for name in names.values()}, removed


def _line(name: str, section: Section, reason: str) -> str:
    return f"{name}: {section.title} is removed, it was measured with {reason}; evaluate it again"


def _another(system: System) -> str:
    return f"another adapter under that name ({system.aligned})"


def _joined(name: str, before: System | None, now: System | None, kept: Sequence[Section]) -> System:
    """The system's latest record with the sections that were kept and the new ones."""
    old = before if before is not None else System(name)
    latest = now if now is not None else old
    return replace(
        latest,
        name=name,
        sections=_laid_over(kept, now.sections if now is not None else ()),
        data=latest.data or old.data,
        controls={**old.controls, **latest.controls},
    )


def _stale(
    section: Section, before: System | Results | None, now: System | Results | None, fresh: Sequence[Section]
) -> str:
    """Why a section cannot stay beside fresh ones; "" when it can, or is replaced."""
    if now is not None and any(one.same_place(section) for one in now.sections):
        return ""
    if isinstance(before, System) and isinstance(now, System):
        old = section.models.get("aligned")
        own = next((one.models["aligned"] for one in now.sections if "aligned" in one.models), None)
        if old is not None and own is not None and old != own:
            return "other weights under that name"
        if (old is None or own is None) and before.aligned and now.aligned and before.aligned != now.aligned:
            return _another(before)
    for one in fresh:
        if section.same_place(one) and (difference := section.differs_from(one)):
            return difference
    return ""


def _laid_over(old: Sequence[Section], new: Sequence[Section]) -> tuple[Section, ...]:
    """The old sections, each replaced by the new one of its place, then the new ones that are left."""
    found, left = [], list(new)
    for section in old:
        here = next((one for one in left if one.same_place(section)), None)
        if here is not None:
            left.remove(here)
        found.append(section if here is None else here)
    return (*found, *left)
