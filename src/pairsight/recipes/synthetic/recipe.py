"""Synthetic: generated images, several models' completions, and reward models as the proxy of people.

Paper: Wijaya et al., "Multimodal preference data synthetic alignment with reward model" (PDS-DPO, 2412.17417), and the
    authors' public code.
Inputs: text-to-image prompts, from a file or written by a language model on ten topics; a text-to-image pipeline;
    scorers of images and of completions; several models that answer, none of which need be the one to align.
What it does: K images of each text at K guidance scales; the image that the first image scorer likes best; a How, What
    or Why question about it; one completion of each model; scores of the completions; pairs by `best_over_worst`.
Deviations: the authors change the seed with the guidance scale; here it is shared, so that the scale alone differs
    (`seed_mode`). Refusals, echoes and images used before are left out. An image-aware scorer may be used beside the
    text-only one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pairsight.config import Option
from pairsight.errors import ConfigError
from pairsight.recipes.recipe import Recipe, RecipeModels, StageRunner
from pairsight.recipes.synthetic.texts import TOPICS
from pairsight.records import Candidates, Dropped, Prompt
from pairsight.training.config import TrainingConfig


class Synthetic(Recipe):
    """Pairs on generated images, ranked by reward models."""

    name: ClassVar[str] = "synthetic"
    default_strategy: ClassVar[str] = "best_over_worst"
    roles: ClassVar[tuple[str, ...]] = ("writer",)
    default_training: ClassVar[TrainingConfig] = TrainingConfig(
        loss="dpo",
        beta=0.1,
        learning_rate=1e-5,
        lora_r=128,
        lora_alpha=256.0,
        lora_dropout=0.05,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        num_train_epochs=2.0,
        warmup_ratio=0.03,
        weight_decay=0.0,
    )
    """§4.1 of the paper: 1e-5, two epochs, batch 1 × accumulation 4 × 2 GPUs; LoRA, β and warm-up from the code."""

    image_generator: str = Field(
        "stabilityai/stable-diffusion-3-medium-diffusers", description="a diffusers text-to-image pipeline"
    )
    num_inference_steps: int = Field(28, ge=1, description="denoising steps an image")
    image_size: int | None = Field(None, ge=8, description="width and height in pixels; None: the pipeline's own")
    guidance_scales: tuple[float, ...] = Field((5.0, 7.0, 9.0, 11.0), min_length=1, description="one image at each")
    seed_mode: Literal["shared", "per_image"] = Field(
        "shared", description="whether a text's images start from the same noise, or each from its own as the authors'"
    )
    image_scorers: tuple[str, ...] = Field(
        ("image_reward:zai-org/ImageReward",), min_length=1, description="KIND:MODEL; the first one selects"
    )
    min_image_score: float | None = Field(None, description="drop texts whose best image scores lower")

    topics: tuple[str, ...] = Field(TOPICS, min_length=1, description="topics of written text-to-image prompts")
    scenes_per_topic: int = Field(1000, ge=1, description="text-to-image prompts to write on each topic")
    near_duplicate_threshold: float = Field(0.8, gt=0.0, le=1.0, description="shared share of words that drops a text")
    writer_temperature: float = Field(1.0, ge=0.0, le=5.0, description="of written prompts and instructions")

    instruction: str | None = Field(None, description="ask this of every image, instead of a written question")
    instruction_input: Literal["prompt", "image_and_prompt"] = Field(
        "prompt", description="what the writer of the question is given"
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="of the completions; 0 is greedy (ours)")
    max_new_tokens: int = Field(1000, ge=1, description="longest completion in tokens")
    completion_scorers: tuple[str, ...] = Field(
        ("armorm:RLHFlow/ArmoRM-Llama3-8B-v0.1",), min_length=1, description="KIND:MODEL; the first one selects"
    )
    keep_loaded: Annotated[bool, Option("--keep-loaded")] = Field(
        False, description="keep every model in memory, for large machines (synthetic)"
    )
    seed: int = Field(0, ge=0, description="the seed of texts, images, instructions and completions")

    @field_validator("image_scorers", "completion_scorers")
    @classmethod
    def _one_of_a_kind(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from pairsight.models.scorers.names import scorer_kind

        kinds = [scorer_kind(name) for name in names]
        twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
        if twice is not None:
            raise ValueError(f"two scorers are of the kind '{twice}', by which their scores are known; give one")
        return names

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        if len(set(self.guidance_scales)) < len(self.guidance_scales) and self.seed_mode == "shared":
            raise ValueError("equal guidance_scales with seed_mode 'shared' give equal images; use 'per_image'")
        return self

    def check(self) -> None:
        """Refuse scorers and a pipeline that are not there, before anything is loaded.

        Raises:
            PairsightError: an unknown kind of scorer, or a local folder that is missing or pickled.
        """
        from pairsight.models.folders import local_folder
        from pairsight.models.images.diffusion import pipeline_folder
        from pairsight.models.scorers.base import ImageTextScorer
        from pairsight.models.scorers.names import parse_scorer

        for name in (*self.image_scorers, *self.completion_scorers):
            found, _ = parse_scorer(name)
            if name in self.image_scorers and not issubclass(found, ImageTextScorer):
                raise ConfigError(f"image scorer '{name}' reads text only; clip, blip_match or image_reward look")
        if local_folder(self.image_generator) is not None:
            pipeline_folder(self.image_generator)

    def fingerprints(self) -> Mapping[str, str | list[str]]:
        """What identifies the pipeline and the scorers wherever they lie, by the option that names them."""
        from pairsight.models.images.diffusion import pipeline_fingerprint, pipeline_folder
        from pairsight.models.scorers.names import scorer_identity, scorer_kind

        def named(scorers: Sequence[str]) -> list[str]:
            return [f"{scorer_kind(name)} {scorer_identity(name)}" for name in scorers]

        return {
            "image_generator": pipeline_fingerprint(pipeline_folder(self.image_generator)),
            "image_scorers": named(self.image_scorers),
            "completion_scorers": named(self.completion_scorers),
        }

    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """Each text's question, completions and scores, or why it has none; then single completions left out.

        Args:
            prompts: text-to-image prompts (a text, its topic as source); none: `models.writer` writes them.
            models: what answers, what writes, and the blobs for the images.
            run: keeps every result.
        """
        from pairsight.recipes.synthetic.steps import Steps

        if len(models.generators) < 2:
            raise ConfigError(
                f"recipe '{self.name}' compares the completions of two models or more, found {len(models.generators)}"
            )
        if models.writer is None and (not prompts or self.instruction is None):
            missing = "text-to-image prompts (--prompts FILE)" if not prompts else "an `instruction` for every image"
            raise ConfigError(f"recipe '{self.name}' needs {missing}, or a model that writes them: writer MODEL")
        self.check()
        yield from Steps(self, models, run).candidates(prompts)
