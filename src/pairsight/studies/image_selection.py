"""Studies of image selection: wins per guidance scale, overlap of selectors, judged wins.

Source: PDS-DPO 2412.17417, Fig. 4, Table 4 and supplement A. The image candidates are those of a synthetic run.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.errors import DataError
from pairsight.models.protocols import Generator, Sampling
from pairsight.plots import bars, lines
from pairsight.recipes.synthetic.texts import rank_images
from pairsight.records import (
    IMAGE_MARK,
    Candidates,
    CompletionRequest,
    ImageCandidate,
    ImageRef,
    ItemError,
    Message,
    Prompt,
)
from pairsight.statistics import Estimate, cluster_bootstrap
from pairsight.studies.result import StudyResult

Preference = Literal["first", "second", "tie"]
ImageJudge = Callable[[str, ImageRef, ImageRef], Preference | ItemError]
"""(text, first image, second image) -> which image shows the text better."""


def guidance_wins(candidates: Sequence[Candidates]) -> StudyResult:
    """How often the selected image has each guidance scale, by topic, with 95 % intervals over texts."""
    with_images = _with_images(candidates)
    scales = sorted({image.guidance_scale for one in with_images for image in one.images})
    topics = sorted({one.prompt.source for one in with_images})
    rows, curves = [], {}
    for topic in ["all", *topics] if len(topics) > 1 else ["all"]:
        chosen = [
            next(image.guidance_scale for image in one.images if image.selected)
            for one in with_images
            if topic in ("all", one.prompt.source)
        ]
        shares = _shares(np.array([[float(scale == selected) for scale in scales] for selected in chosen]), scales)
        rows += [(topic, scale, *_numbers(shares[f"{scale:g}"]), len(chosen)) for scale in scales]
        curves[topic] = (scales, [shares[f"{scale:g}"].value for scale in scales])
    best = max(zip(curves["all"][1], scales, strict=True))
    return StudyResult(
        "guidance_wins",
        "Share of wins per guidance scale",
        ("topic", "guidance_scale", "share", "low", "high", "num_texts"),
        tuple(rows),
        lines(
            curves,
            x_label="guidance scale",
            y_label="share of texts won",
            alt=f"share of selected images per guidance scale; most, {best[0]:.0%}, at {best[1]:g}",
            level=1 / len(scales),
        ),
        f"The share of {len(with_images)} texts whose selected image was made at each guidance scale; chance is "
        f"{1 / len(scales):.3f}. The most are won at {best[1]:g} ({best[0]:.3f}).",
    )


def selector_overlap(candidates: Sequence[Candidates], scorers: Sequence[str] = ()) -> StudyResult:
    """Agreement of image scorers: mean |∩ of the top-k sets| / k for k = 1, 2, 3, compared with chance.

    For m scorers of K images, chance is (k / K)^(m − 1). Only texts with K images, all scored by all scorers, count.

    Args:
        candidates: the candidates of a run with at least two image scorers.
        scorers: the scorers' names; empty: all scorers of the run.

    Raises:
        DataError: fewer than two scorers, or no text scored by all of them.
    """
    with_images = _with_images(candidates)
    names = list(scorers) or sorted({name for one in with_images for image in one.images for name in image.scores})
    number = max(len(one.images) for one in with_images)
    complete = [
        one
        for one in with_images
        if len(one.images) == number and all(name in image.scores for image in one.images for name in names)
    ]
    if len(names) < 2 or not complete:
        raise DataError(
            f"overlap needs texts with all images scored by at least two scorers; found {', '.join(names) or 'none'}"
        )
    tops = [{name: rank_images(one.images, name) for name in names} for one in complete]
    groups = [*combinations(names, 2), *([tuple(names)] if len(names) > 2 else [])]
    sizes = [k for k in (1, 2, 3) if k <= number]
    rows, values, chances = [], [], []
    for group in groups:
        for k in sizes:
            shared = [[len(set.intersection(*(set(top[name][:k]) for name in group))) / k] for top in tops]
            estimate = _shares(np.array(shared), ["overlap"])["overlap"]
            chance = (k / number) ** (len(group) - 1)
            rows.append((" & ".join(group), k, *_numbers(estimate), chance, len(complete)))
            values.append(estimate.value)
            chances.append(chance)
    return StudyResult(
        "selector_overlap",
        "Overlap of image selectors",
        ("selectors", "top", "overlap", "low", "high", "chance", "num_texts"),
        tuple(rows),
        bars(
            [f"{row[0]}, top {row[1]}" for row in rows],
            {"overlap": values, "chance": chances},
            x_label="mean share of the top k that is common",
            alt="overlap of the selectors' best images beside chance",
        ),
        f"Mean |∩ of the top-k sets| / k over {len(complete)} texts with {number} images each; chance is "
        "(k / K)^(m − 1) for m selectors.",
    )


def judged_wins(
    candidates: Sequence[Candidates], first: str, second: str, judge: ImageJudge, judged_by: str
) -> StudyResult:
    """How often a judge prefers the image picked by one selector over the other's.

    Args:
        candidates: the candidates of a run with both scorers.
        first: an image scorer's name.
        second: the other scorer's name.
        judge: compares two images for a text; their order alternates from text to text.
        judged_by: the judge's name.

    Raises:
        DataError: no text with a pick by each scorer.
    """
    outcomes: Counter[str] = Counter()
    for number, one in enumerate(_with_images(candidates)):
        picks = [rank_images(one.images, name) for name in (first, second)]
        if not all(picks):
            continue
        images = [one.images[ranked[0]] for ranked in picks]
        outcomes[_outcome(images, judge, swapped=number % 2 == 1)] += 1
    total = sum(outcomes.values())
    if not total:
        raise DataError(f"no text has images scored by both '{first}' and '{second}'")
    names = {
        "first": f"{first} wins",
        "second": f"{second} wins",
        "tie": "tie",
        "same": "same image",
        "error": "unjudged",
    }
    decided = outcomes["first"] + outcomes["second"]
    rows = tuple(
        (
            label,
            outcomes[key],
            outcomes[key] / total,
            outcomes[key] / decided if decided and key in ("first", "second") else None,
        )
        for key, label in names.items()
    )
    share = outcomes["first"] / decided if decided else float("nan")
    return StudyResult(
        "judged_wins",
        f"Images picked by {first} against those picked by {second}",
        ("outcome", "count", "share", "share_of_decided"),
        rows,
        bars(
            [str(row[0]) for row in rows],
            {"texts": [float(outcomes[key]) for key in names]},
            x_label="texts",
            alt=f"of {total} texts {first} wins {outcomes['first']}, {second} {outcomes['second']}",
        ),
        f"Judged by {judged_by}: of {total} texts the two picked the same image for {outcomes['same']}; of the "
        f"{decided} decided ones {first} won {share:.1%}.",
    )


def _outcome(images: Sequence[ImageCandidate], judge: ImageJudge, swapped: bool) -> str:
    if images[0].image == images[1].image:
        return "same"
    shown = images[::-1] if swapped else images
    verdict = judge(images[0].text, shown[0].image, shown[1].image)
    if isinstance(verdict, ItemError):
        return "error"
    if verdict == "tie" or not swapped:
        return verdict
    return "second" if verdict == "first" else "first"


def _with_images(candidates: Sequence[Candidates]) -> list[Candidates]:
    found = [one for one in candidates if any(image.selected for image in one.images)]
    if not found:
        raise DataError("the candidates have no generated images: they are not of a synthetic run")
    return found


def _shares(hits: NDArray[np.float64], names: Sequence[object]) -> dict[str, Estimate]:
    """The mean of each column, with its interval over rows."""
    labels = [f"{name:g}" if isinstance(name, float) else str(name) for name in names]

    def combine(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {label: sums[:, column] / sums[:, -1] for column, label in enumerate(labels)}

    counted = np.column_stack([hits, np.ones(len(hits))])
    return cluster_bootstrap(counted, range(len(hits)), combine)


def _numbers(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


_VERDICT = re.compile(r"\b(?:image\s*)?(1|2|first|second|tie|equal|both|neither)\b", re.IGNORECASE)
_MEANS: dict[str, Preference] = {"1": "first", "first": "first", "2": "second", "second": "second"}


def vlm_image_judge(generator: Generator) -> ImageJudge:
    """A judge that asks a model, with greedy decoding, which of two images shows a text better.

    Args:
        generator: a model that accepts two images; a model behind an endpoint must be called through a run instead.
    """

    def judge(text: str, first: ImageRef, second: ImageRef) -> Preference | ItemError:
        question = (
            f"Image 1: {IMAGE_MARK}\nImage 2: {IMAGE_MARK}\n"
            f'Which image shows this text better: "{text}"? Look at what is there, at its attributes and at faults of '
            "the picture. Answer with 1, 2 or tie, and nothing else."
        )
        prompt = Prompt(f"{first.sha256}-{second.sha256}", (Message("user", question, (first, second)),))
        (answer,) = generator.generate([CompletionRequest(prompt)], Sampling(temperature=0.0, max_new_tokens=16))
        if isinstance(answer, ItemError):
            return answer
        return parse_preference(answer.text)

    return judge


def parse_preference(text: str) -> Preference | ItemError:
    """The first verdict in a judge's answer; an error if there is none."""
    found = _VERDICT.search(text)
    if found is None:
        return ItemError("no_verdict", f"the judge said: {text:.80}", retryable=False)
    return _MEANS.get(found.group(1).lower(), "tie")
