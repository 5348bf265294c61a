"""One run folder as the page shows it: its data, trainings, settings, and what is missing in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pairsight.bounded import MOST_YAML_BYTES, load_yaml, read_json, text_start
from pairsight.errors import PairsightError
from pairsight.inspection.dataset import Dataset, read_dataset
from pairsight.inspection.describe import lengths_in_words
from pairsight.inspection.figures import Section, sections
from pairsight.inspection.inspect import inspect_dataset
from pairsight.inspection.measures import measure_lengths
from pairsight.reporting.gallery import (
    Curve,
    PairCard,
    Training,
    draw_curves,
    evenly_spaced,
    pair_cards,
    read_trainings,
)
from pairsight.reporting.page import visible
from pairsight.reporting.reproduce import align_command, build_command, recipe_of, strategy_of
from pairsight.reporting.words import control_title, system_title

_FACTS = ("recipe", "model", "annotator", "writer", "strategy", "prompts", "num_prompts", "images", "seed", "limit")
"""Options of a run that stand in sight; the whole file is one click away."""


_MOST_REASONS = 30


@dataclass(frozen=True, slots=True)
class RunView:
    """What the template shows of one run."""

    name: str
    notes: tuple[str, ...]
    funnel: tuple[tuple[str, int], ...]
    dropped: tuple[tuple[str, int], ...]
    sections: tuple[Section, ...]
    curves: tuple[Curve, ...]
    trained: tuple[str, ...]
    no_training: str
    cards: tuple[PairCard, ...]
    no_pairs: str
    facts: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    versions: Mapping[str, str]


def view_run(run: Path, num_cards: int, controls: Mapping[str, Path] | None = None) -> RunView:
    """Read one run folder; every part that is missing or damaged becomes a sentence instead.

    Args:
        run: the run folder.
        num_cards: how many pairs to show.
        controls: name -> run folder of runs that this one is held against; their trainings join its curves.
    """
    dataset, problem = _dataset(run)
    inspection = inspect_dataset(dataset) if dataset else None
    own = read_trainings(run)
    beside = {name: read_trainings(path) for name, path in (controls or {}).items()}
    text = text_start(run / "run.yaml", MOST_YAML_BYTES)
    config = _mapping(text)
    pairs = dataset.pairs if dataset else ()
    found = sections(inspection) if inspection and pairs else []
    return RunView(
        name=system_title(run.name),
        notes=(problem,) if problem else (),
        funnel=_funnel(dataset),
        dropped=_dropped(inspection.dropped) if inspection else (),
        sections=(*found, *_control_sections(controls or {})),
        curves=tuple(draw_curves([*own, *_renamed(beside)])),
        trained=tuple(sentence for training in own for sentence in training.sentences()),
        no_training=_no_training(own),
        cards=tuple(pair_cards(evenly_spaced(pairs, num_cards), dataset.images if dataset else None)),
        no_pairs=problem or "No pair was made from these prompts; see what was left out above.",
        facts=tuple(_facts(config)),
        commands=tuple(_commands(run, config, own)),
        files=tuple(_files(text, own)),
        versions=_versions(run / "versions.json"),
    )


def _dataset(run: Path) -> tuple[Dataset | None, str]:
    try:
        return read_dataset(run), ""
    except PairsightError as error:
        return None, visible(error, 600)


def _control_sections(controls: Mapping[str, Path]) -> list[Section]:
    """A control's data in a few sentences, to be held against the system's own."""
    found = []
    for name, path in controls.items():
        dataset, problem = _dataset(path)
        words = [problem] if dataset is None else [f"{len(dataset.pairs):,} pairs of {dataset.num_prompts:,} prompts"]
        words += lengths_in_words(measure_lengths(dataset.pairs)) if dataset else []
        found.append(Section(control_title(name).capitalize(), tuple(words), ()))
    return found


def _renamed(beside: Mapping[str, Sequence[Training]]) -> list[Training]:
    return [
        replace(training, name=control_title(name) if len(trainings) == 1 else f"{name} {training.name}")
        for name, trainings in beside.items()
        for training in trainings
    ]


def _funnel(dataset: Dataset | None) -> tuple[tuple[str, int], ...]:
    if dataset is None:
        return ()
    steps = {
        "prompts": dataset.num_prompts,
        "completions": dataset.num_completions,
        "annotated": len({a.completion_id for a in dataset.annotations}),
        "pairs": len(dataset.pairs),
        "demonstrations": dataset.num_demonstrations,
    }
    return tuple((name, count) for name, count in steps.items() if count or name == "pairs")


def _dropped(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The commonest reasons; a reason is a short word, so that there are few."""
    return tuple((visible(reason, 120), count) for reason, count in list(counts.items())[:_MOST_REASONS])


def _no_training(trainings: Sequence[Training]) -> str:
    if trainings:
        return "A training was begun, but it has logged nothing yet."
    return "Not aligned yet: there is no training in this folder. `pairsight align` makes one."


def _facts(config: Mapping[str, object]) -> list[tuple[str, str]]:
    facts = []
    for name in _FACTS:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("name")
        if isinstance(value, list):
            value = ", ".join(str(one) for one in value)
        if value not in (None, "", []):
            facts.append((name.replace("_", " "), visible(value, 300)))
    return facts


def _commands(run: Path, config: Mapping[str, object], trainings: Sequence[Training]) -> list[str]:
    commands = build_command(run, config)
    for training in trainings:
        commands += align_command(
            run,
            training.name,
            _mapping(training.settings),
            recipe_of(config),
            selection=_mapping(text_start(run / "align" / training.name / "selection.yaml", MOST_YAML_BYTES)),
            built_with=strategy_of(config),
        )
    return commands


def _files(settings: str, trainings: Sequence[Training]) -> list[tuple[str, str]]:
    files = [("run.yaml", visible(settings, 20_000))] if settings else []
    return files + [(f"align/{t.name}/align.yaml", visible(t.settings, 20_000)) for t in trainings if t.settings]


def _versions(path: Path) -> dict[str, str]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    packages = content.get("packages") if isinstance(content, dict) else None
    if not isinstance(packages, dict):
        return {}
    return {visible(name, 60): visible(value, 120) for name, value in packages.items()}


def _mapping(text: str) -> Mapping[str, object]:
    try:
        content = load_yaml(text)
    except ValueError:
        return {}
    return (
        {name: value for name, value in content.items() if isinstance(name, str)} if isinstance(content, dict) else {}
    )
