"""What the tiny pipeline's pictures show at several guidance scales, measured by reading them, and its model card."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairsight.models.diffusion import DiffusersGenerator
from pairsight.records import ItemError
from pairsight.tiny.picture_texts import kinds_wanted, picture_prompts
from pairsight.tiny.read_picture import kinds_in
from pairsight.tiny.training_log import Log

SCALES = (1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 11.0, 15.0)
_TEXTS_A_TOPIC = 20
_STEPS = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """How well pictures show their texts at one guidance scale.

    `recall`: objects asked for that are there; `precision`: objects there that were asked for; `exact`: pictures that
    show all that was asked and nothing else; `num_texts` pictures.
    """

    guidance_scale: float
    recall: float
    precision: float
    exact: float
    num_texts: int


def measure_guidance(pipeline: str | Path, log: Log, scales: Sequence[float] = SCALES) -> list[Shown]:
    """Read the pictures of texts that were never trained on, at each scale, from the same noise."""
    prompts = picture_prompts(_TEXTS_A_TOPIC, seed=99)
    generator = DiffusersGenerator(pipeline, num_inference_steps=_STEPS, device="cpu")
    rows = []
    for scale in scales:
        made = generator.generate([one.question for one in prompts], scale, range(len(prompts)))
        rows.append(shown([one.question for one in prompts], made, scale))
        log(f"guidance {scale:g}: recall {rows[-1].recall:.3f} precision {rows[-1].precision:.3f}")
    return rows


def shown(texts: Sequence[str], pictures: Sequence[Any], scale: float) -> Shown:
    """How well pictures (or errors in their places, which show nothing) show their texts."""
    wanted = [kinds_wanted(text) for text in texts]
    there = [frozenset() if isinstance(one, ItemError) else kinds_in(np.asarray(one)) for one in pictures]
    hits = sum(len(a & b) for a, b in zip(wanted, there, strict=True))
    exact = sum(a == b for a, b in zip(wanted, there, strict=True))
    return Shown(
        scale,
        hits / max(1, sum(map(len, wanted))),
        hits / max(1, sum(map(len, there))),
        exact / max(1, len(texts)),
        len(texts),
    )


def write_pipeline_card(folder: Path, seed: int, recipe: Any, rows: Sequence[Shown]) -> None:
    """`README.md` of the pipeline: what it is, how it was trained, what its pictures show."""
    lines = [
        "# A tiny text-to-image pipeline of the rendered world",
        "",
        "A `StableDiffusion3Pipeline` (no T5) of 48 × 48 pixels, trained from scratch on scenes of the part `train` by",
        f"`python -m pairsight.tiny.train_pipeline --seed {seed}`: {asdict(recipe)}.",
        "",
        f"What its pictures show of {rows[0].num_texts} unseen texts in {_STEPS} steps, read without a model:",
        "",
        "| guidance | recall | precision | exact |",
        "|---|---|---|---|",
        *(f"| {one.guidance_scale:g} | {one.recall:.3f} | {one.precision:.3f} | {one.exact:.3f} |" for one in rows),
        "",
        "Licence: Apache-2.0, as the package.",
    ]
    folder.joinpath("README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
