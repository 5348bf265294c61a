"""The options of the synthetic recipe, and which of them do not go together."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pairsight.config import Option
from pairsight.models.wording import read_wording
from pairsight.recipes.recipe import Recipe
from pairsight.recipes.synthetic.texts import INSTRUCTION_PLACEHOLDERS, SCENE_PLACEHOLDERS, TOPICS


class SyntheticOptions(Recipe):
    """What the steps are told."""

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
    writer_max_new_tokens: Annotated[int | None, Option(late=True)] = Field(
        None, ge=1, description="longest text written, thinking included; None: 2048 for scenes, 128 for a question"
    )
    scene_prompt: Annotated[str | None, Option(late=True)] = Field(
        None,
        description="what asks for scenes, with {topic} and {count}: a .txt or .md file, or a text of several lines",
    )

    instruction: str | None = Field(None, description="ask this of every image, instead of a written question")
    instruction_prompt: Annotated[str | None, Option(late=True)] = Field(
        None,
        description="what asks for a question about an image, with {prompt} (its text): a .txt or .md file, or a text "
        "of several lines; the first line of the answer is asked",
    )
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

    @field_validator("scene_prompt")
    @classmethod
    def _asks_for_scenes(cls, value: str | None) -> str | None:
        return None if value is None else read_wording(value, SCENE_PLACEHOLDERS)

    @field_validator("instruction_prompt")
    @classmethod
    def _asks_about_an_image(cls, value: str | None) -> str | None:
        return None if value is None else read_wording(value, INSTRUCTION_PLACEHOLDERS)

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        if len(set(self.guidance_scales)) < len(self.guidance_scales) and self.seed_mode == "shared":
            raise ValueError("equal guidance_scales with seed_mode 'shared' give equal images; use 'per_image'")
        return self
