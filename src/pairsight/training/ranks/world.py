"""The ranks that train one policy, and how each holds it. One process is the plain case, and here: it costs nothing.

What several processes do otherwise is in the files beside this one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pairsight.training.scorer import PackedPass, Pass, Scores, SequenceScorer
from pairsight.training.tokens import TokenExample

T = TypeVar("T")


class World:
    """All ranks as one of them sees them: here the only one."""

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this rank claims folders, logs and writes."""
        return self.rank == 0

    def all(self, value: T) -> list[T]:
        """The value of each rank, in their order."""
        return [value]

    def told(self, find: Callable[[], T]) -> T:
        """What the first rank finds; the others wait for it."""
        return find()

    def most(self, value: int) -> int:
        """The largest of a number that each rank has."""
        return value

    def wait(self) -> None:
        """Return when all ranks are here."""

    def same(self, what: str, value: object) -> None:
        """Check that all ranks have the same value.

        Raises:
            TrainingError: they do not; it says which rank differs, and in what.
        """

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over ranks, by name; a rank may lack names."""
        sums: dict[str, float] = {}
        for own in self.all(values):
            for name, value in own.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def share(self, scorer: SequenceScorer, numbers: Sequence[int]) -> Sequence[int]:
        """This rank's part of some examples, which all ranks name in the same order: about equal in tokens."""
        return numbers

    def replica(self, packed: PackedPass, way: str, max_grad_norm: float) -> "Replica":
        """The policy as this rank holds it.

        Args:
            packed: the policy, complete; its trained parts are marked.
            way: "ddp", "fsdp2", "zero2" or "zero3".
            max_grad_norm: gradients are scaled down to this norm; 0: never.
        """
        return Replica(packed, self)


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass of a rank.

    Args:
        rows: the pass.
        counts: whether its loss counts; one that does not only takes part in what the ranks do together.
        last: whether gradients are complete after it.
        calls: how often every rank calls the model in it, at least.
    """

    rows: Pass
    counts: bool
    last: bool
    calls: int = 1


class Replica:
    """The policy in training as one process holds it: complete, and stepped alone.

    Args:
        packed: the policy.
        world: the ranks.
    """

    def __init__(self, packed: PackedPass, world: World) -> None:
        self.policy: Any = packed.policy
        self.packed, self.world = packed, world
        self.module: nn.Module = packed

    def turns(self, scorer: SequenceScorer, numbers: Sequence[int], *, last: bool) -> Iterator[Turn]:
        """The passes of this rank over its part of a batch.

        Args:
            scorer: the dataset and how to score it.
            numbers: the examples of the batch, of all ranks.
            last: whether the batch is the last of its optimizer step.
        """
        for rows in scorer.passes(numbers):
            yield Turn(rows, counts=True, last=last)

    def pass_of(self, turn: Turn) -> AbstractContextManager[None]:
        """The context of a pass, forward and backward: it says whether gradients are exchanged after it."""
        return nullcontext()

    def backward(self, loss: Tensor, turn: Turn) -> None:
        """Add the gradients of a pass's part of the loss."""
        self.add_gradients(loss)

    def add_gradients(self, loss: Tensor) -> None:
        """Backward."""
        loss.backward()  # type: ignore[no-untyped-call]

    def norm(self) -> Tensor | None:
        """The norm of the gradient, where the parameters do not hold it complete or in parts of their own kind."""
        return None

    def start_step(self, seed: int, step: int) -> None:
        """Called before the first pass of an optimizer step."""

    def complete_gradients(self, examples: Iterable[TokenExample]) -> None:
        """Called when all gradients of an optimizer step are there, with its examples."""

    def scored(self, scorer: SequenceScorer, numbers: Sequence[int]) -> Iterator[Scores]:
        """Log-probs of this rank's part of some examples, pass by pass, without gradients."""
        return scorer.scored(self.module, numbers)

    def optimizer(self, groups: Any, rate: float) -> torch.optim.Optimizer:
        """AdamW on groups of trained parameters, made from `trained_names` by `parameter_groups`."""
        return torch.optim.AdamW(groups, lr=rate, fused=True)

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Trained parameters by the policy's own names, each complete; all ranks call it together."""
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad:
                yield name, parameter.detach()

    def assign(self, parameter: nn.Parameter, complete: Tensor) -> None:
        """Set a parameter, of which this rank may hold a part."""
        parameter.copy_(complete)

    def state(self) -> dict[str, Tensor] | None:
        """What `save_pretrained` writes, where the policy does not have it complete; all ranks call it together."""
        return None


def by_name(pairs: Iterable[tuple[str, Tensor]], keep: bool = True) -> dict[str, Tensor]:
    """Tensors by name, on the CPU; nothing is kept where another rank writes them."""
    found: dict[str, Tensor] = {}
    for name, tensor in pairs:
        if keep:
            found[name] = tensor.cpu().contiguous()
    return found
