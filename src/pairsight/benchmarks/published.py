"""Figures that papers printed of the same model, to show beside ours, with the settings that differ.

`published.csv` holds every table cell of the three papers (paper, table, row, benchmark, value as printed) and, for
models that can be evaluated here, the model's name, our metric and the factor of the printed scale.
"""

import csv
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Self

Scalar = str | int | float | bool | None
"""A value of an evaluation's settings."""

_SIZES: Mapping[str, tuple[int, ...]] = {
    "amber": (15_220,), "chair": (500,), "gqa": (12_578,), "mmbench": (4_377,), "mmbench_cn": (4_329, 4_377),
    "mme": (2_374,), "object_halbench": (300,), "pope": (8_910, 9_000), "scienceqa": (2_017,),
    "seed_bench": (14_233,), "textvqa": (5_000,), "vqav2": (107_394,),
}  # fmt: skip
"""The number of questions in the complete benchmark."""

_MODELS = (
    (re.compile(r"llava[-_ ]?(?:v)?1[._]5[-_ ]?(?:vicuna[-_ ]?)?7b"), "llava-1.5-7b"),
    (re.compile(r"llava[-_ ]?(?:v)?1[._]5[-_ ]?(?:vicuna[-_ ]?)?13b"), "llava-1.5-13b"),
)


@dataclass(frozen=True, slots=True)
class Published:
    """One printed cell. `metric`: our `benchmark.metric`, if there is one; `scale`: divides the printed value."""

    paper: str
    table: str
    row: str
    benchmark: str
    value: str
    model: str
    metric: str
    scale: float
    note: str

    @property
    def fraction(self) -> float:
        """The printed number in our unit."""
        return float(self.value.rstrip("%")) / self.scale


@dataclass(frozen=True, slots=True)
class PrintedFigure:
    """A figure that a paper printed of this model, in our unit, and which of our settings differ from the paper's."""

    metric: str
    value: float | None
    paper: str = ""
    table: str = ""
    row: str = ""
    note: str = ""
    differs: tuple[str, ...] = ()

    @classmethod
    def from_plain(cls, plain: Mapping[str, object]) -> Self:
        """An entry of `published` in `results.json`."""
        texts = {name: str(plain.get(name) or "") for name in ("metric", "paper", "table", "row", "note")}
        value, differs = plain.get("value"), plain.get("differs")
        return cls(
            **texts,
            value=float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None,
            differs=tuple(map(str, differs)) if isinstance(differs, list) else (),
        )

    def to_plain(self) -> dict[str, object]:
        """The figure as JSON."""
        names = ("metric", "value", "paper", "table", "row", "note")
        return {name: getattr(self, name) for name in names} | {"differs": list(self.differs)}


def printed_figures(plain: object) -> tuple[PrintedFigure, ...]:
    """The `published` of a section in `results.json`; items that are not objects are ignored."""
    items = plain if isinstance(plain, list) else ()
    return tuple(PrintedFigure.from_plain(item) for item in items if isinstance(item, Mapping))


@functools.cache
def published_cells() -> tuple[Published, ...]:
    """All cells of the three papers' tables."""
    text = files("pairsight.benchmarks").joinpath("published.csv").read_text(encoding="utf-8")
    found = []
    for paper, table, row, benchmark, value, model, metric, scale, note in list(csv.reader(text.splitlines()))[1:]:
        found.append(Published(paper, table, row, benchmark, value, model, metric, float(scale or 1), note))
    return tuple(found)


def known_model(model_name: str) -> str:
    """The papers' name for a model by its folder or hub name; "" if they do not evaluate it."""
    name = model_name.lower()
    return next((model for pattern, model in _MODELS if pattern.search(name)), "")


def published_figures(
    model: str,
    benchmark: str,
    own_suffix: str,
    *,
    settings: Mapping[str, Scalar],
    metrics: Collection[str],
    any_failed: bool,
) -> tuple[PrintedFigure, ...]:
    """The printed figures of a model on a benchmark, one per printed cell.

    Args:
        model: the base model's name.
        benchmark: the benchmark's name.
        own_suffix: the benchmark's own prompt suffix.
        settings: the settings of our figures.
        metrics: the names of our metrics.
        any_failed: whether some questions have no answer.
    """
    name = known_model(model)
    if not name:
        return ()
    differs = differing_settings(benchmark, own_suffix, settings, any_failed)
    found = []
    for cell in published_cells():
        measured, _, metric = cell.metric.partition(".")
        if cell.model == name and measured == benchmark and metric in metrics:
            found.append(PrintedFigure(metric, cell.fraction, cell.paper, cell.table, cell.row, cell.note, differs))
    return tuple(found)


def differing_settings(
    benchmark: str, own_suffix: str, ours: Mapping[str, Scalar], any_failed: bool
) -> tuple[str, ...]:
    """Which of our settings differ from those of LLaVA-1.5's published figures, in words."""
    differs = []
    if ours["parser"] != "official":
        differs.append(f"parser {ours['parser']}")
    if ours.get("temperature", 0) != 0:
        differs.append(f"temperature {ours['temperature']} instead of greedy")
    if ours.get("prompt_suffix", own_suffix) != own_suffix:
        differs.append(f"prompt suffix {ours['prompt_suffix']!r} instead of {own_suffix!r}")
    sizes = _SIZES.get(benchmark)
    if sizes and ours["rows"] not in sizes:
        differs.append(f"{ours['rows']} questions instead of {' or '.join(map(str, sizes))}")
    if any_failed:
        differs.append("some questions failed")
    return tuple(differs)
