"""Studies of scores: distributions, and disagreement of text-only and image-aware completion scorers."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, pstdev

import numpy as np

from pairsight.errors import DataError
from pairsight.plots import bars, histogram
from pairsight.records import Candidates
from pairsight.statistics import cluster_bootstrap
from pairsight.studies.result import StudyResult


def image_score_distributions(candidates: Sequence[Candidates], scorer: str) -> StudyResult:
    """The distribution of an image scorer's scores at each guidance scale.

    Raises:
        DataError: the run has no such image scorer.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for one in candidates:
        for image in sorted(one.images, key=lambda image: image.guidance_scale):
            if scorer in image.scores:
                groups[f"guidance {image.guidance_scale:g}"].append(image.scores[scorer])
    return _distributions(f"image_scores_{scorer}", f"Scores of images by {scorer}", groups, scorer)


def completion_score_distributions(candidates: Sequence[Candidates], scorer: str) -> StudyResult:
    """The distribution of a completion scorer's scores for each model's completions, in the models' order.

    Raises:
        DataError: the run has no such completion scorer.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for one in candidates:
        scores = scores_by_completion(one, scorer)
        for completion in sorted(one.completions, key=lambda completion: completion.sample_index):
            if completion.id in scores:
                groups[f"model {completion.sample_index + 1}"].append(scores[completion.id])
    return _distributions(f"completion_scores_{scorer}", f"Scores of completions by {scorer}", groups, scorer)


def scorer_disagreement(candidates: Sequence[Candidates], text_only: str, image_aware: str) -> StudyResult:
    """How often a text-only and an image-aware completion scorer would form different pairs of the same completions.

    For each text with at least two completions scored by both: same chosen, same rejected, reversed (the best of each
    is the worst of the other), and Kendall's τ-b of the two orders.

    Args:
        candidates: the candidates of a run with both scorers.
        text_only: the name of the text-only scorer.
        image_aware: the name of the image-aware scorer.

    Raises:
        DataError: no text with completions scored by both.
    """
    table, taus = [], []
    for one in candidates:
        first, second = scores_by_completion(one, text_only), scores_by_completion(one, image_aware)
        both = [completion.id for completion in one.completions if completion.id in first and completion.id in second]
        if len(both) < 2:
            continue
        best = [max(both, key=scores.__getitem__) for scores in (first, second)]
        worst = [min(both, key=scores.__getitem__) for scores in (first, second)]
        reversed_ = best[0] == worst[1] and best[1] == worst[0]
        tau = kendall_tau([first[name] for name in both], [second[name] for name in both])
        table.append(
            [best[0] == best[1], worst[0] == worst[1], reversed_, 0.0 if tau is None else tau, tau is not None, 1]
        )
        taus += [] if tau is None else [tau]
    if not table:
        raise DataError(f"no text has two completions scored by both '{text_only}' and '{image_aware}'")
    estimates = cluster_bootstrap(
        np.array(table, dtype=float),
        range(len(table)),
        lambda s: {
            "same chosen": s[:, 0] / s[:, 5],
            "same rejected": s[:, 1] / s[:, 5],
            "reversed": s[:, 2] / s[:, 5],
            "Kendall tau-b": np.divide(s[:, 3], s[:, 4], out=np.full(len(s), np.nan), where=s[:, 4] > 0),
        },
    )
    return StudyResult(
        "scorer_disagreement",
        f"{text_only} (text only) against {image_aware} (image-aware)",
        ("measure", "value", "low", "high", "num_texts"),
        tuple((name, one.value, one.low, one.high, len(table)) for name, one in estimates.items()),
        histogram(
            {"texts": taus},
            x_label="Kendall τ-b of the two orders of a text's completions",
            y_label="texts",
            alt=f"agreement of {text_only} and {image_aware} within texts",
            level=0.0,
        ),
        f"Over {len(table)} texts the two scorers choose the same completion for "
        f"{estimates['same chosen'].value:.1%} and would reverse the pair for {estimates['reversed'].value:.1%}.",
    )


def scores_by_completion(candidates: Candidates, scorer: str) -> dict[str, float]:
    """Completion id -> the scorer's score (the first, if there are several)."""
    return {
        one.completion_id: next(iter(one.scores.values()))
        for one in candidates.annotations
        if one.annotator == scorer and one.scores
    }


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's τ-b of two lists of numbers; None if all values of one list are tied.

    τ_b = (C − D) / √((P − T₁)(P − T₂)): C concordant and D discordant pairs of P, Tᵢ pairs tied in list i.
    """
    concordant = discordant = tied_first = tied_second = 0
    pairs = list(combinations(range(len(first)), 2))
    for i, j in pairs:
        a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
        tied_first += a == 0
        tied_second += b == 0
        concordant += a * b > 0
        discordant += a * b < 0
    scale = (len(pairs) - tied_first) * (len(pairs) - tied_second)
    return float((concordant - discordant) / np.sqrt(scale)) if scale > 0 else None


def _distributions(name: str, title: str, groups: dict[str, list[float]], scorer: str) -> StudyResult:
    if not groups:
        raise DataError(f"the candidates have no scores by '{scorer}'")
    rows = tuple(
        (label, len(values), fmean(values), pstdev(values), min(values), max(values))
        for label, values in groups.items()
    )
    few = len(groups) <= 4
    figure = (
        histogram(dict(groups), x_label=f"score by {scorer}", y_label="number", alt=title)
        if few
        else bars(list(groups), {"mean": [row[2] for row in rows]}, x_label=f"mean score by {scorer}", alt=title)
    )
    return StudyResult(
        name,
        title,
        ("group", "number", "mean", "standard_deviation", "lowest", "highest"),
        rows,
        figure,
        f"Mean scores by {scorer}: " + ", ".join(f"{row[0]} {row[2]:.3f}" for row in rows) + ".",
    )
