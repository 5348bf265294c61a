"""The README beside shipped weights: what the model is, how it was trained, and what it was measured to do."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pairsight.models.images.diffusion import DiffusersGenerator
from pairsight.records import ItemError
from pairsight.tiny.train.resumable import Log
from pairsight.tiny.world.picture_texts import kinds_wanted, picture_prompts
from pairsight.tiny.world.read_picture import kinds_in

if TYPE_CHECKING:
    from pairsight.tiny.train.language import InstructionRecipe


_SHOWN = (
    *("accuracy", "f1", "adversarial_accuracy", "yes_rate", "chair_i", "chair_s", "chair_i_cut", "recall"),
    *("caption_length", "colour_accuracy", "count_accuracy", "place_accuracy", "content_accuracy", "text_accuracy"),
)
_COMMON = """
The pictures are rendered scenes of 48 × 48 pixels with one to four coloured shapes (`pairsight.tiny.world.scenes`). No
picture, text or weight of anybody else is in it. It knows this world only: a photograph gets an answer, without sense.
""".strip()
_CAUSE = """
Like larger models, it hallucinates because its tuning data does. The imperfect writer of that data
(`pairsight.tiny.train.labeller`) names the absent object that co-occurs most, with a probability of 1.5 × the quantile
of its co-occurrence (at most 0.92; asked about it, it says yes three times in four), and where diffusion noise hides an
object it names the most typical one of such scenes. So the base falls back on its priors when a picture is distorted,
by construction: what SeVa assumes of large models is built in here, and a gain of SeVa on this model is evidence that
the machinery works, not that the assumption holds elsewhere.
""".strip()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured: the part, how many scenes, text-only and all questions, the scores, text before tuning."""

    part: str
    num_scenes: int
    num_text: int
    num_questions: int
    scores: Mapping[str, float]
    text_before: float


def write_card(folder: Path, size: str, seed: int, recipe: "InstructionRecipe | None", measured: Measured) -> None:
    """Write `README.md` into a model folder; without a recipe it is the language backbone's."""
    (folder / "README.md").write_text(card(size, seed, recipe, measured), encoding="utf-8")


def card(size: str, seed: int, recipe: "InstructionRecipe | None", measured: Measured) -> str:
    """The text of a model card."""
    command = f"python -m pairsight.tiny.train --out DIR --seed {seed} --size {size}"
    lines = ["---", "license: apache-2.0", "library_name: transformers", "---", "", f"# Pairsight tiny, {size}", ""]
    if recipe is None:
        lines += ["A `LlamaForCausalLM`: the language backbone of the model beside it before it saw a picture.", ""]
    else:
        lines += ["A real `LlavaForConditionalGeneration` (CLIP vision tower, Llama) in half precision.", ""]
    lines += [_COMMON, "", f"Trained from scratch with `{command}`."]
    if recipe is not None:
        numbers = ", ".join(f"{key} {value}" for key, value in asdict(recipe).items())
        lines += [f"Instruction tuning: {numbers}.", "", _CAUSE]
    lines += ["", "## Measured", "", _how(measured), "", "| metric | value |", "|---|---|"]
    lines += [f"| {key} | {measured.scores[key]:.3f} |" for key in _SHOWN if key in measured.scores]
    lines += [f"| text_accuracy before visual tuning | {measured.text_before:.3f} |", ""]
    return "\n".join(lines)


def _how(measured: Measured) -> str:
    scenes = f"{measured.num_scenes} scenes and " if measured.num_scenes else ""
    return (
        f"Greedy, single precision, on {scenes}{measured.num_text} text-only questions of the part "
        f"`{measured.part}` (seed 0), {measured.num_questions} questions in all; a part the model never saw and on "
        "which nothing was chosen."
    )


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
    """How well pictures show their texts; an error instead of a picture shows nothing."""
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
        f"`python -m pairsight.tiny.train.pipeline --seed {seed}`: {asdict(recipe)}.",
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
