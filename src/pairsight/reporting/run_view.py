"""One run folder as the page shows it: its data, trainings and settings, and a sentence on each missing part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pairsight.bounded import MOST_YAML_BYTES, load_yaml, read_json, text_start
from pairsight.build_record import BuildRecord
from pairsight.errors import PairsightError
from pairsight.inspection.dataset import Dataset, Unrated, read_dataset
from pairsight.inspection.describe import Inspection, lengths_in_words
from pairsight.inspection.figures import Section, sections
from pairsight.inspection.inspect import inspect_dataset
from pairsight.inspection.measures import LengthMeter
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
from pairsight.reporting.reproduce import TrainingRecord, align_command, build_command
from pairsight.reporting.words import control_title, system_title

_FACTS = ("recipe", "model", "annotator", "writer", "strategy", "prompts", "num_prompts", "images", "seed", "limit")
"""What the page says of a run's settings; the complete file is one click away."""

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
    """Read one run folder; each missing or damaged part is replaced by a sentence.

    Args:
        run: the run folder.
        num_cards: how many pairs to show.
        controls: name -> run folder of the runs that this one is compared with; their trainings join its curves.
    """
    dataset, inspection, problem = _inspected(run)
    own = read_trainings(run)
    beside = {name: read_trainings(path) for name, path in (controls or {}).items()}
    text = text_start(run / "run.yaml", MOST_YAML_BYTES)
    build = BuildRecord.from_plain(_content(text))
    pairs = dataset.pairs if dataset else ()
    found = sections(inspection) if inspection and pairs else []
    return RunView(
        name=system_title(run.name),
        notes=(problem,) if problem else (),
        funnel=_funnel(dataset, inspection),
        dropped=_dropped(inspection.dropped) if inspection else (),
        sections=(*found, *_control_sections(controls or {})),
        curves=tuple(draw_curves([*own, *_renamed(beside)])),
        trained=tuple(sentence for training in own for sentence in training.sentences()),
        no_training=_no_training(own),
        cards=tuple(pair_cards(evenly_spaced(pairs, num_cards), dataset.images if dataset else None)),
        no_pairs=problem or "No pair was made from these prompts; what was left out is listed above.",
        facts=tuple(_facts(build)),
        commands=tuple(_commands(run, build, own)),
        files=tuple(_files(text, own)),
        versions=_versions(run / "versions.json"),
    )


def _inspected(run: Path) -> tuple[Dataset | None, Inspection | None, str]:
    """A run's data and what was found in it, or why there is none."""
    try:
        dataset = read_dataset(run)
        return dataset, inspect_dataset(dataset), ""
    except PairsightError as error:
        return None, None, visible(error, 600)


def _control_sections(controls: Mapping[str, Path]) -> list[Section]:
    """A control's data in a few sentences, for comparison with the system's own."""
    found = []
    for name, path in controls.items():
        try:
            dataset = read_dataset(path)
            words = [f"{len(dataset.pairs):,} pairs of {dataset.num_prompts:,} prompts"]
            words += lengths_in_words(LengthMeter().of(Unrated(dataset.pairs)))
        except PairsightError as error:
            words = [visible(error, 600)]
        found.append(Section(control_title(name).capitalize(), tuple(words), ()))
    return found


def _renamed(beside: Mapping[str, Sequence[Training]]) -> list[Training]:
    return [
        replace(training, name=control_title(name) if len(trainings) == 1 else f"{name} {training.name}")
        for name, trainings in beside.items()
        for training in trainings
    ]


def _funnel(dataset: Dataset | None, inspection: Inspection | None) -> tuple[tuple[str, int], ...]:
    if dataset is None or inspection is None:
        return ()
    steps = {
        "prompts": dataset.num_prompts,
        "completions": dataset.num_completions,
        "annotated": inspection.num_annotated,
        "pairs": len(dataset.pairs),
        "demonstrations": dataset.num_demonstrations,
    }
    return tuple((name, count) for name, count in steps.items() if count or name == "pairs")


def _dropped(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The most frequent reasons, each a short word."""
    return tuple((visible(reason, 120), count) for reason, count in list(counts.items())[:_MOST_REASONS])


def _no_training(trainings: Sequence[Training]) -> str:
    if trainings:
        return "A training was started and has logged nothing yet."
    return "Not aligned yet: this folder has no training. `pairsight align` makes one."


def _facts(build: BuildRecord) -> list[tuple[str, str]]:
    facts = []
    strategy = build.strategy.name if build.strategy is not None else ""
    other = {"recipe": build.recipe.name, "strategy": strategy, "num_prompts": build.num_prompts}
    for name in _FACTS:
        value = other[name] if name in other else build.options.get(name)
        if isinstance(value, Mapping):
            value = [f"{source}={one}" if source else one for source, one in value.items()]
        if isinstance(value, list):
            value = ", ".join(str(one) for one in value)
        if value not in (None, "", []):
            facts.append((name.replace("_", " "), visible(value, 300)))
    return facts


def _commands(run: Path, build: BuildRecord, trainings: Sequence[Training]) -> list[str]:
    commands = build_command(run, build)
    for training in trainings:
        selection = text_start(run / "align" / training.name / "selection.yaml", MOST_YAML_BYTES)
        record = TrainingRecord.from_plain(training.name, _content(training.settings), _content(selection))
        commands += align_command(run, record, build)
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


def _content(text: str) -> object:
    """What a YAML text says; None where it is not YAML."""
    try:
        content: object = load_yaml(text)
    except ValueError:
        return None
    return content
