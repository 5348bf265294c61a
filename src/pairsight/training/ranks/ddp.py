"""Every rank holds the policy complete; gradients are averaged at the end of a step (DDP)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pairsight.seeds import derived_seed
from pairsight.training.families import base_model
from pairsight.training.policy import part_of
from pairsight.training.ranks.world import Replica, Turn, World
from pairsight.training.scorer import PackedPass, Pass, Scores, SequenceScorer
from pairsight.training.tokens import TokenExample


class OneOfSeveral(Replica):
    """What all ways to hold a policy by several ranks do.

    Args:
        packed: the policy, complete; its trained parts are marked.
        world: the ranks.
    """

    equal_turns = True
    """Whether every pass exchanges something, so that each rank needs as many as the others."""
    gathers = False
    """Whether every call of a layer does, so that each rank needs as many calls in a pass as the others."""

    def __init__(self, packed: PackedPass, world: World) -> None:
        super().__init__(packed, world)
        packed.in_step_with_others()
        if any(part_of(name) != "language" for name, p in self.policy.named_parameters() if p.requires_grad):
            base_model(self.policy).get_input_embeddings().register_forward_hook(_with_gradient)

    def start_step(self, seed: int, step: int) -> None:
        """Draw dropout from this rank's own sequence, which is the same after resuming."""
        torch.manual_seed(derived_seed(seed, step, self.world.rank))

    def complete_gradients(self, examples: Iterable[TokenExample]) -> None:
        """What only images reach has no gradient where no example has one, as in one process."""
        if any(example.first_unit is not None for example in examples):
            return
        for name, parameter in self.policy.named_parameters():
            if part_of(name) != "language":
                parameter.grad = None

    def turns(self, scorer: SequenceScorer, numbers: Sequence[int], *, last: bool) -> Iterator[Turn]:
        """The passes of this rank, filled up by some without weight to as many as another has."""
        own = scorer.passes(self.world.share(scorer, numbers))
        count = max(self.world.most(len(own)) if self.equal_turns else len(own), 1 if last else 0)
        filler: Pass = [(int(scorer.examples.num_tokens_E.argmin()),)]
        rows = [*own, *([filler] * (count - len(own)))]
        calls = [1] * count
        if self.gathers and not scorer.shares:
            calls = [max(those) for those in zip(*self.world.all([scorer.calls(one) for one in rows]), strict=True)]
        for index, (one, most) in enumerate(zip(rows, calls, strict=True)):
            yield Turn(one, counts=index < len(own), last=last and index == count - 1, calls=most)

    def backward(self, loss: Tensor, turn: Turn) -> None:
        """Add the gradients of a pass's part of the loss, which are averaged over ranks and not added up."""
        self.add_gradients(loss * (self.world.size if turn.counts else 0.0))

    def scored(self, scorer: SequenceScorer, numbers: Sequence[int]) -> Iterator[Scores]:
        """Log-probs of this rank's part of some examples."""
        for turn in self.turns(scorer, numbers, last=False):
            with torch.no_grad():
                scores = scorer.score(self.module, turn.rows, turn.calls)
            if turn.counts:
                yield scores


def _with_gradient(module: nn.Module, inputs: Any, embeddings: Tensor) -> Tensor:
    """Embeddings that want a gradient, as those with trained image features do: hooks then run alike in every call."""
    return embeddings + embeddings.new_zeros((), requires_grad=torch.is_grad_enabled())


class Ddp(OneOfSeveral):
    """DDP: only the last pass of a step exchanges gradients."""

    equal_turns = False

    def __init__(self, packed: PackedPass, world: World) -> None:
        super().__init__(packed, world)
        self._ddp = DistributedDataParallel(packed, broadcast_buffers=False)
        self.module = self._ddp

    def pass_of(self, turn: Turn) -> AbstractContextManager[None]:
        """The context of a pass, forward and backward."""
        return nullcontext() if turn.last else self._ddp.no_sync()
