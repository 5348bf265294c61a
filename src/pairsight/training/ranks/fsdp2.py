"""Every rank holds a part of each weight; a layer's are gathered while it runs (PyTorch's FSDP2).

Gathered as one: each decoder layer, and what else is trained. Frozen weights outside the layers (embeddings, head,
vision tower, projector) stay complete on every rank: an image is encoded by the rank that needs it, alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pairsight.errors import TrainingError
from pairsight.training.families import language_model
from pairsight.training.ranks.ddp import OneOfSeveral
from pairsight.training.ranks.world import Turn, World
from pairsight.training.scorer import PackedPass


class Fsdp2(OneOfSeveral):
    """FSDP2: each pass gathers weights; only the last one of a step exchanges gradients.

    Raises:
        TrainingError: a weight was not divided.
    """

    gathers = True

    def __init__(self, packed: PackedPass, world: World) -> None:
        super().__init__(packed, world)
        mesh = init_device_mesh(self.policy.device.type, (world.size,))
        layers = getattr(language_model(self.policy), "layers", ())
        inside = {id(p) for layer in layers for p in layer.parameters()}
        complete = {p for p in packed.parameters() if not p.requires_grad and id(p) not in inside}
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(packed, mesh=mesh, reshard_after_forward=True, ignored_params=complete)
        kept = {id(p) for p in complete}
        for name, parameter in packed.named_parameters():
            if id(parameter) not in kept and not isinstance(parameter, DTensor):
                raise TrainingError(f"parallel=fsdp2: {name} was not divided over the processes; use parallel=ddp")

    @contextmanager
    def pass_of(self, turn: Turn) -> Iterator[None]:
        """The context of a pass, forward and backward."""
        module = self.packed
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(turn.last)
        yield

    def optimizer(self, groups: Any, rate: float) -> torch.optim.Optimizer:
        """AdamW on this rank's parts; its state is saved and loaded complete."""
        return _AdamW(groups, lr=rate, fused=True, keep=self.world.first)

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Trained parameters by the policy's own names, each complete; all ranks call it together."""
        for name, parameter in super().trained():
            yield name, _complete(parameter)

    def assign(self, parameter: nn.Parameter, complete: Tensor) -> None:
        """Set this rank's part of a parameter."""
        parameter.copy_(_part(complete, parameter))

    def state(self) -> dict[str, Tensor] | None:
        """All weights that are trained or complete on this rank, by name; only the first rank keeps them."""
        found: dict[int, Tensor] = {}
        for parameter in self.policy.parameters():
            if parameter.requires_grad:
                complete = _complete(parameter.detach())
                if self.world.first:
                    found[id(parameter)] = complete.cpu()
        weights: dict[str, nn.Parameter] = self.policy.state_dict(keep_vars=True)
        return {
            name: found.get(id(weight), weight.detach())
            for name, weight in weights.items()
            if id(weight) in found or not isinstance(weight, DTensor)
        }


class _AdamW(torch.optim.AdamW):
    """AdamW on parts of parameters, with a state as one process would write and read it."""

    def __init__(self, groups: Any, *, keep: bool, **options: Any) -> None:
        super().__init__(groups, **options)
        self._keep = keep

    def state_dict(self) -> Any:
        """The complete state, where it is kept; all ranks call it together."""
        found = super().state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for index, values in found["state"].items():
            complete = {name: _complete(value) for name, value in values.items()}
            if self._keep:
                state[index] = {name: value.cpu() for name, value in complete.items()}
        return {**found, "state": state}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take this rank's parts of a complete state."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        state = {
            index: {
                name: _part(value, parameters[index]) if value.shape == parameters[index].shape else value
                for name, value in values.items()
            }
            for index, values in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": state})


def _complete(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _part(complete: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor, divided as another one is."""
    if not isinstance(like, DTensor):
        return complete
    on_device = complete.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
