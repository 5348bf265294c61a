"""Every rank holds a part of the optimizer's state and of the gradients (ZeRO-2), and of the layers' weights (ZeRO-3).

By DeepSpeed, which gathers each module's own weights while it runs: the fast layers and adapters, which read those of
others, are not used in ZeRO-3. Frozen weights outside the decoder layers are kept from DeepSpeed: an image is encoded
by the rank that needs it, alone. What is trained outside the layers (projector, tower, embeddings, head) stays complete
while a step's passes run, as images and chunks of tokens call it, which ranks have different numbers of; its gradients
and moments are divided.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pairsight.errors import MissingExtraError
from pairsight.training.families import language_model
from pairsight.training.ranks.ddp import OneOfSeveral
from pairsight.training.ranks.world import Turn, World
from pairsight.training.scorer import PackedPass

_BUCKET = 2**26
"""Gradients that are exchanged at once, in numbers."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(OneOfSeveral):
    """ZeRO of a stage, 2 or 3: gradients are exchanged after every pass.

    Args:
        packed: the policy, complete.
        world: the ranks.
        stage: 2 or 3.
        max_grad_norm: gradients are scaled down to this norm; 0: never.

    Raises:
        MissingExtraError: DeepSpeed is not installed.
    """

    def __init__(self, packed: PackedPass, world: World, stage: int, max_grad_norm: float) -> None:
        try:
            import deepspeed  # noqa: F401
        except ImportError:
            raise MissingExtraError(f"parallel=zero{stage}", "deepspeed") from None
        super().__init__(packed, world)
        self._stage, self._max_grad_norm, self.gathers = stage, max_grad_norm, stage == 3
        self._engine: Any = None

    def optimizer(self, groups: Any, rate: float) -> torch.optim.Optimizer:
        """AdamW on this rank's parts; here DeepSpeed takes over the policy."""
        import deepspeed

        parameters = [list(group["params"]) for group in groups]
        inner = torch.optim.AdamW(groups, lr=rate)
        layers = list(getattr(language_model(self.policy), "layers", ()))
        inside = {id(p) for layer in layers for p in layer.parameters()}
        outside = [p for group in parameters for p in group if id(p) not in inside]
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": self._max_grad_norm,
            "steps_per_print": 2**31,
            "zero_optimization": {
                "stage": self._stage,
                "overlap_comm": False,
                "reduce_bucket_size": _BUCKET,
                "stage3_param_persistence_threshold": 0,
            },
        }
        if self._stage == 3:
            _stand_aside(self.policy)
        # DeepSpeed reads it at every pass; accelerate, from which it was hidden, has been set up
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device() if torch.cuda.is_available() else self.world.rank)

        def managed() -> AbstractContextManager[None]:
            return _without(self.packed, layers) if self._stage == 3 else nullcontext()

        apart = self._stage == 3 and bool(outside)
        with managed(), _without_hooks(_around(self.packed, layers) if apart else []):
            engine, *_ = deepspeed.initialize(model=self.packed, optimizer=inner, config=config)
        if apart:
            _keep_complete(engine.optimizer, outside)
        self._engine = self.module = engine
        return _Steps(engine, inner, parameters, managed, stage=self._stage, keep=self.world.first)

    @contextmanager
    def pass_of(self, turn: Turn) -> Iterator[None]:
        """The context of a pass, forward and backward."""
        self._engine.set_gradient_accumulation_boundary(turn.last)
        yield

    def add_gradients(self, loss: Tensor) -> None:
        """Backward, and the exchange of gradients."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def norm(self) -> Tensor | None:
        """The norm of the complete gradient, which no parameter holds; infinite where it is not a number."""
        zero = self._engine.optimizer
        if self._stage == 2:
            norm = torch.as_tensor(zero.scaled_global_norm())
        else:
            norm = torch.linalg.vector_norm(torch.stack([torch.as_tensor(n).float() for n in zero._get_norm_groups()]))
        return torch.where(norm >= 0, norm, torch.inf)

    def trained(self) -> Iterator[tuple[str, Tensor]]:
        """Trained parameters by the policy's own names, each complete; all ranks call it together."""
        if self._engine is None:
            yield from super().trained()
            return
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad:
                yield name, safe_get_full_fp32_param(parameter).detach()

    def assign(self, parameter: nn.Parameter, complete: Tensor) -> None:
        """Set a parameter, and this rank's part of what the optimizer steps."""
        if self._engine is None:
            super().assign(parameter, complete)
            return
        import deepspeed

        value = complete.to(parameter.device, torch.float32)
        if self._stage == 2:
            deepspeed.utils.safe_set_full_fp32_param(parameter, value)
        else:
            _set_part(self._engine.optimizer, parameter, value, None)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0) if self._stage == 3 else nullcontext():
            parameter.data.copy_(value)
        if self._stage == 3:
            _gather([parameter])

    def state(self) -> dict[str, Tensor] | None:
        """All weights that are trained or complete on this rank, by name; only the first rank keeps them."""
        if self._engine is None:
            return None
        trained = {name: tensor.cpu() for name, tensor in self.trained() if self.world.first}
        names = {id(parameter): name for name, parameter in self.policy.named_parameters()}
        weights: dict[str, nn.Parameter] = self.policy.state_dict(keep_vars=True)
        found = {name: trained.get(names.get(id(weight), ""), weight.detach()) for name, weight in weights.items()}
        parts = {name for name, weight in weights.items() if hasattr(weight, "ds_id") and not weight.requires_grad}
        return {name: tensor for name, tensor in found.items() if name not in parts}


class _Steps(torch.optim.Optimizer):
    """DeepSpeed's optimizer as the loop steps, saves and loads one: its state is complete.

    Args:
        engine: DeepSpeed's.
        inner: AdamW, whose groups DeepSpeed changed in place.
        parameters: those of each group, as they were.
        managed: the context in which the module has only what DeepSpeed knows.
        stage: 2 or 3.
        keep: whether this rank writes the state.
    """

    def __init__(
        self,
        engine: Any,
        inner: torch.optim.AdamW,
        parameters: list[list[nn.Parameter]],
        managed: Callable[[], AbstractContextManager[None]],
        *,
        stage: int,
        keep: bool,
    ) -> None:
        self._managed = managed
        self._engine, self._inner, self._stage, self._keep = engine, inner, stage, keep
        self._parameters = parameters
        self.defaults, self.param_groups = inner.defaults, inner.param_groups
        self._taken = torch.zeros(())

    @property
    def state(self) -> Any:  # type: ignore[override]
        """AdamW's own."""
        return self._inner.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all ranks."""
        with self._managed():
            self._engine.step()
        self._taken += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Gradients are removed by the step."""

    def state_dict(self) -> Any:
        """The complete state, where it is kept; all ranks call it together."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if self._taken:
            self._link()
        state: dict[int, dict[str, Tensor]] = {}
        ordered = [p for group in self._parameters for p in group]
        for index, parameter in enumerate(ordered if self._taken else []):
            moments = {name: safe_get_full_optimizer_state(parameter, name) for name in _MOMENTS}
            if self._keep:
                state[index] = {name: moment.cpu() for name, moment in moments.items()} | {"step": self._taken.clone()}
        groups, first = [], 0
        for group, members in zip(self.param_groups, self._parameters, strict=True):
            groups.append({**group, "params": list(range(first, first + len(members)))})
            first += len(members)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take this rank's parts of a complete state."""
        if not state_dict["state"]:
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        self._taken = state_dict["state"][0]["step"].cpu().float().clone()
        self._make_state()
        ordered = [p for group in self._parameters for p in group]
        for index, parameter in enumerate(ordered):
            for name in _MOMENTS:
                value = state_dict["state"][index][name].to(parameter.device)
                if self._stage == 2:
                    safe_set_full_optimizer_state(parameter, value, name)
                else:
                    _set_part(self._engine.optimizer, parameter, value, name)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})

    def _make_state(self) -> None:
        """Moments of this rank's flat parts, which AdamW makes at its first step."""
        zero, two = self._engine.optimizer, self._stage == 2
        for flat in zero.single_partition_of_fp32_groups if two else zero.fp32_partitioned_groups_flat:
            moments = {name: torch.zeros_like(flat) for name in _MOMENTS}
            self._inner.state[flat] = {"step": self._taken.clone(), **moments}
        self._link()

    def _link(self) -> None:
        """Let DeepSpeed find the moments of every group: it looks after the first group's first step."""
        if self._stage == 2:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


def _around(packed: PackedPass, layers: list[nn.Module]) -> list[nn.Module]:
    """The modules of a policy outside of its decoder layers."""
    inside = {id(module) for layer in layers for module in layer.modules()}
    return [module for module in packed.modules() if id(module) not in inside and module is not packed]


@contextmanager
def _without_hooks(modules: list[nn.Module]) -> Iterator[None]:
    """Remove hooks that some modules are given inside.

    DeepSpeed's would gather what the modules hold, ahead of time by the order in which they were called before; and
    these are called as often as a rank has images, or chunks of tokens to predict.
    """
    found = [hooks for module in modules for hooks in (module._forward_pre_hooks, module._forward_hooks)]
    before = [set(hooks) for hooks in found]
    yield
    for hooks, known in zip(found, before, strict=True):
        for number in set(hooks) - known:
            del hooks[number]


def _keep_complete(zero: Any, parameters: list[Any]) -> None:
    """Let every rank hold some parameters complete between steps, so that nothing gathers them when they are used."""
    for parameter in parameters:
        if not parameter.ds_persist:
            parameter.ds_persist = True
            zero.persistent_parameters.append(parameter)
    _gather(zero.persistent_parameters)


def _gather(parameters: list[Any]) -> None:
    """Make those parameters complete that are kept so."""
    kept = [parameter for parameter in parameters if parameter.ds_persist]
    if kept:
        kept[0].all_gather(kept)


def _stand_aside(policy: nn.Module) -> None:
    """Give modules their own forward back: the fast ones read weights of other modules, which are not gathered."""
    for module in policy.modules():
        module.__dict__.pop("forward", None)


def _set_part(zero: Any, parameter: nn.Parameter, complete: Tensor, moment: str | None) -> None:
    """Set this rank's part of a parameter's float32 values, or of a moment; DeepSpeed's own way needs equal parts."""
    part, _ = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=moment)
    start = part.numel() * torch.distributed.get_rank()
    own = complete.flatten()[start : start + part.numel()]
    part[: len(own)].copy_(own)


@contextmanager
def _without(packed: PackedPass, layers: list[nn.Module]) -> Iterator[None]:
    """The module without its parts outside some layers of which nothing is trained."""
    kept = {id(module) for layer in layers for module in layer.modules()}
    removed: list[tuple[nn.Module, str, nn.Module]] = []

    def visit(module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            inside = [m for m in child.modules() if id(m) in kept]
            if id(child) in kept:
                continue
            if inside or any(p.requires_grad for p in child.parameters()):
                visit(child)
            elif any(True for _ in child.parameters()):
                removed.append((module, name, child))

    visit(packed)
    for parent, name, _ in removed:
        del parent._modules[name]
    try:
        yield
    finally:
        for parent, name, child in removed:
            parent._modules[name] = child
