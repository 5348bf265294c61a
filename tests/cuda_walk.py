"""A training's passes on a GPU's tensors without a GPU: `make cuda-walk` walks three published models at true size.

On fake `cuda` tensors, as on a card, a tensor left on the CPU is an error. Noted are products in another type than
bfloat16, places where the host waits for the device, and the largest tensors. The backward pass asks for a real device,
so it is walked on fake CPU tensors, in bfloat16 too. `tests/contract/test_walk_on_fake_tensors.py` does what needs no
CUDA build.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import true_shapes
from family_prompts import Pictures
from pairsight.engine.progress import Progress
from pairsight.images.source import WithImages
from pairsight.records import Completion, Message, PreferencePair, Prompt
from pairsight.training.forecast.fake import FakeRun
from pairsight.training.forecast.fake_training import GIB, Device, FakeTraining
from pairsight.training.trainer import PreferenceTrainer

_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.convolution}
LETTERS = "what is to be seen in this picture, and which of it matters most to somebody who looks for it? "


@dataclass
class Seen:
    """What one part of a walk met.

    Args:
        waits: where the host waits for the device -> how often.
        products: type of a product -> how many.
        wide: where products are in float32 -> how many.
        largest: elements and shape of the largest tensor that is no weight, by floating point or not.
    """

    waits: Counter[str] = field(default_factory=Counter)
    products: Counter[torch.dtype] = field(default_factory=Counter)
    wide: Counter[str] = field(default_factory=Counter)
    largest: tuple[int, tuple[int, ...]] = (0, ())


class Walk(FakeRun):
    """A run that notes what it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()

    def take(self) -> Seen:
        """What was met since the last call."""
        seen, self.seen = self.seen, Seen()
        return seen

    def allocated(self, tensor: Tensor) -> None:
        if self.bytes.part == "activations":
            self.seen.largest = max(self.seen.largest, (tensor.numel(), tuple(tensor.shape)))

    def synchronised(self, func: Any) -> None:
        self.seen.waits[f"{func.overloadpacket.__name__} {caller()}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func.overloadpacket in _PRODUCTS or "scaled_dot_product" in func.overloadpacket.__name__:
            dtype = args[0].dtype
            self.seen.products[dtype] += 1
            if dtype != torch.bfloat16:
                self.seen.wide[f"{func.overloadpacket.__name__} {caller()}"] += 1
        return out


def caller() -> str:
    """The line of Pairsight, else of transformers, that is being run."""
    frame, other = sys._getframe(2), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/pairsight/training/" in path and "/forecast/" not in path:
            return other or f"{path.rpartition('/pairsight/')[2]}:{frame.f_lineno}"
        if "/transformers/" in path and not other:
            other = f"{path.rpartition('/transformers/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return other


def pairs() -> tuple[WithImages, Pictures]:
    """Two questions on one image, one with two rejected completions, and one question on another image."""
    pictures = Pictures()
    images = [pictures.ref(1, 640, 480), pictures.ref(2, 500, 375)]
    made = []
    for number, (image, rejected) in enumerate([(0, 2), (0, 1), (1, 1)]):
        prompt = Prompt(f"p{number}", (Message("user", f"{number} {LETTERS}"[:60], (images[image],)),))
        texts = [f"{n} {LETTERS * 2}"[: 100 + 20 * n] for n in range(1 + rejected)]
        chosen, *others = (Completion(f"{number}:{n}", prompt.id, t, "stop", "m", 0, n) for n, t in enumerate(texts))
        made.append(PreferencePair(prompt.id, prompt, chosen, tuple(others), "walk"))
    return WithImages(tuple(made), pictures), pictures


@dataclass(frozen=True)
class Walked:
    """What the walk of one model found, part by part."""

    parameters: int
    tokens: int
    row: int
    vocabulary: int
    parts: dict[str, Seen]
    trained: Counter[torch.dtype]
    gradients: Counter[torch.dtype]


def walk(folder: Path, device: str, *, backward: bool, **options: Any) -> Walked:
    """The reference's pass and the step's, of three pairs, on fake tensors of a device."""
    records, pictures = pairs()
    given = {
        "lora_r": 128,
        "bf16": True,
        "max_tokens_per_pass": 8192,
        "max_length": 8192,
        "group_by_image": True,
        **options,
    }
    trainer = PreferenceTrainer(
        folder, out=folder / "out", images=pictures, progress=Progress("quiet"), report_to=(), **given
    )
    run = Walk()
    training = FakeTraining(trainer, records, pictures, Device(True, 80 * GIB), run=run, on=torch.device(device))
    parts = {"vision tower": run.take()}
    numbers = range(len(records))
    packed = training.scorer.packed
    (rows,) = training.scorer.passes(numbers)
    training.forward(rows)
    parts["reference"] = run.take()
    parameters = sum(p.numel() for p in training.model.parameters())
    training.make_policy(0)
    run.take()
    model = training.model
    with run:
        scores = training.scorer.score(packed(model), rows)
    parts["step, forward"] = run.take()
    gradients: Counter[torch.dtype] = Counter()
    if backward:
        with run:
            scores.sums_Q.sum().backward()
        parts["step, backward"] = run.take()
        gradients = Counter(p.grad.dtype for p in model.parameters() if p.grad is not None)
    return Walked(
        parameters=parameters,
        tokens=training.num_tokens(rows),
        row=training.num_tokens(rows) // len(rows),
        vocabulary=model.get_output_embeddings().weight.shape[0],
        parts=parts,
        trained=Counter(p.dtype for p in model.parameters() if p.requires_grad),
        gradients=gradients,
    )


def report(name: str, device: str, found: Walked) -> list[str]:
    """The lines that are printed of a walk."""
    lines = [f"{name} on fake {device} tensors: {found.parameters:,} parameters, {found.tokens} tokens in a pass"]
    for part, seen in found.parts.items():
        products = ", ".join(
            f"{count} in {str(dtype).removeprefix('torch.')}" for dtype, count in seen.products.items()
        )
        lines.append(f"  {part}: products {products}; largest tensor {list(seen.largest[1])}")
        lines += [f"    waits {count} times: {where}" for where, count in seen.waits.most_common()]
        lines += [f"    {count} products not in bfloat16: {where}" for where, count in seen.wide.most_common()]
    lines.append(f"  trained weights {dict(found.trained)}, gradients {dict(found.gradients)}")
    return lines


@contextmanager
def autocast_without_a_card() -> Iterator[None]:
    """Let autocast work for tensors of a GPU that is not there."""
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
    ):
        yield


def main() -> None:
    """Walk the three models: forward on fake cuda tensors, and everything on fake CPU tensors."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or true_shapes.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            true_shapes.build(name, Path(folder))
            with autocast_without_a_card():
                print("\n".join(report(name, "cuda", walk(Path(folder), "cuda", backward=False))), flush=True)
            print("\n".join(report(name, "cpu", walk(Path(folder), "cpu", backward=True))), flush=True)


if __name__ == "__main__":
    main()
