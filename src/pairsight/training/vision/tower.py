"""The vision tower and projector of any family, run on images; and the projector alone, on kept outputs of the tower.

Shapes: D width of the language model.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import vision_utils

from pairsight.errors import DataError
from pairsight.training.batch import to_device
from pairsight.training.families import TOWERS, base_model, evaluating, inner_model

Tensors = dict[str, Tensor]
Call = tuple[tuple[Any, ...], dict[str, object]]
"""Positional and named arguments of one call of a module."""


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one unit: token embeddings [tokens, D], and as many again per deepstack layer.

    `listed` says whether the model passes its features on as a list of images or as one tensor.
    """

    embeddings: Tensor
    deepstack: tuple[Tensor, ...]
    listed: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of memory held."""
        return sum(t.numel() * t.element_size() for t in (self.embeddings, *self.deepstack))


def run_tower(model: Any, tensors: Sequence[Tensors], num_tokens: Sequence[int]) -> list[Features]:
    """Vision tower and projector on several units, together where their tensors have one shape.

    Raises:
        DataError: the number of features is not the prompt's number of placeholders.
    """
    inner = inner_model(model)
    known = inspect.signature(inner.get_image_features).parameters
    results: list[Features | None] = [None] * len(tensors)
    waiting = list(range(len(tensors)))
    while waiting:
        shapes = {name: t.shape[1:] for name, t in tensors[waiting[0]].items()}
        together = [u for u in waiting if {name: t.shape[1:] for name, t in tensors[u].items()} == shapes]
        waiting = [u for u in waiting if u not in together]
        joined = {name: torch.cat([tensors[u][name] for u in together]) for name in shapes if name in known}
        out = inner.get_image_features(**_placed(model, joined), return_dict=True)
        counts = [num_tokens[u] for u in together]
        embeddings = _split(out.pooler_output, counts)
        layers = [_split(layer, counts) for layer in getattr(out, "deepstack_features", None) or []]
        for index, unit in enumerate(together):
            deepstack = tuple(layer[index] for layer in layers)
            results[unit] = Features(embeddings[index], deepstack, isinstance(out.pooler_output, (list, tuple)))
    return [r for r in results if r is not None]


@dataclass(frozen=True, slots=True)
class TowerOutput:
    """The output of a frozen tower for one unit, just before the projector.

    Args:
        calls: the arguments of each call of a projector, in order.
        inputs: the tensors of `get_image_features`, pixels replaced by constants of their shape.
        layers_give_tuples: whether the tower's layers return a tuple or a tensor.
    """

    calls: tuple[Call, ...]
    inputs: Tensors
    layers_give_tuples: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of memory held."""
        tensors = [t for args, options in self.calls for t in (*args, *options.values()) if isinstance(t, Tensor)]
        return sum(t.untyped_storage().nbytes() for t in (*tensors, *self.inputs.values()))


def record_tower(model: Any, projectors: Sequence[str], tensors: Tensors) -> TowerOutput:
    """Run the tower on one unit, without gradients, and keep the inputs of its projectors.

    Args:
        model: with a frozen tower.
        projectors: full names of the projector's modules.
        tensors: the unit's, from the processor.
    """
    inner = inner_model(model)
    known = inspect.signature(inner.get_image_features).parameters
    inputs = {name: t for name, t in tensors.items() if name in known}
    placed = _placed(model, inputs)
    calls: list[Call] = []
    tuples: list[bool] = []

    def keep(module: nn.Module, args: Any, options: Any) -> None:
        calls.append((tuple(_detached(a) for a in args), {name: _detached(a) for name, a in options.items()}))

    def look(module: nn.Module, args: Any, out: Any) -> None:
        tuples.append(isinstance(out, tuple))

    hooks = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in _modules(model, projectors)]
    hooks += [layer.register_forward_hook(look) for layer in _tower_layers(model, projectors)[:1]]
    try:
        with torch.no_grad(), evaluating(inner):
            inner.get_image_features(**placed, return_dict=True)
    finally:
        for hook in hooks:
            hook.remove()
    return TowerOutput(tuple(calls), {name: _stand_in(t, placed[name]) for name, t in inputs.items()}, any(tuples))


def project(model: Any, projectors: Sequence[str], output: TowerOutput, num_tokens: int) -> Features:
    """Features of one unit from its tower's output: the projector and what follows run, the tower's layers do not.

    Raises:
        DataError: the projector is not called as before, or the number of features is another.
    """
    inner = inner_model(model)
    waiting = list(output.calls)

    def replace(module: nn.Module, args: Any, options: Any) -> Call:
        if not waiting:
            raise DataError("the projector is called more often than when the tower's output was kept")
        return waiting.pop(0)

    hooks = [m.register_forward_pre_hook(replace, with_kwargs=True) for m in _modules(model, projectors)]
    try:
        with _passing_through(_tower_layers(model, projectors), output.layers_give_tuples):
            out = inner.get_image_features(**_placed(model, output.inputs), return_dict=True)
    finally:
        for hook in hooks:
            hook.remove()
    if waiting:
        raise DataError("the projector is called less often than when the tower's output was kept")
    (embeddings,) = _split(out.pooler_output, [num_tokens])
    layers = [_split(layer, [num_tokens])[0] for layer in getattr(out, "deepstack_features", None) or []]
    return Features(embeddings, tuple(layers), isinstance(out.pooler_output, (list, tuple)))


def _placed(model: Any, tensors: Tensors) -> Tensors:
    """What `get_image_features` is given: pixels on the device in the type of the tower's weights, sizes on the CPU.

    transformers makes Python numbers of sizes, for which the CPU would wait for a GPU each time. What towers compute
    from a grid of patches and use on the device is computed on the CPU here and put there.
    """
    inner = inner_model(model)
    tower = next((getattr(inner, name) for name in TOWERS if hasattr(inner, name)), inner)
    dtype = next(p.dtype for p in tower.parameters() if p.is_floating_point())
    by_grid = _BY_GRID.get(inner.config.model_type, ())
    on_cpu = {"image_sizes", "batch_num_images", *(("image_grid_thw",) if by_grid else ())}
    placed = {
        name: t if name in on_cpu else to_device(t.to(dtype) if t.is_floating_point() else t, inner.device)
        for name, t in tensors.items()
    }
    for find in by_grid:
        found = find(tower, tensors["image_grid_thw"])
        placed |= {name: t if name.startswith("cu_") else to_device(t, inner.device) for name, t in found.items()}
    return placed


def _positions(tower: Any, grid_thw: Tensor) -> Tensors:
    return {"position_ids": vision_utils.get_vision_position_ids(grid_thw, tower.spatial_merge_size)}


def _windows(tower: Any, grid_thw: Tensor) -> Tensors:
    sizes = tower.spatial_merge_size, tower.window_size, tower.patch_size
    index, ends = vision_utils.get_vision_window_index(grid_thw, *sizes)
    return {"window_index": index, "cu_window_seqlens": ends}


def _interpolation(tower: Any, grid_thw: Tensor) -> Tensors:
    indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        grid_thw,
        tower.num_grid_per_side,
        tower.interpolation_mode,
        tower.interpolation_align_corners,
        tower.spatial_merge_size,
    )
    return {"interp_indices": indices, "interp_weights": weights}


_BY_GRID: dict[str, tuple[Callable[[Any, Tensor], Tensors], ...]] = {
    "qwen2_vl": (_positions,),
    "qwen2_5_vl": (_positions, _windows),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), (_positions, _interpolation)),
}
"""Types of model -> what their towers compute from a grid; lengths (`cu_...`) become Python numbers."""


def _modules(model: Any, projectors: Sequence[str]) -> list[nn.Module]:
    return [base_model(model).get_submodule(name) for name in projectors]


def _tower_layers(model: Any, projectors: Sequence[str]) -> list[nn.Module]:
    """The transformer layers of the vision tower: members of its lists of modules, without the projector's."""
    inside_projector = {id(m) for module in _modules(model, projectors) for m in module.modules()}
    inner = inner_model(model)
    towers = [getattr(inner, name) for name in TOWERS if hasattr(inner, name)]
    lists = [m for tower in towers for m in tower.modules() if isinstance(m, nn.ModuleList)]
    members = [layer for modules in lists for layer in modules if id(layer) not in inside_projector]
    nested = {id(m) for layer in members for m in layer.modules() if m is not layer}
    return [layer for layer in members if id(layer) not in nested]


@contextmanager
def _passing_through(layers: Sequence[nn.Module], give_tuples: bool) -> Iterator[None]:
    """Let layers return their first argument instead of computing."""

    def unchanged(hidden: Tensor, *args: Any, **options: Any) -> Any:
        return (hidden,) if give_tuples else hidden

    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = unchanged
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _stand_in(tensor: Tensor, placed: Tensor) -> Tensor:
    """A constant of a tensor's shape instead of pixels; images that are all 0 are padding to some models and stay.

    Args:
        tensor: on the CPU, where it is looked at.
        placed: the same on the model's device.
    """
    if not tensor.is_floating_point():
        return placed
    if bool((tensor.to(placed.dtype).flatten(max(0, tensor.ndim - 3)) == 0).all(-1).any()):
        return placed
    return to_device(torch.tensor(1.0, dtype=placed.dtype), placed.device).expand(placed.shape)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _split(features: Any, counts: list[int]) -> list[Tensor]:
    pieces = list(features) if isinstance(features, (list, tuple)) else [features]
    flat = torch.cat([piece.reshape(-1, piece.shape[-1]) for piece in pieces])
    if len(flat) != sum(counts):
        raise DataError(f"the vision tower gives {len(flat)} features for {sum(counts)} image placeholders")
    return list(torch.split(flat, counts))
