"""Training curves from `align/*/metrics.jsonl`: one figure a quantity, one line a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairsight import plots
from pairsight.bounded import MOST_JSON_BYTES, MOST_YAML_BYTES, load_json, text_start
from pairsight.reporting.visible import visible
from pairsight.training.summary import TrainingSummary

QUANTITIES = {
    "loss": (None, "the loss per prompt"),
    "rewards/margins": (0.0, "implicit reward of chosen minus rejected"),
    "rewards/accuracies": (0.5, "share of pairs whose chosen has the higher implicit reward; dashed: chance"),
    "logps/chosen": (None, "log-probability of the chosen completions under the policy"),
    "drift/chosen": (0.0, "log-probability of the chosen completions, policy minus reference"),
    "drift/length": (0.0, "change of the expected length in tokens, the pairs' completions reweighted by the policy"),
}
"""Quantity -> (a level to mark, what it is)."""

_MOST_POINTS = 300


@dataclass(frozen=True, slots=True)
class Training:
    """The logged numbers of one adapter: quantity -> (steps, values)."""

    name: str
    series: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    settings: str
    summary: TrainingSummary | None = None

    def sentences(self) -> tuple[str, ...]:
        """What it was trained on and how far, and what is worth knowing of it."""
        return () if self.summary is None else (f"{self.name}: {self.summary}", *self.summary.sentences())


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure with its caption and where each line began and ended."""

    quantity: str
    caption: str
    svg: str
    ends: tuple[tuple[str, str], ...]


def read_trainings(run: Path) -> list[Training]:
    """All trainings of a run, by name.

    A line that was cut short by a crash is passed over; of a step that was logged again after resuming, the last
    line counts.
    """
    trainings = []
    for folder in sorted(path for path in (run / "align").glob("*") if path.is_dir()):
        text = text_start(folder / "align.yaml", MOST_YAML_BYTES)
        series, summary = _series(folder / "metrics.jsonl"), TrainingSummary.read(folder)
        trainings.append(Training(visible(folder.name, 60), series, text, summary))
    return trainings


def draw_curves(trainings: Sequence[Training]) -> list[Curve]:
    """The figures of what was logged."""
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
    """Three digits; what is nothing but rounding is 0."""
    return "0" if abs(value) < 1e-5 else f"{value:.3g}".replace("-", "−")


def _thin(values: Sequence[float]) -> tuple[float, ...]:
    """At most `_MOST_POINTS` of the values, the last one included."""
    stride = -(-len(values) // _MOST_POINTS)
    thinned = tuple(values[::stride]) if stride else ()
    return thinned if not stride or (len(values) - 1) % stride == 0 else (*thinned, values[-1])
