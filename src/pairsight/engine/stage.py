"""What a piece of resumable work is: a `Stage` (local) or a `Call` (paid, its raw answer kept before parsing)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pairsight.records import ItemError

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker of a stage needs; GPUs where there are any, else it works on CPUs."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0


class Stage(Protocol[In, Out]):
    """Local work on items, one result or error per item. A frozen, picklable config; weights load in `setup`."""

    @property
    def name(self) -> str:
        """The stage's name in the ledger and on the command line."""
        ...

    @property
    def version(self) -> int:
        """Raised when the same inputs would give other results."""
        ...

    @property
    def output(self) -> type[Out]:
        """The record class of a result."""
        ...

    @property
    def resources(self) -> Resources:
        """What one worker needs."""
        ...

    @property
    def batch_size(self) -> int:
        """How many items `process` is given at once; never part of an item's key."""
        ...

    def key(self, item: In) -> Mapping[str, Json]:
        """All that determines the item's result, besides the stage's name and version: what its hash is made of."""
        ...

    def item_id(self, item: In) -> str:
        """The item's name in messages and lists of failures."""
        ...

    def setup(self) -> None:
        """Load weights; called once per worker, before the first `process`."""
        ...

    def process(self, items: Sequence[In]) -> Iterable[Out | ItemError]:
        """One result or `ItemError` per item, in order."""
        ...

    def close(self) -> None:
        """Free what `setup` loaded."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """A paid request: the URL it is posted to, its body as sent (no secrets), and an estimate of its tokens."""

    url: str
    body: Mapping[str, object]
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def model(self) -> str:
        """The model that the body names; empty where it names none."""
        return str(self.body.get("model", ""))


class Call(ABC, Generic[In, Out]):
    """The base of a paid call: `request` is sent by the engine, the raw answer is committed, then `parse` makes the
    result.
    """

    name: str
    """The stage's name in the ledger."""
    version: int
    """Raised when the same inputs would give other requests."""
    parser_version: int
    """Raised when the same raw answer would give another result; then kept answers are parsed again, free."""
    output: type[Out]
    """The record class of a result."""

    @abstractmethod
    def key(self, item: In) -> Mapping[str, Json]:
        """All that determines the request: what the item's hash is made of."""

    @abstractmethod
    def item_id(self, item: In) -> str:
        """The item's name in messages and lists of failures."""

    @abstractmethod
    def request(self, item: In) -> Request:
        """The request for this item."""

    @abstractmethod
    def parse(self, item: In, raw: str) -> Out | ItemError:
        """The result in a raw answer; free and repeatable."""


class MayBeCall(ABC):
    """The base of a stage that is a paid call when its model is behind an endpoint."""

    @abstractmethod
    def as_call(self) -> Any:
        """The call that does the same work; None where the work is local."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that came back: its results in order, all of them unless `error` says what cut it short."""

    ticket: int
    results: Sequence[object | ItemError]
    error: BaseException | None = None


class Workers(Protocol):
    """A stage set up on its workers."""

    @property
    def capacity(self) -> int:
        """How many batches may be under way at once."""
        ...

    def submit(self, ticket: int, batch: Sequence[Any]) -> None:
        """Give a batch to a worker; at most `capacity` may be under way."""
        ...

    def take(self) -> Finished:
        """Wait for a batch, any batch, to come back."""
        ...


class Engine(Protocol):
    """Runs stages on workers: `setup` once a worker before the first batch, `close` at the end."""

    def open(self, stage: Stage[Any, Any]) -> AbstractContextManager[Workers]:
        """The workers of one stage."""
        ...
