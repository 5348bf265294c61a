"""`pairsight report`: one self-contained page from a run folder, or from a folder of several systems' runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairsight.benchmarks.results import Metric, System
from pairsight.benchmarks.results_file import read_results
from pairsight.config import read_yaml
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.reporting.headline import control_sentences, headline
from pairsight.reporting.measures import (
    GroupSettings,
    Table,
    detail_tables,
    forest_plot,
    group_settings,
    side_by_side,
    system_table,
    unparsed,
)
from pairsight.reporting.page import render, visible
from pairsight.reporting.printed import Printed, printed_beside
from pairsight.reporting.run_view import RunView, view_run
from pairsight.reporting.words import between, label, number, section_title, system_title
from pairsight.store.durable import write_file
from pairsight.store.run_folder import check_links
from pairsight.version import __version__

_NUM_CARDS = 12


@dataclass(frozen=True, slots=True)
class SingleRow:
    """One measure of a model that was scored alone."""

    label: str
    value: str
    interval: str
    notes: str


@dataclass(frozen=True, slots=True)
class SystemView:
    """What the template shows of one system's measures."""

    name: str
    table: Table | None
    single: tuple[SingleRow, ...]
    forest: str
    controls: tuple[str, ...]
    details: tuple[tuple[str, Table], ...]
    settings: tuple[GroupSettings, ...]
    printed: tuple[Printed, ...]


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder, from the files in that folder alone.

    Args:
        run: a run folder, or a folder with several systems' run folders and one `results.json`. A folder
            `SYSTEM-CONTROL` next to `SYSTEM` is shown as that system's control.

    Returns:
        The page's path.

    Raises:
        RunError: the folder has no run, or cannot be written.
    """
    path = run / "report.html"
    write_file(path, report_html(run).encode("utf-8", "replace"))
    return path


def report_html(run: Path) -> str:
    """The page as text; see `write_report`."""
    check_links(run)
    systems, notes = _systems(run)
    runs = _views(find_runs(run), systems)
    compared = [system for system in systems if any(metric.aligned is not None for _, metric in system.figures)]
    if systems and not compared:
        notes.append("One model was scored alone: its values are below, and nothing is compared.")
    overview = side_by_side(compared)
    return render(
        "report.html",
        title=visible(run.resolve().name, 80),
        subtitle=_subtitle(runs, systems, compared),
        pairsight_version=__version__,
        notes=notes,
        headlines=[headline(system) for system in compared],
        overview=overview,
        systems=[_view_system(system, overview is not None) for system in systems],
        runs=runs,
        any_approximate=any(image.approximate for view in runs for card in view.cards for image in card.images),
        versions=sorted({pair for view in runs for pair in view.versions.items()}),
    )


def find_runs(folder: Path) -> list[Path]:
    """The folder itself when it is a run, else the runs directly in it; an empty list where it has only results.

    Raises:
        RunError: there are neither runs nor results.
    """
    if _is_run(folder):
        return [folder]
    runs = sorted(path.parent for path in folder.glob("*/run.yaml") if _is_run(path.parent))
    if not runs and not (folder / "results.json").is_file():
        raise RunError(f"{folder} is not a run folder: neither it nor a folder in it has run.yaml or results.json")
    return runs


def _is_run(folder: Path) -> bool:
    """Whether it is a build's folder; an evaluation has a run.yaml too, with its kind."""
    if not (folder / "run.yaml").is_file():
        return False
    try:
        return read_yaml(folder / "run.yaml").get("kind") != "evaluate"
    except ConfigError:
        return True


def _views(folders: Sequence[Path], systems: Sequence[System]) -> list[RunView]:
    """One view for each system, in the systems' order, with its controls."""
    names = [folder.name for folder in folders]
    order = {system.name: index for index, system in enumerate(systems)}
    owner = {name: next((other for other in names if name.startswith(f"{other}-")), "") for name in names}
    main = sorted((f for f in folders if not owner[f.name]), key=lambda f: (order.get(f.name, len(order)), f.name))
    num_cards = max(4, _NUM_CARDS // max(1, len(main)))
    return [
        view_run(
            folder,
            num_cards,
            {other.name[len(folder.name) + 1 :]: other for other in folders if owner[other.name] == folder.name},
        )
        for folder in main
    ]


def _systems(run: Path) -> tuple[tuple[System, ...], list[str]]:
    path = run / "results.json"
    if not path.is_file():
        return (), ["Not evaluated yet: it is not known what changed."]
    try:
        results = read_results(path)
        alone = System(visible(results.run or run.resolve().name, 80), results.sections)
        return results.primary_first or (alone,), []
    except DataError as error:
        return (), [f"The results cannot be shown. {visible(error, 400)}"]


def _view_system(system: System, shared: bool) -> SystemView:
    """`shared`: a table of all systems already has the measures, so that only controls need a table of their own."""
    alone = all(metric.aligned is None for _, metric in system.figures)
    single = [
        SingleRow(
            f"{section_title(section)} {label(metric.name, metric.better)}",
            number(metric.base),
            between(metric.low, metric.high),
            _notes(metric),
        )
        for section, metric in system.figures
        if alone
    ]
    return SystemView(
        name=system_title(system.name),
        table=None if alone or (shared and not system.controls) else system_table(system),
        single=tuple(single),
        forest=forest_plot(system),
        controls=tuple(control_sentences(system)),
        details=tuple(detail_tables(system)),
        settings=tuple(group_settings(system)),
        printed=printed_beside(system),
    )


def _notes(metric: Metric) -> str:
    texts = [f"{metric.num_items} items"] if metric.num_items is not None else []
    return ", ".join([*texts, *(f"{text} unparsed" for text in [unparsed(metric)] if text)])


def _subtitle(runs: Sequence[RunView], systems: Sequence[System], compared: Sequence[System]) -> str:
    models = {dict(view.facts).get("model", "") for view in runs} - {""}
    what = "base and aligned model compared" if compared else "one model" if systems else "a run, not evaluated yet"
    return f"{what}: {', '.join(sorted(models))}" if models else what
