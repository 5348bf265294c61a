"""Example pairs, evenly spaced through the data so that nobody picked them, and the curves of trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairsight import plots
from pairsight.bounded import MOST_JSON_BYTES, MOST_YAML_BYTES, load_json, text_start
from pairsight.formats.tables import num_words
from pairsight.images.source import ImageSource
from pairsight.records import Completion, PreferencePair
from pairsight.reporting.page import Thumbnail, marked_differences, thumbnail, visible
from pairsight.training.config import TrainingSummary


@dataclass(frozen=True, slots=True)
class Rating:
    """One annotator's scores and critique of a completion."""

    annotator: str
    scores: tuple[tuple[str, str], ...]
    critique: str


@dataclass(frozen=True, slots=True)
class Side:
    """A completion on the page: its text in pieces (marked where the other side differs) and its ratings."""

    pieces: list[tuple[str, bool]]
    words: int
    model: str
    ratings: tuple[Rating, ...]


@dataclass(frozen=True, slots=True)
class PairCard:
    """One pair on the page."""

    id: str
    images: tuple[Thumbnail, ...]
    earlier: tuple[tuple[str, str], ...]
    question: str
    chosen: Side
    rejected: Side
    num_more_rejected: int


def evenly_spaced(pairs: Sequence[PreferencePair], count: int) -> list[PreferencePair]:
    """`count` pairs at equal distances from first to last, or all when there are fewer."""
    if len(pairs) <= count:
        return list(pairs)
    return [pairs[(2 * index + 1) * len(pairs) // (2 * count)] for index in range(count)]


def pair_cards(pairs: Sequence[PreferencePair], images: ImageSource | None) -> list[PairCard]:
    """The cards of these pairs, in order."""
    return [_card(pair, images) for pair in pairs]


def _card(pair: PreferencePair, images: ImageSource | None) -> PairCard:
    rejected = pair.rejected[0]
    refs = list(pair.prompt.images)
    for other in (pair.chosen.images, rejected.images, pair.contrast_images):
        refs += [ref for ref in other or () if ref not in refs]
    return PairCard(
        id=visible(pair.id, 120),
        images=tuple(thumbnail(ref, images) for ref in refs[:4]),
        earlier=tuple((visible(m.role, 40), visible(m.text)) for m in pair.prompt.messages[:-1]),
        question=visible(pair.prompt.question) or "(no question)",
        chosen=_side(pair, pair.chosen, rejected),
        rejected=_side(pair, rejected, pair.chosen),
        num_more_rejected=len(pair.rejected) - 1,
    )


def _side(pair: PreferencePair, completion: Completion, other: Completion) -> Side:
    ratings = tuple(
        Rating(
            visible(a.annotator, 80),
            tuple((visible(name, 40), f"{score:g}") for name, score in a.scores.items()),
            visible(a.critique),
        )
        for a in pair.annotations
        if a.completion_id == completion.id
    )
    return Side(
        pieces=marked_differences(completion.text, other.text),
        words=num_words(completion.text),
        model=visible(completion.model, 80),
        ratings=ratings,
    )


QUANTITIES = {
    "loss": (None, "the loss per prompt"),
    "rewards/margins": (0.0, "implicit reward of chosen minus rejected"),
    "rewards/accuracies": (0.5, "share of pairs whose chosen has the higher implicit reward; dashed: chance"),
    "logps/chosen": (None, "log-probability of the chosen completions under the policy"),
    "drift/chosen": (0.0, "log-probability of the chosen completions, policy minus reference"),
    "drift/length": (0.0, "change of the expected length in tokens, the pairs' completions reweighted by the policy"),
}
"""Quantity -> (a level to mark, a description)."""

_MOST_POINTS = 300


@dataclass(frozen=True, slots=True)
class Training:
    """The logged numbers of one adapter: quantity -> (steps, values)."""

    name: str
    series: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    settings: str
    summary: TrainingSummary | None = None

    def sentences(self) -> tuple[str, ...]:
        """What it was trained on and for how many steps, with warnings."""
        return () if self.summary is None else (f"{self.name}: {self.summary}", *self.summary.sentences())


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure with its caption, and the first and last value of each line."""

    quantity: str
    caption: str
    svg: str
    ends: tuple[tuple[str, str], ...]


def read_trainings(run: Path) -> list[Training]:
    """All trainings of a run, sorted by name.

    A line that a crash cut short is skipped; of a step that was logged again after resuming, the last line is used.
    """
    trainings = []
    for folder in sorted(path for path in (run / "align").glob("*") if path.is_dir()):
        text = text_start(folder / "align.yaml", MOST_YAML_BYTES)
        series, summary = _series(folder / "metrics.jsonl"), TrainingSummary.read(folder)
        trainings.append(Training(visible(folder.name, 60), series, text, summary))
    return trainings


def draw_curves(trainings: Sequence[Training]) -> list[Curve]:
    """One figure for each logged quantity."""
    curves = []
    for quantity, (level, what) in QUANTITIES.items():
        lines = {t.name: t.series[quantity] for t in trainings if quantity in t.series}
        if not lines:
            continue
        ends = tuple((name, f"{_figure(y[0])} → {_figure(y[-1])}") for name, (_, y) in lines.items())
        alt = f"{quantity} over training steps: " + "; ".join(f"{name} {change}" for name, change in ends)
        thinned = {name: (_thin(x), _thin(y)) for name, (x, y) in lines.items()}
        svg = plots.lines(thinned, x_label="step", y_label=quantity, alt=alt, level=level)
        curves.append(Curve(quantity, what, svg, ends))
    return curves


def _series(path: Path) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    points: dict[str, dict[float, float]] = {}
    for number, line in enumerate(text_start(path, MOST_JSON_BYTES).split("\n")):
        try:
            row = load_json(line)
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        step = row.get("step", number)
        for quantity in QUANTITIES:
            value = row.get(quantity)
            if isinstance(value, int | float) and isinstance(step, int | float):
                points.setdefault(quantity, {})[float(step)] = float(value)
    return {quantity: (tuple(sorted(at)), tuple(at[step] for step in sorted(at))) for quantity, at in points.items()}


def _figure(value: float) -> str:
    """A value with three digits; 0 for rounding errors."""
    return "0" if abs(value) < 1e-5 else f"{value:.3g}".replace("-", "−")


def _thin(values: Sequence[float]) -> tuple[float, ...]:
    """At most `_MOST_POINTS` of the values, the last one included."""
    stride = -(-len(values) // _MOST_POINTS)
    thinned = tuple(values[::stride]) if stride else ()
    return thinned if not stride or (len(values) - 1) % stride == 0 else (*thinned, values[-1])
