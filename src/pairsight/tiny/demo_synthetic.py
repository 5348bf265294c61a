"""The synthetic system on the embedded default: drawn pictures, four tiny models, and scorers that look or do not."""

from pathlib import Path

from pairsight.formats.prompts import read_prompts
from pairsight.pipeline.build import build
from pairsight.recipes.synthetic import Synthetic
from pairsight.tiny.questions import CAPTION_PROMPTS
from pairsight.tiny.shipped import ADAPTERS, shipped_model, shipped_pipeline, shipped_scorer

GUIDANCE_SCALES = (1.0, 3.0, 5.0, 9.0)
NUM_INFERENCE_STEPS = 16


def synthetic_recipe(seed: int = 0) -> Synthetic:
    """The recipe on the shipped weights: ImageReward picks the picture, BLIP's matching head ranks the answers.

    CLIP and BLIP score the pictures too, and the reward model that never sees one scores the answers, so that selectors
    and rankings can be compared.
    """
    return Synthetic(
        image_generator=str(shipped_pipeline()),
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scales=GUIDANCE_SCALES,
        image_scorers=tuple(shipped_scorer(kind) for kind in ("image_reward", "clip", "blip_match")),
        near_duplicate_threshold=1.0,  # texts of one topic share most of their words by construction
        instruction=CAPTION_PROMPTS[0],
        max_new_tokens=48,
        completion_scorers=tuple(shipped_scorer(kind) for kind in ("blip_match", "sequence")),
        seed=seed,
    )


def build_synthetic(world: Path, run: Path, *, seed: int = 0, texts: Path | None = None, quiet: bool = False) -> None:
    """Build the run from a world's texts (or others), with the world's model and the other shipped ones answering.

    Args:
        world: a world's folder, with its model.
        run: the run's folder.
        seed: of the pictures.
        texts: text-to-image prompts; default: the world's `texts.jsonl`.
        quiet: show no progress.
    """
    answering = [world / "model", *(shipped_model(name) for name in ("second", *ADAPTERS))]
    prompts = read_prompts(texts or world / "texts.jsonl")
    build(synthetic_recipe(seed), prompts, model=answering, run=run, quiet=quiet)
