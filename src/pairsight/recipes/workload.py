"""What a build asks of its models, estimated before anything is read: the items and tokens of each stage."""

from dataclasses import dataclass

from pydantic import Field

from pairsight.config import BaseConfig
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.annotation.prompt import annotation_prompt
from pairsight.records import Message, Prompt

CHARACTERS_PER_TOKEN = 4
"""Of our own prompts, in English (ours)."""


class Assumed(BaseConfig):
    """What a dry run takes to be so, where it cannot know it. All of it is printed, and none of it changes a run."""

    num_prompts: int | None = Field(None, ge=1, description="prompts of the build; counted where their file is here")
    kept: float = Field(1.0, gt=0, le=1, description="share of the prompts that become examples to train on")
    num_examples: int | None = Field(None, ge=1, description="examples to train on; None: the share `kept` of prompts")
    question_tokens: int = Field(40, ge=1, description="tokens of a question")
    completion_tokens: int = Field(150, ge=1, description="tokens of a completion")
    annotation_tokens: int = Field(800, ge=1, description="tokens that an annotator or judge writes, thinking included")
    image_width: int = Field(640, ge=1, description="width of an image in pixels")
    image_height: int = Field(480, ge=1, description="height of an image in pixels")
    questions: dict[str, int] = Field({}, description="benchmark -> its questions; counted where its file is here")
    gpu_memory: float | None = Field(
        None, gt=0, description="GiB of the GPU to train on; None: the device that is here"
    )


@dataclass(frozen=True, slots=True)
class Roles:
    """The models of a build by role, by their names; "" for none, and how annotators are asked."""

    models: tuple[str, ...]
    annotator: str = ""
    writer: str = ""
    annotation: AnnotationOptions = OURS


@dataclass(frozen=True, slots=True)
class Work:
    """What one stage asks of one model.

    Attributes:
        stage: its name, as a run's status shows it.
        by: the model's name.
        unit: what an item is, in the plural.
        count: items.
        images: images that it is shown for an item.
        prompt_tokens: tokens of text that it reads for an item.
        completion_tokens: tokens that it writes for an item.
    """

    stage: str
    by: str
    unit: str
    count: int
    images: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def annotation_tokens(assumed: Assumed, completions: int, options: AnnotationOptions) -> int:
    """Tokens of text that an annotator reads for one prompt with some completions."""
    probe = Prompt("", (Message("user", "?"),))
    own = len(annotation_prompt(probe, [""] * completions, "text", options).messages[0].text) // CHARACTERS_PER_TOKEN
    return own + assumed.question_tokens + completions * assumed.completion_tokens
