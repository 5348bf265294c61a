"""A run on tensors without values, which have a shape, a type and a device, and what is allocated at once in it.

What a run computes from integers, pixels and numbers alone, without a weight, keeps its values: tokens, positions, the
sizes of images. So code that depends on them runs as it would.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

_ATEN = torch.ops.aten
_EMPTY = {
    _ATEN.empty, _ATEN.empty_strided, _ATEN.zeros, _ATEN.ones, _ATEN.full, _ATEN.rand, _ATEN.randn, _ATEN.randint,
    _ATEN.normal,
}  # fmt: skip
"""What makes a tensor that is filled later, or at random: fake where it holds floating point."""
_MOST_VALUES = 2**26
"""The most elements of a made tensor that keeps its values."""

Part = Literal["weights", "trained", "features", "gradients", "activations"]


class LiveBytes:
    """Bytes of all storages that are alive, by the part that they belong to, now and when they were the most."""

    def __init__(self) -> None:
        self.part: Part = "activations"
        self.now: Counter[Part] = Counter()
        self.peak: Counter[Part] = Counter()
        self._known: dict[int, tuple[weakref.ref[Any], int, Part]] = {}
        self._total = self._most = 0

    def see(self, tensor: Tensor) -> bool:
        """Count a tensor's storage, in the current part, if it is new; returns whether it is."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return False
        size = storage.nbytes()
        self._known[address] = weakref.ref(storage, lambda _: self._freed(address)), size, self.part
        self._add(self.part, size)
        return True

    def move(self, tensor: Tensor, part: Part) -> None:
        """Count a tensor's storage in another part."""
        self.see(tensor)
        address = tensor.untyped_storage()._cdata
        reference, size, before = self._known[address]
        if before != part:
            self._known[address] = reference, size, part
            self.now[before] -= size
            self.now[part] += size

    def start(self) -> None:
        """Forget the peak: what is alive now is the most so far."""
        self._most, self.peak = self._total, Counter(self.now)

    def _add(self, part: Part, size: int) -> None:
        self.now[part] += size
        self._total += size
        if self._total > self._most:
            self._most, self.peak = self._total, Counter(self.now)

    def _freed(self, address: int) -> None:
        _, size, part = self._known.pop(address)
        self.now[part] -= size
        self._total -= size


class FakeRun(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context operations run on tensors without values; `with run:` again continues it.

    Args:
        bytes: what is allocated.
        flops: operations of products and of attention so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = LiveBytes()
        self.flops = 0
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        # Weak references to tensors, with which a module could not be given another type.
        self._noted = self._fake.fake_tensor_converter.tensor_memo
        self._values: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __enter__(self) -> Self:
        """Let operations run here; of `FakeTensorMode` below, PyTorch makes no device ready where it is."""
        self._fake.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Let operations run as before."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._fake.__exit__(*error)

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """What is allocated inside belongs to a part."""
        before, self.bytes.part = self.bytes.part, part
        try:
            with self:
                yield
        finally:
            self.bytes.part = before

    def allocated(self, tensor: Tensor) -> None:
        """Called with each tensor that has a storage of its own; to be overridden."""

    def synchronised(self, func: Any) -> None:
        """Called where the host waits for a device's value; to be overridden."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one operation, really or on fake tensors."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is _ATEN._local_scalar_dense.default:
            return self._scalar(tensors[0])
        elsewhere = kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "cpu"
        if elsewhere or any(isinstance(tensor, FakeTensor) for tensor in tensors):
            out = self._on_fake(func, tensors, args, kwargs)
        elif tensors or func.overloadpacket not in _EMPTY:
            with unset_fake_temporarily():
                out = func(*args, **kwargs)
        else:
            out = self._made(func, args, kwargs)
        formula: Any = flop_registry.get(func.overloadpacket) or _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and self.bytes.see(leaf):
                self.allocated(leaf)
        return out

    def _made(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """A tensor that is filled later: real only if it holds integers."""
        fake = func(*args, **kwargs)
        self._noted.clear()
        if fake.is_floating_point() or fake.numel() > _MOST_VALUES:
            return fake
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _on_fake(self, func: Any, tensors: list[Tensor], args: tuple[Any, ...], kwargs: Any) -> Any:
        if func._schema.is_mutable and tensors and not isinstance(tensors[0], FakeTensor) and "out" not in kwargs:
            raise RuntimeError(f"{func} writes a value that is not known into a tensor with values")
        if func is _ATEN.index.Tensor:  # a mask with values selects a known number
            if args[0].device.type != "cpu" and any(
                index is not None and index.device.type == "cpu" for index in args[1]
            ):
                self.synchronised(func)  # the index is copied to the device first
            args = (args[0], [part for index in args[1] for part in self._selected(index)])
        known = [self._known(tensor) for tensor in tensors]
        if tensors and all(value is not None for value in known):
            return self._with_values(func, tensors, args, kwargs)
        out = func(*args, **kwargs)
        self._noted.clear()
        return out

    def _with_values(self, func: Any, tensors: list[Tensor], args: tuple[Any, ...], kwargs: Any) -> Any:
        """An operation on tensors of which some are on a device and all have known values, that the result has too."""
        on_cpu = dict(kwargs)
        asked = on_cpu.pop("device", None)
        with unset_fake_temporarily():
            value = func(*tree_map(self._known_or_same, args), **tree_map(self._known_or_same, on_cpu))
        if func is _ATEN._to_copy.default and asked is not None and torch.device(asked).type == "cpu":
            self.synchronised(func)
            return value
        try:
            out = func(*args, **kwargs)
        except DynamicOutputShapeException:
            self.synchronised(func)
            device = next(tensor.device for tensor in tensors if tensor.device.type != "cpu")
            out = tree_map(lambda one: self._like(one, device) if isinstance(one, Tensor) else one, value)
        for made, real in zip(tree_leaves(out), tree_leaves(value), strict=True):
            if isinstance(made, FakeTensor):
                self._values[made] = real
        return out

    def _like(self, value: Tensor, device: torch.device) -> Tensor:
        with self._fake:
            return torch.empty(value.shape, dtype=value.dtype, device=device)

    def _known(self, tensor: Tensor) -> Tensor | None:
        return self._values.get(tensor) if isinstance(tensor, FakeTensor) else tensor  # type: ignore[no-untyped-call]

    def _known_or_same(self, leaf: Any) -> Any:
        return self._known(leaf) if isinstance(leaf, Tensor) else leaf

    def _selected(self, index: Tensor | None) -> list[Tensor | None]:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            return [index]
        value = self._known(index)
        if value is None:
            return [index]
        if index.device.type != "cpu":
            self.synchronised(_ATEN.index.Tensor)
        with unset_fake_temporarily():
            return list(value.nonzero().unbind(1))

    def _scalar(self, tensor: Tensor) -> Any:
        """The value of a tensor of one element; 0 where it is not known."""
        if tensor.device.type != "cpu":
            self.synchronised(_ATEN._local_scalar_dense.default)
        value = self._known(tensor)
        with unset_fake_temporarily():
            return torch.zeros((), dtype=tensor.dtype).item() if value is None else value.item()


def _attention(*given: Any, is_causal: bool = False, **_: Any) -> int:
    """Operations of attention on a CPU, given query, key, value, dropout and whether it is causal: two products."""
    query, key = given[:2]
    products = 2 * 2 * query.numel() * key.shape[-2]
    return int(products // 2 if is_causal or given[4:5] == (True,) else products)


def _attention_backward(*given: Any, **_: Any) -> int:
    """Of its backward pass, given the gradient, query, key, value, ..., dropout and whether it is causal: five."""
    return 5 * _attention(*given[1:3], is_causal=given[7]) // 2


_FORMULAS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
