"""SeVa: self-supervised preference pairs from clean and distorted images, without any annotator.

Paper: Zhu et al., "Self-Supervised Visual Preference Alignment" (2404.10501), and the authors' public code.
Inputs: images with questions; one model, which is also the one to align. Or the answers of a model to clean and to
    distorted images, as the authors' code writes them.
What it does: the model answers each question about the clean image (chosen) and about K distorted ones (rejected);
    equal answers are dropped (`clean_over_distorted`). Where the model is behind an endpoint, which takes pictures,
    noise on normalised pixels is rendered to 8 bits (`images/rendering.py`), and what that changes is measured.
Deviations: the distortion follows from each prompt's id and a seed (the authors draw again at every run); answers are
    compared after normalising case and spacing, unless the strategy's `equality` says otherwise; the projector is
    trained at the language model's rate, as in the authors' code, which the paper does not say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from pairsight.config import Option
from pairsight.errors import ConfigError
from pairsight.images.distort import distortion_names, is_seeded, make_distortion
from pairsight.images.rendering import RENDERINGS, Rendering, rendered, rendering_for, shift
from pairsight.models.endpoint.model import is_endpoint
from pairsight.models.protocols import Sampling
from pairsight.recipes.recipe import Gathered, Made, Recipe, RecipeModels, Requests, StageRunner
from pairsight.recipes.workload import Assumed, Roles, Work
from pairsight.records import Candidates, CompletionRequest, Distortion, Dropped, ImageRef, Prompt
from pairsight.seeds import derived_seed
from pairsight.training.config import TrainingConfig


class SeVa(Recipe):
    """Pairs from clean and distorted images."""

    name: ClassVar[str] = "seva"
    default_strategy: ClassVar[str] = "clean_over_distorted"
    roles: ClassVar[tuple[str, ...]] = ()
    views_option: ClassVar[str] = "num_distortions"
    takes_completions: ClassVar[bool] = True
    models_with_completions: ClassVar[bool] = False
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

    distortion: str | tuple[str, ...] = Field(
        "diffusion_weak",
        description="what the rejected completion's image goes through; of several each prompt draws num_distortions",
    )
    noise_step: int | None = Field(None, ge=0, le=999, description="diffusion step; None: the distortion's own")
    num_distortions: int = Field(1, ge=1, le=64, description="rejected completions per prompt")
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy, as in the paper")
    max_new_tokens: int = Field(512, ge=1, description="longest completion in tokens")
    null_control: bool = Field(
        False, description="show the clean image every time: what pairs teach without distortion"
    )
    render: Annotated[Rendering | None, Option(late=True)] = Field(
        None,
        description="the square that an endpoint's processor makes, at which noise is drawn: a family's name, the "
        "folder of its processor, or size, fit, mean and std; default: LLaVA-1.5's",
    )
    seed: int = Field(0, ge=0, description="the seed of distortions and of sampled completions")

    @field_validator("distortion", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        several = isinstance(value, str) and "," in value
        return tuple(part.strip() for part in value.split(",")) if several else value

    @field_validator("distortion")
    @classmethod
    def _is_known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (value,) if isinstance(value, str) else value
        if not names:
            raise ValueError("name at least one distortion")
        for name in names:
            try:
                make_distortion(name)
            except ConfigError as error:
                raise ValueError(f"{error}; there are {', '.join(distortion_names())}, joined by + if wanted") from None
        return value

    @field_validator("render", mode="before")
    @classmethod
    def _of_a_family(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value in RENDERINGS:
            return RENDERINGS[value]
        if Path(value).is_dir():
            return rendering_for(Path(value))
        known = ", ".join(RENDERINGS)
        raise ValueError(f"must be one of {known}, a model's folder, or a mapping of size, fit, mean and std")

    @property
    def distortions(self) -> tuple[str, ...]:
        """The names of all distortions."""
        return (self.distortion,) if isinstance(self.distortion, str) else self.distortion

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = self.distortions
        steps = [name for name in names if "step" in make_distortion(name).parameters]
        if self.noise_step is not None and not steps:
            raise ValueError(f"noise_step belongs to diffusion, not to distortion '{', '.join(names)}'")
        if self.noise_step is not None and any(":" in name for name in steps):
            raise ValueError("noise_step and a step in a distortion's name: give one of them")
        if self.render is not None and not steps:
            raise ValueError(f"render belongs to diffusion, not to distortion '{', '.join(names)}'")
        if len(set(names)) < len(names):
            raise ValueError("name each distortion once; num_distortions says how many views there are")
        same = [name for name in names if not is_seeded(name)]
        if same and self.num_distortions > len(names) and not self.null_control:
            raise ValueError(
                f"num_distortions={self.num_distortions} would show '{same[0]}' twice, which gives equal views and so "
                f"equal negatives: add other distortions, or take num_distortions={len(names)}"
            )
        if self.null_control and self.temperature == 0.0:
            raise ValueError(
                "null_control needs a temperature above 0: greedy completions of one image are all the same"
            )
        return self

    def unused(self, *, prompts: bool, completions: bool) -> Mapping[str, tuple[str, ...]]:
        """What acts on distorted images has nothing to act on in the null control; with completions, nothing acts."""
        if completions:
            return {"the completions are given": (*type(self).model_fields, "model")}
        if not self.null_control:
            return {}
        return {"null_control shows the clean image every time": ("distortion", "noise_step", "render")}

    def check_generators(self, names: Sequence[str]) -> None:
        """Refuse `render` where no endpoint is asked."""
        if self.render is not None and not any(is_endpoint(name) for name in names):
            raise ConfigError("render changes nothing, no model is behind an endpoint; leave render out")

    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """One clean and `num_distortions` other completions of each prompt; prompts without an image are dropped."""
        from pairsight.models.stages import GenerateCompletions

        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
        generator = models.one_generator(self.name)
        stage = GenerateCompletions(generator=generator, sampling=sampling)
        seen = [prompt for prompt in prompts if prompt.images]
        of_prompt = self.requests if generator.takes_normalised else self.rendered_requests
        requests = Requests(seen, 1 + self.num_distortions, of_prompt)
        gathered = iter(Gathered(requests, run(stage, requests)))
        for prompt in prompts:
            yield next(gathered) if prompt.images else Dropped(prompt.id, "read", "no_image", "nothing to distort")

    def annotate(self, given: Made, models: RecipeModels, run: StageRunner) -> Iterator[Candidates | Dropped]:
        """Given completions as they are: the first of each prompt is that to the clean image."""
        yield from given

    def work(self, roles: Roles, assumed: Assumed, num_prompts: int) -> tuple[Work, ...]:
        """A completion of the clean image and of each distorted one."""
        count = num_prompts * (1 + self.num_distortions)
        longest = min(assumed.completion_tokens, self.max_new_tokens)
        question = assumed.question_tokens
        return tuple(Work("generate", name, "completions", count, 1, question, longest) for name in roles.models)

    def requests(self, prompt: Prompt) -> Iterator[CompletionRequest]:
        """The clean request, then those with distorted images (clean ones in the null control)."""
        for index in range(1 + self.num_distortions):
            seed = derived_seed(self.name, self.seed, prompt.id, index) if self.temperature > 0.0 else 0
            images = None
            if index > 0 and not self.null_control:
                distortion = self.distortion_of(prompt, index)
                images = tuple(replace(image, distortion=distortion) for image in prompt.images)
            yield CompletionRequest(prompt, index, seed, images)

    def rendered_requests(self, prompt: Prompt) -> Iterator[CompletionRequest]:
        """As `requests`, with distortions of normalised pixels rendered to pictures."""
        how = self.render or Rendering()
        for request in self.requests(prompt):
            images = request.images and tuple(_rendered(image, how) for image in request.images)
            yield replace(request, images=images)

    def distortion_of(self, prompt: Prompt, index: int) -> Distortion:
        """The distortion of a prompt's images in its `index`-th completion, from 1.

        Of several kinds each prompt draws an order, which its views follow, again from the start where they are more.
        """
        names = self.distortions
        if len(names) > 1:
            names = tuple(sorted(names, key=lambda name: derived_seed("kind", self.seed, prompt.id, name)))
        name = names[(index - 1) % len(names)]
        steps = self.noise_step is not None and "step" in make_distortion(name).parameters
        step = {"step": float(self.noise_step or 0)} if steps else {}
        return make_distortion(name, derived_seed("distortion", self.seed, prompt.id, index), **step)

    def measured(self, prompts: Sequence[Prompt], models: RecipeModels) -> Mapping[str, Mapping[str, float]]:
        """What rendering to 8 bits changes, where noise is rendered: over the first images, in normalised units."""
        if models.blobs is None or self.null_control or all(one.takes_normalised for one in models.generators):
            return {}
        images = (image for one in prompts for request in self.rendered_requests(one) for image in request.images or ())
        found = [
            shift(models.blobs.open(ImageRef(image.sha256)), image.distortion)
            for image in islice(images, _MEASURED)
            if image.distortion is not None and image.distortion.space == "rendered"
        ]
        if not found:
            return {}
        greatest, mean = max(one for one, _ in found), sum(one for _, one in found) / len(found)
        return {"rendering_shift": {"max": greatest, "mean": mean, "num_images": len(found)}}


_MEASURED = 32
"""Distorted images, of the first prompts, of which those that are rendered are measured (ours)."""


def _rendered(image: ImageRef, how: Rendering) -> ImageRef:
    distortion = image.distortion
    if distortion is None or distortion.space != "normalised":
        return image
    return replace(image, distortion=rendered(distortion, how))
