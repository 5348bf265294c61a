"""The file `results.json`: read in both schemas, merged with newer results, written completely or not at all."""

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
        DataError: the file is not JSON, has another schema, or a part has an unexpected shape.
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
    """The content of an existing `results.json`; empty if there is none.

    Raises:
        RunError: the file cannot be read, or has another schema.
    """
    if not path.exists():
        return Results()
    try:
        return read_results(path)
    except DataError as error:
        raise RunError(f"{error}; move the file away and evaluate again") from None


def write_results(path: Path, results: Results) -> None:
    """Write a `results.json`, completely or not at all."""
    text = json.dumps(results.to_plain(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode("utf-8", "backslashreplace"))


def update_results(path: Path, new: Results) -> Results:
    """Merge results into the `results.json` at `path`, atomically; removed sections are logged.

    Returns:
        The content as written.

    Raises:
        RunError: the existing file cannot be read, or has another schema.
    """
    with folder_lock(path.parent):
        results, removed = merged(results_at(path), new)
        write_results(path, results)
    for line in removed:
        _LOG.warning("%s", line)
    return results


def merged(old: Results, new: Results) -> tuple[Results, list[str]]:
    """Old results updated with new ones, and a message for each section that had to be removed.

    An adapter folder identifies a system: if it comes under another name, the system is renamed, and sections of other
    weights under a name are removed. A section replaces the one of the same benchmark, file and evaluation; sections of
    other systems that are no longer comparable with it are removed.
    """
    known, removed = _renamed(old, new)
    added = [*new.sections, *(section for system in new.systems.values() for section in system.sections)]
    systems: dict[str, System] = {}
    for name in {**known, **new.systems}:
        before, now = known.get(name), new.systems.get(name)
        kept = []
        for section in before.sections if before is not None else ():
            reason = _outdated(section, before, now, added)
            if reason:
                removed.append(_removal(name, section, reason))
            else:
                kept.append(section)
        if now is None and before is not None and before.sections and not kept:
            continue
        systems[name] = _merged_system(name, before, now, kept)
    alone = [section for section in old.sections if not _outdated(section, old, new, added)]
    primary = new.primary or next((name for name, system in known.items() if system.name == old.primary), "")
    return (
        Results(
            systems=systems,
            sections=_replaced(alone, new.sections),
            base=new.base or old.base,
            run=new.run or old.run,
            primary=primary if primary in systems else "",
        ),
        removed,
    )


def _renamed(old: Results, new: Results) -> tuple[dict[str, System], list[str]]:
    """The old systems under their current names, and messages for sections whose name is now another adapter's."""
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
            removed += [_removal(name, section, _another_adapter(system)) for section in system.sections]
        else:
            known[name] = system
    return {name: known[name] for name in names.values()}, removed


def _removal(name: str, section: Section, reason: str) -> str:
    return f"{name}: {section.title} is removed, it was measured with {reason}; evaluate it again"


def _another_adapter(system: System) -> str:
    return f"another adapter under that name ({system.aligned})"


def _merged_system(name: str, before: System | None, now: System | None, kept: Sequence[Section]) -> System:
    """The system's latest record with the kept and the new sections."""
    old = before if before is not None else System(name)
    latest = now if now is not None else old
    return replace(
        latest,
        name=name,
        sections=_replaced(kept, now.sections if now is not None else ()),
        data=latest.data or old.data,
        controls={**old.controls, **latest.controls},
    )


def _outdated(
    section: Section, before: System | Results | None, now: System | Results | None, added: Sequence[Section]
) -> str:
    """Why an old section cannot be kept beside the added ones; "" if it can be kept or is replaced."""
    if now is not None and any(one.measures_same_as(section) for one in now.sections):
        return ""
    if isinstance(before, System) and isinstance(now, System):
        old = section.models.get("aligned")
        current = next((one.models["aligned"] for one in now.sections if "aligned" in one.models), None)
        if old is not None and current is not None and old != current:
            return "other weights under that name"
        if (old is None or current is None) and before.aligned and now.aligned and before.aligned != now.aligned:
            return _another_adapter(before)
    for one in added:
        if section.measures_same_as(one) and (difference := section.differs_from(one)):
            return difference
    return ""


def _replaced(old: Sequence[Section], new: Sequence[Section]) -> tuple[Section, ...]:
    """The old sections, each replaced by the new one that measures the same, then the remaining new ones."""
    found, remaining = [], list(new)
    for section in old:
        replacement = next((one for one in remaining if one.measures_same_as(section)), None)
        if replacement is not None:
            remaining.remove(replacement)
        found.append(section if replacement is None else replacement)
    return (*found, *remaining)
