"""What a recipe is: a frozen config that turns prompts into candidates, by running stages whose results are kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Generic, Protocol, TypeAlias, TypeVar

from pairsight.config import BaseConfig
from pairsight.engine.stage import Stage
from pairsight.errors import ConfigError
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.models.protocols import Annotator, Generator, named_for
from pairsight.recipes.workload import Assumed, Roles, Work
from pairsight.records import Candidates, Completion, CompletionRequest, Dropped, ItemError, Prompt
from pairsight.store.blobs import BlobStore
from pairsight.training.config import TrainingConfig

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class RecipeModels:
    """The models a recipe may use, each by its role, and the blobs that the images it makes go to.

    `writer` writes texts (scenes, instructions); `answerer` is the annotator's model where it answers prompts itself;
    `endpoint` is how judges behind endpoints are called, `annotation` how annotators and judges are asked and answer.
    """

    generators: tuple[Generator, ...]
    annotator: Annotator | None = None
    writer: Generator | None = None
    answerer: Generator | None = None
    blobs: BlobStore | None = None
    endpoint: EndpointOptions | None = None
    annotation: AnnotationOptions = OURS

    def one_generator(self, recipe: str) -> Generator:
        """The only generator; ConfigError when there are none or several."""
        if len(self.generators) != 1:
            raise ConfigError(f"recipe '{recipe}' takes one model, found {len(self.generators)}")
        return self.generators[0]

    def needed_blobs(self, recipe: str) -> BlobStore:
        """The run's blobs; ConfigError when the recipe was given none."""
        if self.blobs is None:
            raise ConfigError(f"recipe '{recipe}' makes images and needs a run to keep them in")
        return self.blobs


class StageRunner(Protocol):
    """Runs a stage on items so that nothing finished is done again; see `engine.runner.Runner`."""

    def __call__(self, stage: Stage[In, Out], items: Iterable[In]) -> Iterable[Out | ItemError]:
        """One result or error per item, in order; may be iterated again."""
        ...


Made: TypeAlias = "Collection[Candidates | Dropped] | Gathered"
"""Candidates that are there already; iterated several times."""


class Recipe(BaseConfig, ABC):
    """The base of all recipes, ways to make preference data. A subclass is one file: its options as fields, and
    `candidates`.
    """

    name: ClassVar[str]
    default_strategy: ClassVar[str]
    default_training: ClassVar[TrainingConfig]
    """How the paper trains: the options that are given here go before the trainer's own defaults."""
    default_sft_training: ClassVar[TrainingConfig | None] = None
    """The same for strategies that make demonstrations; None: `default_training`."""
    roles: ClassVar[tuple[str, ...]] = ("annotator", "writer")
    """The models it uses beside those that make completions; another one that is given is refused."""
    views_option: ClassVar[str] = ""
    """The option that says how many rejected completions a prompt has at most; "": no option does. With several, a
    training's default loss is `multi_negative`, with which all count at once (SeVa, 2404.10501, eq. 18)."""
    takes_completions: ClassVar[bool] = False
    """Whether it can start from completions that are there already: `annotate`."""
    models_with_completions: ClassVar[bool] = True
    """Whether it needs a model that makes completions also where they are there already."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Parse training options that a subclass gives as a plain mapping."""
        super().__pydantic_init_subclass__(**kwargs)
        for name in ("default_training", "default_sft_training"):
            if isinstance(given := vars(cls).get(name), Mapping):
                setattr(cls, name, TrainingConfig.parse(given, f"{cls.__name__}.{name}"))

    @abstractmethod
    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """Each prompt's completions (and annotations), or why it has none, in the order of the prompts."""

    def annotate(self, given: Made, models: RecipeModels, run: StageRunner) -> Iterator[Candidates | Dropped]:
        """Annotate completions that are there already, where `takes_completions`.

        Raises:
            ConfigError: the recipe makes its own.
        """
        raise ConfigError(f"recipe '{self.name}' makes its own completions; --completions is for feedback and seva")

    def check(self) -> None:
        """Refuse what the options name and is not there, before anything is loaded."""

    def check_generators(self, names: Sequence[str]) -> None:
        """Refuse what does not fit the models that make completions, by their names, before anything is loaded."""

    def measured(self, prompts: Sequence[Prompt], models: RecipeModels) -> Mapping[str, Mapping[str, float]]:
        """What the build measures before its stages: name -> figures, which it prints and keeps in `measured.json`."""
        return {}

    def unused(self, *, prompts: bool, completions: bool) -> Mapping[str, tuple[str, ...]]:
        """Why -> the options, or roles of models, that change nothing beside the others; the user may not give them.

        Args:
            prompts: whether a build is given prompts.
            completions: whether it is given completions.
        """
        return {}

    def work(self, roles: Roles, assumed: Assumed, num_prompts: int) -> tuple[Work, ...]:
        """What each stage asks of its models, for a dry run; () where a recipe does not say.

        Args:
            roles: the models' names.
            assumed: tokens of questions, completions and annotations.
            num_prompts: prompts, or given completions' prompts.
        """
        return ()

    @property
    def annotates(self) -> bool:
        """Whether a model is asked with the annotation prompt."""
        return "annotator" in self.roles

    def fingerprints(self) -> Mapping[str, str | list[str]]:
        """What identifies the models that options name, by option: such an option may differ when a run is resumed."""
        return {}


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of all prompts, made again at every pass, so that millions take no memory.

    Args:
        prompts: whose completions are wanted.
        num_each: how many requests `of_prompt` makes.
        of_prompt: the requests of one prompt.
    """

    prompts: Sequence[Prompt]
    num_each: int
    of_prompt: Callable[[Prompt], Iterable[CompletionRequest]]

    def __len__(self) -> int:
        return len(self.prompts) * self.num_each

    def __iter__(self) -> Iterator[CompletionRequest]:
        return (request for prompt in self.prompts for request in self.of_prompt(prompt))


@dataclass(frozen=True, slots=True)
class Gathered:
    """The results of `requests`, by prompt; may be iterated again, like the results.

    A prompt with fewer than `needed` completions is dropped, with the first error as the reason.
    """

    requests: Requests
    results: Iterable[Completion | ItemError]
    needed: int = 2

    def __len__(self) -> int:
        return len(self.requests.prompts)

    def __iter__(self) -> Iterator[Candidates | Dropped]:
        source, num_each = iter(self.results), self.requests.num_each
        for prompt in self.requests.prompts:
            part = list(zip(self.requests.of_prompt(prompt), islice(source, num_each), strict=True))
            completions = tuple(named_for(one, request) for request, one in part if isinstance(one, Completion))
            errors = [one for _, one in part if isinstance(one, ItemError)]
            if len(completions) >= self.needed:
                yield Candidates(prompt, completions)
            else:
                yield failed(prompt, "generate", errors, f"{len(completions)} of {num_each} completions")


@dataclass(frozen=True, slots=True)
class AtMost(Generic[T]):
    """Items of which it is known only how many they are at most, so that progress and time left can be told.

    Args:
        length: the bound.
        items: makes them, again at every pass.
    """

    length: int
    items: Callable[[], Iterable[T]]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        return iter(self.items())


@dataclass(frozen=True, slots=True)
class InTurns(Generic[T]):
    """The results of models that take turns at each prompt's `num_each` completions, in the completions' order."""

    results: Sequence[Iterable[T]]
    num_each: int

    def __iter__(self) -> Iterator[T]:
        sources = [iter(one) for one in self.results]
        while True:
            for index in range(self.num_each):
                try:
                    yield next(sources[index % len(sources)])
                except StopIteration:
                    return


def with_answers(made: Iterable[Candidates | Dropped], answers: Mapping[str, str]) -> Iterator[Candidates | Dropped]:
    """Each prompt's candidates with the dataset's own answer as one more completion, for strategy `sft`.

    Args:
        answers: prompt id -> text, as `PromptSet.answers` has them.
    """
    for one in made:
        text = answers.get(one.prompt.id) if isinstance(one, Candidates) else None
        if isinstance(one, Candidates) and text is not None:
            index = len(one.completions)
            answer = Completion(
                f"{one.prompt.id}:{index}", one.prompt.id, text, "stop", "dataset", 0, index, derived_from="dataset"
            )
            yield replace(one, completions=(*one.completions, answer))
        else:
            yield one


def failed(prompt: Prompt, stage: str, errors: Sequence[ItemError], detail: str) -> Dropped:
    """A prompt that a stage could not serve: the reason is that of the first error."""
    if not errors:
        return Dropped(prompt.id, stage, "no_result", detail)
    return Dropped(prompt.id, stage, errors[0].reason, f"{detail}; {errors[0].detail}".strip("; "))
