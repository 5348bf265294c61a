"""The files that MM-Vet's script writes: grades, and its figures by capability and by combination."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import write_json
from pairsight.store.durable import write_file


class Grades(TypedDict):
    """An entry of the script's file of grades: one of each a run."""

    model: list[str]
    content: list[str]
    score: list[float]


Figures = Mapping[str, float | str]
"""A column of the script's tables -> its value."""


def by_capability(capabilities: Mapping[str, frozenset[str]], scores: Mapping[str, Sequence[float]]) -> Figures:
    """The script's figures by capability: 100 · sum of scores / number of questions, averaged over runs, to one digit.

    Args:
        capabilities: question -> what it needs.
        scores: question -> its score in each run.
    """
    counts = Counter(one for needed in capabilities.values() for one in needed)
    columns = {name: {id for id, needed in capabilities.items() if name in needed} for name, _ in counts.most_common()}
    return _figures(columns, capabilities, scores)


def by_combination(capabilities: Mapping[str, frozenset[str]], scores: Mapping[str, Sequence[float]]) -> Figures:
    """The script's figures by combination of capabilities; see `by_capability`."""
    counts = Counter(capabilities.values())
    columns = {
        "_".join(sorted(needed)): {id for id, other in capabilities.items() if other == needed}
        for needed, _ in counts.most_common()
    }
    return _figures(columns, capabilities, scores)


def _figures(
    columns: Mapping[str, set[str]], all_ids: Collection[str], scores: Mapping[str, Sequence[float]]
) -> Figures:
    runs = len(next(iter(scores.values()), ()))

    def percent(ids: set[str]) -> NDArray[np.float64]:
        sums = [0.0] * runs
        for name, of_runs in scores.items():  # in the script's order, so that sums are equal to the last bit
            if name in ids:
                sums = [total + score for total, score in zip(sums, of_runs, strict=True)]
        return np.array(sums) / len(ids) * 100

    total = percent(set(all_ids))
    means = {name: round(float(percent(ids).mean()), 1) for name, ids in columns.items()}
    by_run = "[" + ", ".join(f"{value:.1f}" for value in total) + "]"
    return {**means, "total": round(float(total.mean()), 1), "std": round(float(total.std()), 1), "runs": by_run}


def _table(path: Path, model: str, figures: Figures) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["", *figures], [model, *figures.values()]])
    write_file(path, text.getvalue().encode())
    return path


def write_grades(
    folder: Path, stem: str, model: str, needed: Mapping[str, Sequence[str]], grades: Mapping[str, Grades]
) -> list[Path]:
    """Write the grades and both tables of figures, named as the script names them; returns their paths.

    Args:
        folder: the folder to write to.
        stem: how their names begin, MODEL_JUDGE.
        model: the model that answered.
        needed: question -> the capabilities it needs.
        grades: question -> its grades.
    """
    runs = f"{len(next(iter(grades.values()))['score']) if grades else 0}runs"
    scores = {name: entry["score"] for name, entry in grades.items()}
    capabilities = {name: frozenset(names) for name, names in needed.items()}
    return [
        write_json(folder / f"{stem}-grade-{runs}.json", grades),
        _table(folder / f"{stem}-cap-score-{runs}.csv", model, by_capability(capabilities, scores)),
        _table(folder / f"{stem}-cap-int-score-{runs}.csv", model, by_combination(capabilities, scores)),
    ]
