"""The stages that score: (text, image) by one scorer, and (prompt, completion) by one scorer."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pairsight.engine.stage import Call, Json, MayBeCall, Resources
from pairsight.images.source import ImageSource
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.models.endpoint.model import EndpointModel, is_endpoint
from pairsight.models.load import load_or_reuse, release_memory
from pairsight.models.protocols import image_key, prompt_key
from pairsight.models.scorers.base import ImageText, Rated, Scorer
from pairsight.models.scorers.names import (
    asks,
    load_completion_scorer,
    load_image_scorer,
    parse_scorer,
    scorer_identity,
    scorer_kind,
)
from pairsight.records import Annotation, ItemError

In = TypeVar("In")


@dataclass(frozen=True, slots=True)
class ItemScores:
    """What a scorer said of one item, by column."""

    scores: Mapping[str, float]


@dataclass
class _Score(Generic[In]):
    """What both stages share.

    Args:
        scorer: `KIND:MODEL`.
        images: where the items' images are.
        keep_loaded: leave the scorer in memory after the stage.
    """

    scorer: str
    images: ImageSource
    keep_loaded: bool = False
    batch_size: int = 16
    version: int = 1
    resources: Resources = field(default_factory=lambda: Resources(num_gpus=1.0))
    _fingerprint: str = field(default="", repr=False)
    _loaded: Scorer[In] | None = field(default=None, init=False, repr=False)

    @property
    def kind(self) -> str:
        """The scorer's kind, e.g. "clip"."""
        return scorer_kind(self.scorer)

    def weights(self) -> dict[str, Json]:
        """What identifies the scorer: its kind and `scorer_identity`."""
        if not self._fingerprint:
            self._fingerprint = scorer_identity(self.scorer)
        return {"scorer": self.kind, "weights": self._fingerprint}

    def setup(self) -> None:
        """Load the scorer."""
        self._loaded = load_or_reuse((type(self), self.scorer, str(self.images)), self.load, self.keep_loaded)

    @abstractmethod
    def load(self) -> Scorer[In]:
        """The scorer, from its name."""

    def close(self) -> None:
        """Free the scorer, unless it is kept."""
        self._loaded = None
        release_memory()


@dataclass
class ScoreImages(_Score[ImageText]):
    """A `Stage` of (text, image) -> its scores."""

    output: type[ItemScores] = ItemScores

    @property
    def name(self) -> str:
        """E.g. "score_images/clip"."""
        return f"score_images/{self.kind}"

    def load(self) -> Scorer[ImageText]:
        """The scorer, from its name."""
        return load_image_scorer(self.scorer, self.images)

    def key(self, item: ImageText) -> Mapping[str, Json]:
        """The scorer, the text and the image."""
        return {**self.weights(), "text": item[0], "image": image_key(item[1])}

    def item_id(self, item: ImageText) -> str:
        """E.g. "a red bus (3f2a…)"."""
        return f"{item[0]:.60} ({item[1].sha256[:8]}…)"

    def process(self, items: Sequence[ImageText]) -> Iterator[ItemScores | ItemError]:
        """One result per item, scored as one batch."""
        assert self._loaded is not None, "setup comes first"
        for result in self._loaded.score(items):
            yield result if isinstance(result, ItemError) else ItemScores(result)


@dataclass
class ScoreCompletions(_Score[Rated], MayBeCall):
    """A `Stage` of (prompt, completion) -> an `Annotation` by this scorer; a paid call where it is an endpoint's model.

    Args:
        endpoint: how an endpoint is asked.
        annotation: how a judge is asked and answers.
    """

    output: type[Annotation] = Annotation
    endpoint: EndpointOptions | None = None
    annotation: AnnotationOptions = OURS

    @property
    def name(self) -> str:
        """E.g. "score_completions/armorm"."""
        return f"score_completions/{self.kind}"

    def weights(self) -> dict[str, Json]:
        """What identifies the scorer; of a judge that is not asked as ours is, with how."""
        own: Json = self.annotation.model_dump_json()
        return super().weights() | ({"annotation": own} if self.annotation != OURS and asks(self.scorer) else {})

    def as_call(self) -> Call[Rated, Annotation] | None:
        """The paid call that does the same, where the judge is behind an endpoint."""
        from pairsight.models.stages import judging_call

        _, model_name = parse_scorer(self.scorer)
        if not is_endpoint(model_name):
            return None
        model = EndpointModel(model_name, self.images, self.endpoint)
        return judging_call(model, self.name, self.kind, self.annotation)

    def load(self) -> Scorer[Rated]:
        """The scorer, from its name."""
        scorer = load_completion_scorer(self.scorer, self.images)
        scorer.ask_by(self.annotation)
        return scorer

    def key(self, item: Rated) -> Mapping[str, Json]:
        """The scorer, the dialogue with its images, and the completion's id, which the annotation carries."""
        prompt, completion = item
        other = None if completion.images is None else [image_key(image) for image in completion.images]
        return {
            **self.weights(),
            "prompt": prompt_key(prompt),
            "images": other,
            "completion": completion.text,
            "id": completion.id,
        }

    def item_id(self, item: Rated) -> str:
        """The completion's id."""
        return item[1].id

    def process(self, items: Sequence[Rated]) -> Iterator[Annotation | ItemError]:
        """One annotation per item, scored as one batch."""
        assert self._loaded is not None, "setup comes first"
        for (_, completion), result in zip(items, self._loaded.score(items), strict=True):
            yield result if isinstance(result, ItemError) else Annotation(completion.id, self.kind, dict(result))
