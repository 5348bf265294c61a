"""What a model does for us, by role: base classes, of which one backend a file derives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, model_validator

from pairsight.config import BaseConfig
from pairsight.engine.stage import Call, Json
from pairsight.errors import ConfigError, DataError
from pairsight.images.source import ImageSource
from pairsight.records import Annotation, Candidates, Completion, CompletionRequest, ImageRef, ItemError, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

In = TypeVar("In")
Out = TypeVar("Out")


class Sampling(BaseConfig):
    """How completions are drawn. Temperature 0 is greedy, or a search over several beams."""

    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus sampling; 1 switches it off")
    top_k: int = Field(0, ge=0, description="sample among the k likeliest tokens; 0 switches it off")
    max_new_tokens: int = Field(512, ge=1, description="longest completion in tokens")
    num_beams: int = Field(
        1,
        ge=1,
        le=64,
        description="beams of a search at temperature 0; 1: no search",
        exclude_if=lambda beams: beams == 1,  # so that results of before have the same keys
    )

    @model_validator(mode="after")
    def _searches_greedily(self) -> Self:
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(f"num_beams {self.num_beams} needs temperature 0, found {self.temperature}")
        return self


class Model(ABC):  # noqa: B024 - what a model is asked for is its role's, below
    """What every model has, whatever its role: weights that are loaded and freed. One without weights does nothing."""

    def load(self) -> None:  # noqa: B027 - nothing is the default
        """Load the weights now; otherwise they are loaded when first needed."""

    def close(self) -> None:  # noqa: B027 - nothing is the default
        """Free the weights; the next use loads them again."""


@dataclass(frozen=True)
class Question(Generic[In, Out]):
    """What a model is asked about an item, and how the item's result is read from its completion.

    Args:
        output: the record class of a result.
        ask: the item as a completion request.
        read: the item's result in the model's completion; free and repeatable.
        item_name: the item's name in messages.
        ids: what else is in the result besides what the model says, as JSON values, e.g. ids: part of the key.
        schema: the JSON schema that the answer should follow.
        parser_version: of `read`; 0 where it takes the completion as it is.
    """

    output: type[Out]
    ask: Callable[[In], CompletionRequest]
    read: Callable[[In, Completion], Out | ItemError]
    item_name: Callable[[In], str]
    ids: Callable[[In], Json] = lambda item: None
    schema: Callable[[In], Mapping[str, object] | None] = lambda item: None
    parser_version: int = 0


class Generator(Model):
    """Makes completions. `fingerprint` changes whenever weights, processor or template do.

    One behind a paid service defines `as_call`; one whose weights are on this machine may define `loaded_copy`.
    """

    batch_size: int = 32
    """How many completions it writes at once at most."""
    takes_normalised: ClassVar[bool] = True
    """Whether it can be shown distortions of normalised pixels; one behind an endpoint is sent pictures."""
    gives_logps: ClassVar[bool] = False
    """Whether it gives the log-probs of given texts: then `loaded_copy` is defined, and `images` is set."""
    images: ImageSource
    """Where its prompts' images are."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What identifies the model in item keys."""

    @abstractmethod
    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        """One completion or error per request, in order. Requests of one prompt and images share their prefill."""

    @property
    def is_structured(self) -> bool:
        """Whether it is asked for JSON of a schema where there is one."""
        return False

    def as_call(self, name: str, sampling: Sampling, question: Question[In, Out]) -> Call[In, Out] | None:
        """The paid call that asks it a question about each item; None where its work is local.

        Args:
            name: the stage's name.
            sampling: how it answers.
            question: what it is asked.
        """
        return None

    def asked(self, prompt: Prompt) -> Prompt:
        """The prompt as the model is asked it, e.g. with a line that it was trained with."""
        return prompt

    def loaded_copy(self) -> tuple[Any, Any]:
        """A processor and a model of its own for whoever asks, beside those that `generate` uses.

        Raises:
            ConfigError: a model that does not give log-probs of given texts.
        """
        raise ConfigError(f"model {self.fingerprint} gives no log-probs of given texts; use a model folder")


class ImageGenerator(Model):
    """Makes images from text. `fingerprint` identifies the pipeline in item keys."""

    fingerprint: str

    @abstractmethod
    def generate(self, texts: Sequence[str], guidance_scale: float, seeds: Sequence[int]) -> "list[Image | ItemError]":
        """One image or error per text, in order."""


class Annotator(Model):
    """Rates the completions of one prompt by attribute, with reasons."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What identifies the annotator in item keys."""

    @abstractmethod
    def annotate(self, prompt: Prompt, completions: Sequence[Completion]) -> list[Annotation | ItemError]:
        """One annotation or error per completion, in order."""

    def annotate_batch(self, items: Sequence[Candidates]) -> list[list[Annotation | ItemError]]:
        """`annotate` for several prompts; for an annotator that rates several at once faster than one by one."""
        return [self.annotate(item.prompt, item.completions) for item in items]

    def as_call(self, name: str) -> Call[Candidates, Candidates] | None:
        """The paid call that annotates a prompt's candidates; None where the work is local.

        Args:
            name: the stage's name.
        """
        return None


def seen_prompt(request: CompletionRequest) -> Prompt:
    """The request's prompt with the images the model is to see: its own, or the request's instead.

    Raises:
        DataError: the request has another number of images than the prompt.
    """
    prompt = request.prompt
    if request.images is None:
        return prompt
    if len(request.images) != len(prompt.images):
        raise DataError(
            f"prompt '{prompt.id}' has {len(prompt.images)} images and its request {len(request.images)}; "
            "other images must be as many",
            reason="image_count",
        )
    return prompt.with_images(request.images)


def prompt_key(prompt: Prompt) -> list[Json]:
    """What a model sees of a prompt, as JSON values: roles, texts, images; not its id or source."""
    return [[m.role, m.text, [image_key(ref) for ref in m.images]] for m in prompt.messages]


def image_key(ref: ImageRef) -> Json:
    """An image and its distortion as JSON values."""
    if ref.distortion is None:
        return ref.sha256
    distortion = ref.distortion
    return [ref.sha256, distortion.name, distortion.space, dict(distortion.parameters), distortion.seed]


def request_key(request: CompletionRequest) -> Mapping[str, Json]:
    """What determines a completion besides the model and the sampling; names and paths are not part of it."""
    return {
        "prompt": prompt_key(seen_prompt(request)),
        "sample_index": request.sample_index,
        "seed": request.seed,
    }


def completion_id(request: CompletionRequest) -> str:
    """`PROMPT:SAMPLE`, unique as long as a recipe numbers all samples of a prompt."""
    return f"{request.prompt.id}:{request.sample_index}"


def named_for(completion: Completion, request: CompletionRequest) -> Completion:
    """A kept completion under the ids of this request: two prompts with the same content share one result."""
    return replace(completion, id=completion_id(request), prompt_id=request.prompt.id, images=request.images)


COMPLETION: Question[CompletionRequest, Completion] = Question(
    Completion, lambda request: request, lambda request, completion: completion, item_name=completion_id
)
"""The question of whoever wants the completion itself."""
