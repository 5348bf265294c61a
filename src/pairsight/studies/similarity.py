"""Similarity of the completions of a prompt, and of the prompts of a set: the mean cosine of their embeddings.

Source: PDS-DPO 2412.17417, Fig. 6; the paper does not specify the pairs, so they are drawn at random (ours).
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pairsight.errors import DataError
from pairsight.plots import bars
from pairsight.records import Candidates, PreferencePair
from pairsight.statistics import Estimate, cluster_bootstrap
from pairsight.studies.result import StudyResult

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""N texts -> N × D unit vectors."""


@dataclass(frozen=True, slots=True)
class PromptTexts:
    """The texts of a prompt: its question and completions."""

    question: str
    completions: tuple[str, ...]


def prompt_texts(items: Iterable[Candidates | PreferencePair]) -> list[PromptTexts]:
    """The questions and completions of candidates, or of preference pairs from any data set."""
    found = []
    for one in items:
        completions = one.completions if isinstance(one, Candidates) else (one.chosen, *one.rejected)
        found.append(PromptTexts(one.prompt.question, tuple(completion.text for completion in completions)))
    return found


def similarity(
    sets: Mapping[str, Sequence[PromptTexts]], embed: Embed, embedding_model: str, num_pairs: int = 2000, seed: int = 0
) -> StudyResult:
    """Mean similarity between the completions of one prompt, and between the prompts, of each set.

    Args:
        sets: name -> prompts with completions.
        embed: computes unit vectors.
        embedding_model: the embedding model's name, shown with the results.
        num_pairs: the maximum number of pairs of each kind to draw.
        seed: the seed of the draw.

    Raises:
        DataError: a set with fewer than two prompts, or without a prompt with two completions.
    """
    rows: list[tuple[str, str, float, float, float, int]] = []
    for name, items in sets.items():
        draw = random.Random(f"{seed}:{name}")
        within = [(index, a, b) for index, one in enumerate(items) for a, b in combinations(one.completions, 2)]
        if len(items) < 2 or not within:
            raise DataError(f"similarity of '{name}' needs two prompts and a prompt with two completions")
        within = draw.sample(within, min(num_pairs, len(within)))
        across = [tuple(draw.sample(range(len(items)), 2)) for _ in range(min(num_pairs, len(items) * 4))]
        for kind, pairs, clusters in (
            ("completions of one prompt", [(a, b) for _, a, b in within], [index for index, _, _ in within]),
            ("prompts", [(items[a].question, items[b].question) for a, b in across], [a for a, _ in across]),
        ):
            estimate = _mean_cosine(pairs, clusters, embed)
            rows.append((name, kind, estimate.value, estimate.low, estimate.high, len(pairs)))
    kinds = ("completions of one prompt", "prompts")
    return StudyResult(
        "similarity",
        f"Similarity of completions and prompts ({embedding_model})",
        ("set", "between", "mean_cosine", "low", "high", "num_pairs"),
        tuple(rows),
        bars(
            list(sets),
            {kind: [row[2] for row in rows if row[1] == kind] for kind in kinds},
            x_label=f"mean cosine ({embedding_model})",
            alt="mean similarity between completions of a prompt and between prompts",
        ),
        f"Mean cosine of embeddings by {embedding_model}; pairs drawn by seed, intervals over prompts. "
        "Lower is more diverse.",
    )


def _mean_cosine(pairs: Sequence[tuple[str, str]], clusters: Sequence[int], embed: Embed) -> Estimate:
    texts = sorted({text for pair in pairs for text in pair})
    vectors = dict(zip(texts, embed(texts), strict=True))
    cosines = [[float(vectors[a] @ vectors[b]), 1.0] for a, b in pairs]
    return cluster_bootstrap(np.array(cosines), clusters, lambda s: {"cosine": s[:, 0] / s[:, 1]})["cosine"]
