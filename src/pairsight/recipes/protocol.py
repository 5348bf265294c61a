"""What a recipe is: a frozen config that turns prompts into candidates, by running stages whose results are kept."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from pairsight.engine.stage import Stage
from pairsight.errors import ConfigError
from pairsight.models.endpoint_options import EndpointOptions
from pairsight.models.protocols import Annotator, Generator
from pairsight.records import Candidates, Dropped, ItemError, Prompt
from pairsight.store.blobs import BlobStore

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class RecipeModels:
    """The models a recipe may use, each by its role, and the blobs that the images it makes go to.

    `writer` writes texts (scenes, instructions); `answerer` is the annotator's model where it answers prompts itself;
    `endpoint` is how judges behind endpoints are asked.
    """

    generators: tuple[Generator, ...]
    annotator: Annotator | None = None
    writer: Generator | None = None
    answerer: Generator | None = None
    blobs: BlobStore | None = None
    endpoint: EndpointOptions | None = None

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


class Recipe(Protocol):
    """A way to make preference data. Its fields are its options."""

    name: ClassVar[str]
    default_strategy: ClassVar[str]
    default_training: ClassVar[Mapping[str, Any]]
    roles: ClassVar[tuple[str, ...]]
    """Which of "annotator" and "writer" it uses; a recipe that does not say may use both."""

    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """Each prompt's completions (and annotations), or why it has none, in the order of the prompts."""
        ...
