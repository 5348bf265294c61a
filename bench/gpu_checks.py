"""Check that the fast paths of a training compute on this device what plain transformers computes.

`python bench/gpu_checks.py --out FILE [--tiny]` writes each result to FILE as soon as it is known; `gpu.py` runs it.

The rule, which holds for any type and device: a path's log-probs and gradients may be twice as far from a float64
computation, sequence by sequence by plain transformers, as plain transformers' own in the path's type. The float64
model has the same weights, rounded as the path's are. Where both are exact but for float32's rounding, a floor holds.
"""

import argparse
import copy
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import card
from gpu_layouts import LAYOUTS, items
from llava_shape import SMALLEST, Shape, build_model
from pairsight.engine.progress import Progress
from pairsight.models.load import load_model
from pairsight.training.config import TrainingConfig
from pairsight.training.kernels import attention
from pairsight.training.kernels.head import head_logps
from pairsight.training.kernels.varlen_attention import installed_kernels
from pairsight.training.policy import make_policy
from pairsight.training.precision import Precision
from pairsight.training.scorer import Pass, SequenceScorer, separate_token_logps
from pairsight.training.trainer import PreferenceTrainer
from train_worker import our_pairs

FACTOR = 2.0
FLOOR = 64 * torch.finfo(torch.float32).eps
SHAPE = Shape(1024, 256, 3, 4, 512, 64, 2, 2, 112, 14)
DTYPES = (torch.float32, torch.bfloat16)

Using = Callable[[], AbstractContextManager[Any]]
"""Makes attention go one way inside."""


@dataclass(frozen=True)
class Way:
    """A way to attend over packed rows, and the types that it takes."""

    using: Using
    dtypes: tuple[torch.dtype, ...] = DTYPES


@dataclass(frozen=True)
class Check:
    """One result.

    Args:
        name: what was checked.
        ok: whether it holds.
        found: a distance, or a number of things; None if there is none.
        allowed: what it may be at most, if that is a number.
        detail: more in words.
    """

    name: str
    ok: bool
    found: float | None
    allowed: float | None
    detail: str = ""


def ways() -> dict[str, Way]:
    """All ways to attend over packed rows that this device has."""
    spans = partial(attention._span_by_span, dropout=0.0)
    found = {"as chosen": Way(nullcontext), "span by span": Way(partial(going, spans))}
    if card.DEVICE == "cpu":
        return found | {"block by block": Way(partial(going, attention._by_blocks), (torch.float32,))}
    for kernel in installed_kernels():
        way = partial(going, partial(attention._together, kernel=kernel, dropout=0.0))
        found[f"all spans together ({kernel.function.__name__})"] = Way(way, (torch.bfloat16,))
    return found | {"FlexAttention": Way(partial(going, attention._by_block_mask))}


@contextmanager
def going(compute: Callable[..., Tensor]) -> Iterator[None]:
    """Attend one way inside, whatever would have been chosen.

    Raises:
        RuntimeError: nothing attended by spans.
    """
    chosen, calls = attention._way, []

    def way(*_: Any) -> tuple[str, Callable[..., Tensor]]:
        calls.append(1)
        return "as a check asks for", compute

    attention._way = way
    try:
        yield
    finally:
        attention._way = chosen
    if not calls:
        raise RuntimeError("no layer attended by spans")


def main(arguments: Sequence[str], line: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = False  # in float32 the tower's convolution would round to 10 bits
    done: list[Check] = []
    for check in all_checks(SMALLEST if given.tiny else SHAPE):
        done.append(check)
        card.write_json(given.out, [asdict(one) for one in done])
        print(json.dumps(asdict(check)), flush=True)


def all_checks(shape: Shape, given: Mapping[str, Way] | None = None) -> Iterator[Check]:
    """Every check in turn; an error inside one is its result, and the others go on."""
    with tempfile.TemporaryDirectory(prefix="pairsight-gpu-") as name:
        folder = Path(name)
        parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
            ("frozen head", lambda: (frozen_head(dtype, shape) for dtype in DTYPES)),
            ("training", lambda: trainings(folder / "training", shape)),
        ]
        for dtype in reversed(DTYPES):  # what is used on a card first: a run may be cut
            for layout, build in LAYOUTS.items():
                title = f"{layout}, {name_of(dtype)}"
                world = folder / f"{len(parts)}"
                parts.append(
                    (title, lambda t=title, b=build, d=dtype, w=world: layout_checks(t, b(w, shape), d, given))
                )
        for title, run in parts:
            try:
                yield from run()
            except Exception as error:  # noqa: BLE001 - what failed must be reported, whatever it was
                where = traceback.format_exc().splitlines()[-3].strip()
                yield Check(title, False, None, None, f"{type(error).__name__}: {error} ({where})")
            card.release()


def name_of(dtype: torch.dtype) -> str:
    """Short."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


# --- attention, layers, adapters and head together, in models of each layout -----------------------------------------


@dataclass(frozen=True)
class Found:
    """Log-probs of all completion tokens [T], and the gradients of the trained weights."""

    logps_T: Tensor
    gradients: tuple[Tensor, ...]

    def distance(self, exact: "Found") -> tuple[float, float]:
        """Root mean square of the log-probs' differences, and the gradients' difference relative to their norm."""
        apart = sum(
            float((a.double() - b.double()).square().sum())
            for a, b in zip(self.gradients, exact.gradients, strict=True)
        )
        size = sum(float(b.double().square().sum()) for b in exact.gradients)
        differences_T = self.logps_T.double() - exact.logps_T.double()
        return float(differences_T.square().mean().sqrt()), (apart / size) ** 0.5


@dataclass(frozen=True)
class Subject:
    """A policy three times: exact (float64), plain (as transformers and peft have it), and as the trainer has it."""

    exact: Any
    plain: Any
    fast: Any
    scorer: SequenceScorer
    passes: Sequence[Pass]


class ReadyError(Exception):
    """A trainer that is about to take its first step: its policy and scorer."""

    def __init__(self, policy: Any, step: Any, *_: Any) -> None:
        super().__init__("ready")
        self.policy, self.scorer = policy, step.scorer


def ready(world: Path, dtype: torch.dtype, **options: Any) -> tuple[ReadyError, TrainingConfig]:
    """All that a training prepares on this device."""

    def stop(*arguments: Any) -> None:
        raise ReadyError(*arguments)

    pairs, images = our_pairs(world, items(world))
    trainer = PreferenceTrainer(
        world / "model",
        out=world / "out",
        images=images,
        progress=Progress("quiet"),
        lora_r=8,
        lora_alpha=16.0,
        bf16=dtype == torch.bfloat16,
        report_to=(),
        **options,
    )
    trainer._run_loop = stop  # type: ignore[method-assign]
    try:
        trainer.train(pairs)
    except ReadyError as reached:
        return reached, trainer.config
    raise RuntimeError("the training took no step")


def subject(world: Path, dtype: torch.dtype) -> Subject:
    """Two questions on one image and one on another, each with three completions, and a policy that has moved."""
    made, config = ready(world, dtype, check_first_batch=False)
    plain = make_policy(load_model(world / "model", dtype=dtype, device=card.DEVICE), config).eval()
    torch.manual_seed(1)
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    exact, fast = copy.deepcopy(plain).double(), made.policy.eval()
    trained = {name: weight.detach() for name, weight in plain.named_parameters() if weight.requires_grad}
    for name, weight in fast.named_parameters():
        if weight.requires_grad:
            weight.data.copy_(trained.pop(name))
    assert not trained
    made.scorer.limits = replace(made.scorer.limits, padded=False)  # rows joined end to end, as on a GPU
    return Subject(exact, plain, fast, made.scorer, ([(0, 1)], [(0, 1), (2,)]))


def layout_checks(
    title: str, world: Path, dtype: torch.dtype, given: Mapping[str, Way] | None = None
) -> Iterator[Check]:
    """Each way of a layout's passes against the exact computation, and what makes the CPU wait in them."""
    one = subject(world, dtype)
    if not one.scorer.shares:
        raise RuntimeError("prefixes are not shared")
    for rows in one.passes:
        exact = separate(one.exact, one.scorer, rows, torch.float64)
        limits = separate(one.plain, one.scorer, rows, dtype).distance(exact)
        for name, way in (given or ways()).items():
            if dtype not in way.dtypes:
                continue
            where = f"{title}, {name}, {len(rows)} row{'s' if len(rows) > 1 else ''}"
            with way.using():
                packed = gradients(
                    one.fast, lambda rows=rows: one.scorer.score(one.scorer.packed(one.fast), rows).token_logps_T
                )
                waits = waiting(one, rows)
            size = float(exact.logps_T.abs().max())
            for what, value, limit, scale in zip(
                ("log-probs", "gradients"), packed.distance(exact), limits, (size, 1.0), strict=True
            ):
                yield at_most(
                    f"{where}: {what}", value, FACTOR * limit + FLOOR * scale, f"plain transformers {limit:.2g}"
                )
            if len(rows) == 1 and dtype == DTYPES[-1]:
                yield waits_check(f"{where}: reads from the device in a step", waits)


def at_most(name: str, found: float, allowed: float, detail: str = "") -> Check:
    """A check that a number is at most another; not a number is never."""
    return Check(name, found <= allowed, found, allowed, detail)


def separate(policy: Any, scorer: SequenceScorer, rows: Pass, dtype: torch.dtype) -> Found:
    """Sequence by sequence, by the model's own forward."""
    precision = Precision(dtype, dtype)
    scoring = replace(scorer.scoring, precision=precision)
    sequences = [s for row in rows for number in row for s in scorer.examples[number].sequences]

    def logps() -> Tensor:
        with nullcontext() if dtype == torch.float64 else precision.compute(policy.device):
            return torch.cat([separate_token_logps(policy, s, scoring) for s in sequences])

    return gradients(policy, logps)


def gradients(policy: Any, logps: Callable[[], Tensor]) -> Found:
    """Log-probs, and the gradients of a sum with fixed random weights."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    logps_T = logps()
    generator = torch.Generator().manual_seed(2)
    weights_T = torch.randn(len(logps_T), generator=generator, dtype=torch.float64).to(logps_T)
    return Found(logps_T.detach(), torch.autograd.grad((logps_T * weights_T).sum(), trained))


def waiting(one: Subject, rows: Pass) -> Mapping[str, int]:
    """What makes the CPU wait for the device in a forward and backward pass, by line of code."""
    with card.synchronisations() as found:
        one.scorer.score(one.scorer.packed(one.fast), rows).sums_Q.sum().backward()
    return found


def waits_check(name: str, found: Mapping[str, int]) -> Check:
    """None may read from the device; copies to it wait too, from memory that is not pinned, and are only counted."""
    copies = {place: count for place, count in found.items() if ".to(" in line(place)}
    reads = {place: count for place, count in found.items() if place not in copies}
    shown = "; ".join(f"{Path(place).name} {line(place)!r} ×{count}" for place, count in reads.items())
    return Check(name, not reads, sum(reads.values()), 0, f"{sum(copies.values())} copies to the device. {shown}")


def line(place: str) -> str:
    """The line of code at `file:number`."""
    name, _, number = place.rpartition(":")
    lines = Path(name).read_text(errors="replace").splitlines() if Path(name).is_file() else []
    return lines[int(number) - 1].strip() if int(number) <= len(lines) else ""


# --- the head alone, and complete trainings ---------------------------------------------------------------------------


def frozen_head(dtype: torch.dtype, shape: Shape) -> Check:
    """The frozen head's gradient, token by token, where the model is sure and rounding could lose it."""
    torch.manual_seed(0)
    head = torch.nn.Linear(shape.hidden, shape.vocabulary, bias=False, device=card.DEVICE, dtype=dtype)
    head.requires_grad_(False)
    target_P = torch.randint(0, shape.vocabulary, (200,), device=card.DEVICE)
    wanted_PD = head.weight[target_P].float()
    logits_P1 = torch.linspace(1, 12, 200, device=card.DEVICE)[:, None]
    hidden_PD = (wanted_PD / wanted_PD.square().sum(1, keepdim=True) * logits_P1).to(dtype)
    found = []
    for kind in ("exact", "plain", "ours"):
        to = torch.float64 if kind == "exact" else dtype
        hidden = hidden_PD.detach().to(to).requires_grad_()
        if kind == "ours":
            logps_P = head_logps(head, hidden, target_P)
        else:
            logits = torch.nn.functional.linear(hidden, head.weight.to(to))
            logits = logits if kind == "exact" else logits.float()
            logps_P = logits.log_softmax(1).gather(1, target_P[:, None])[:, 0]
        found.append(torch.autograd.grad(logps_P.sum(), hidden)[0].double())
    exact, *others = found
    plain, ours = (float(((g - exact).norm(dim=1) / exact.norm(dim=1)).square().mean().sqrt()) for g in others)
    detail = f"plain transformers {plain:.2g}"
    return at_most(f"frozen head, {name_of(dtype)}: gradients", ours, FACTOR * plain + FLOOR, detail)


def trainings(world: Path, shape: Shape) -> Iterator[Check]:
    """The trainer from files to adapter, twice: the first-batch check, a first loss of log 2, and no memory left."""
    build_model(world / "model", shape)
    made = items(world)
    losses, held = [], []
    for bf16 in (True, True, False):
        losses.append(first_loss(world, made, bf16=bf16))
        held.append(card.held_bytes())
    for name, loss in zip(("bf16", "bf16 again", "fp32"), losses, strict=True):
        away = abs(loss - 0.6931472)
        yield at_most(
            f"training with the projector, {name}: first loss − log 2", away, 1e-5 if name == "fp32" else 2e-2
        )
    yield at_most("bytes held after a second training, beyond the first's", held[1] - held[0], 2**20)
    yield first_batch_check(world)


def first_loss(world: Path, made: Sequence[Any], *, bf16: bool) -> float:
    """The loss of a training's first step, with the projector open and the first-batch check on."""
    pairs, images = our_pairs(world, list(made))
    with tempfile.TemporaryDirectory(prefix="pairsight-gpu-") as out:
        PreferenceTrainer(
            world / "model",
            out=out,
            images=images,
            progress=Progress("quiet"),
            per_device_train_batch_size=3,
            max_steps=2,
            learning_rate=1e-4,
            projector_learning_rate=1e-4,
            lora_r=8,
            bf16=bf16,
            report_to=(),
        ).train(pairs)
        lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[0])["loss"])


def first_batch_check(world: Path) -> Check:
    """What the trainer's own check of packed log-probs says of a bf16 policy with its projector open."""
    made, _ = ready(world, torch.bfloat16, projector_learning_rate=1e-4)
    worst = made.scorer.check(made.policy)
    return Check("first-batch check, bf16, projector open: log-prob", True, worst, None, "by its own rule")


if __name__ == "__main__":
    main(sys.argv[1:], card.wait_for_turn())
