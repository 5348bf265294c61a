"""SeVa: self-supervised preference pairs from clean and distorted images, without any annotator.

Paper: Zhu et al., "Self-Supervised Visual Preference Alignment" (2404.10501), and the authors' public code.
Inputs: images with questions; one model, which is also the one to align.
What it does: the model answers each question about the clean image (chosen) and about K distorted ones (rejected);
    equal answers are dropped (`clean_over_distorted`).
Deviations: the distortion follows from each prompt's id and a seed (the authors draw again at every run); answers are
    compared after normalising case and spacing; the projector is trained at the language model's rate, as in the
    authors' code, which the paper does not say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from pairsight.images.distort import distortion_names, make_distortion
from pairsight.models.protocols import Sampling
from pairsight.recipes.recipe import Gathered, Recipe, RecipeModels, Requests, StageRunner
from pairsight.records import Candidates, CompletionRequest, Distortion, Dropped, Prompt
from pairsight.seeds import derived_seed
from pairsight.training.config import TrainingConfig


class SeVa(Recipe):
    """Pairs from clean and distorted images."""

    name: ClassVar[str] = "seva"
    default_strategy: ClassVar[str] = "clean_over_distorted"
    roles: ClassVar[tuple[str, ...]] = ()
    default_training: ClassVar[TrainingConfig] = TrainingConfig(
        loss="dpo",
        beta=0.1,
        learning_rate=2e-6,
        projector_learning_rate=2e-6,
        lora_r=1024,
        lora_alpha=2048.0,
        lora_dropout=0.0,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=16,
        num_train_epochs=1.0,
        weight_decay=0.0,
    )
    """§4.1 of the paper: LoRA 1024/2048, β 0.1, 2e-6, global batch 128 (8 × 16 on one device), one epoch."""

    distortion: str = Field("diffusion_weak", description="what the rejected completion's image goes through")
    noise_step: int | None = Field(None, ge=0, le=999, description="diffusion step; None: the distortion's own")
    num_distortions: int = Field(1, ge=1, le=64, description="rejected completions per prompt")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy, as in the paper")
    max_new_tokens: int = Field(512, ge=1, description="longest completion in tokens")
    null_control: bool = Field(
        False, description="show the clean image every time: what pairs teach without distortion"
    )
    seed: int = Field(0, ge=0, description="the seed of distortions and of sampled completions")

    @field_validator("distortion")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in distortion_names():
            raise ValueError(f"must be one of {', '.join(distortion_names())}")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.noise_step is not None and not self.distortion.startswith("diffusion"):
            raise ValueError(f"noise_step belongs to diffusion, not to distortion '{self.distortion}'")
        if self.null_control and self.temperature == 0.0:
            raise ValueError(
                "null_control needs a temperature above 0: greedy completions of one image are all the same"
            )
        return self

    def unused(self, *, prompts: bool, completions: bool) -> Mapping[str, tuple[str, ...]]:
        """What acts on distorted images has nothing to act on in the null control."""
        if not self.null_control:
            return {}
        return {"null_control shows the clean image every time": ("distortion", "noise_step")}

    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """One clean and `num_distortions` other completions of each prompt; prompts without an image are dropped."""
        from pairsight.models.stages import GenerateCompletions

        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        stage = GenerateCompletions(generator=models.one_generator(self.name), sampling=sampling)
        seen = [prompt for prompt in prompts if prompt.images]
        requests = Requests(seen, 1 + self.num_distortions, self.requests)
        gathered = iter(Gathered(requests, run(stage, requests)))
        for prompt in prompts:
            yield next(gathered) if prompt.images else Dropped(prompt.id, "read", "no_image", "nothing to distort")

    def requests(self, prompt: Prompt) -> Iterator[CompletionRequest]:
        """The clean request, then those with distorted images (clean ones in the null control)."""
        for index in range(1 + self.num_distortions):
            seed = derived_seed(self.name, self.seed, prompt.id, index) if self.temperature > 0.0 else 0
            images = None
            if index > 0 and not self.null_control:
                distortion = self.distortion_of(prompt, index)
                images = tuple(replace(image, distortion=distortion) for image in prompt.images)
            yield CompletionRequest(prompt, index, seed, images)

    def distortion_of(self, prompt: Prompt, index: int) -> Distortion:
        """The distortion of a prompt's images in its `index`-th completion, from 1."""
        step = {} if self.noise_step is None else {"step": self.noise_step}
        return make_distortion(self.distortion, derived_seed("distortion", self.seed, prompt.id, index), **step)
