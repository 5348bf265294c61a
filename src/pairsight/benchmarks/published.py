"""What papers printed of the same model, to stand beside our figures, with the settings that differ.

`published.csv` holds every table cell of the three papers (paper, table, row, benchmark, value as printed), and for
rows of a model that can be evaluated here its name, our metric and the factor of the printed scale.
"""

import csv
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_SIZES: Mapping[str, tuple[int, ...]] = {
    "amber": (15_220,), "chair": (500,), "gqa": (12_578,), "mmbench": (4_377,), "mmbench_cn": (4_329, 4_377),
    "mme": (2_374,), "object_halbench": (300,), "pope": (8_910, 9_000), "scienceqa": (2_017,),
    "seed_bench": (14_233,), "textvqa": (5_000,), "vqav2": (107_394,),
}  # fmt: skip
"""How many questions a benchmark has in full."""

_MODELS = (
    (re.compile(r"llava[-_ ]?(?:v)?1[._]5[-_ ]?(?:vicuna[-_ ]?)?7b"), "llava-1.5-7b"),
    (re.compile(r"llava[-_ ]?(?:v)?1[._]5[-_ ]?(?:vicuna[-_ ]?)?13b"), "llava-1.5-13b"),
)


@dataclass(frozen=True, slots=True)
class Published:
    """One printed cell. `metric` is `benchmark.metric` of ours where there is one, `scale` what it is divided by."""

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


@functools.cache
def published_cells() -> tuple[Published, ...]:
    """All cells of the three papers' tables."""
    text = files("pairsight.benchmarks").joinpath("published.csv").read_text(encoding="utf-8")
    found = []
    for paper, table, row, benchmark, value, model, metric, scale, note in list(csv.reader(text.splitlines()))[1:]:
        found.append(Published(paper, table, row, benchmark, value, model, metric, float(scale or 1), note))
    return tuple(found)


def known_model(reference: str) -> str:
    """What the papers call the model of a reference (a folder or hub name); empty when they do not have it."""
    name = reference.lower()
    return next((model for pattern, model in _MODELS if pattern.search(name)), "")


def published_beside(model: str, benchmark: str, section: Mapping[str, Any], own_suffix: str) -> list[dict[str, Any]]:
    """The printed figures of a model on a benchmark, for its part of `results.json`.

    Args:
        model: the base model's reference.
        benchmark: the benchmark's name.
        section: our part: its settings and metrics.
        own_suffix: the benchmark's own prompt suffix.

    Returns:
        One mapping per printed cell: metric, value (our unit), paper, table, row, note, differs (which settings of ours
        are not those of the print).
    """
    name = known_model(model)
    if not name:
        return []
    differs = differing_settings(benchmark, section, own_suffix)
    found = []
    for cell in published_cells():
        theirs, _, metric = cell.metric.partition(".")
        if cell.model == name and theirs == benchmark and metric in section["metrics"]:
            found.append(
                {"metric": metric, "value": cell.fraction, "paper": cell.paper, "table": cell.table, "row": cell.row,
                 "note": cell.note, "differs": differs}
            )  # fmt: skip
    return found


def differing_settings(benchmark: str, section: Mapping[str, Any], own_suffix: str) -> list[str]:
    """Which of our settings are not those under which LLaVA-1.5's figures are published, in words."""
    differs = []
    if section["parser"] != "official":
        differs.append(f"parser {section['parser']}")
    if section.get("temperature", 0) != 0:
        differs.append(f"temperature {section['temperature']} instead of greedy")
    if section.get("prompt_suffix", own_suffix) != own_suffix:
        differs.append(f"prompt suffix {section['prompt_suffix']!r} instead of {own_suffix!r}")
    sizes = _SIZES.get(benchmark)
    if sizes and section["rows"] not in sizes:
        differs.append(f"{section['rows']} questions instead of {' or '.join(map(str, sizes))}")
    if sum(section["failed"].values()):
        differs.append("some questions failed")
    return differs
