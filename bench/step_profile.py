"""Profile one of our trainings, and compare its attention with PyTorch's fused attention.

`python bench/step_profile.py [--case NAME]` prints three tables for a row of `run.py`: wall time by phase, CPU time by
kind of operation (PyTorch's profiler), and forward plus backward of both attentions on one packed row.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from llava_shape import Shape, build_items, build_model
from matrix_rate import product_rates
from pairsight.training.kernels import attention, blocked_attention
from pairsight.training.kernels.spans import spans_of
from pairsight.training.tokens import merge
from run import CASES
from train_worker import SETTINGS, Job, Start, ours

KINDS = {
    "matrix products of language model, adapters and head": ("aten::mm", "aten::addmm_"),
    "matrix products of the vision tower, which have a bias": ("aten::addmm",),
    "attention: products of queries, keys, values and probabilities": ("aten::bmm", "aten::baddbmm"),
    "attention: softmax": ("aten::_softmax", "_Blocked", "_BlockedBackward"),
    "attention of the vision tower": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
}
PHASES = {
    "prepare": "tokenising, pixels",
    "_reference": "reference pass",
    "check": "first-batch check",
    "run_tower": "vision tower (a part of the other phases)",
    "record_tower": "vision tower under a trained projector (a part of the other phases)",
    "_run_loop": "epochs",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=[case.key for case in CASES], default=CASES[0].key)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    case = next(case for case in CASES if case.key == given.case)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="pairsight-profile-") as name:
        world, shape = Path(name), Shape(case.vocabulary)
        build_model(world / "model", shape)
        items = build_items(
            world / "images",
            shape,
            case.pairs // case.rejected,
            questions_per_image=case.questions_per_image,
            rejected=case.rejected,
        )
        for table in (phases, kinds):
            job = Job(world, items, case.epochs, 4 // case.rejected, SETTINGS[case.settings]())
            table(ours(job, Start(), group_by_image="grouped" in case.ours))
    attention_cost()


def phases(train: Callable[[], object]) -> None:
    """Wall time of each phase of one training."""
    from pairsight.training.scorer import SequenceScorer
    from pairsight.training.trainer import PreferenceTrainer
    from pairsight.training.vision import units

    start = Start()
    for owner in (SequenceScorer, PreferenceTrainer, units):
        for name in PHASES.keys() & vars(owner).keys():
            start.count(owner, name)
    began = time.perf_counter()
    train()
    total, seconds = time.perf_counter() - began, start.seconds
    print(f"\n| phase | share of {total:.1f} s |\n|---|---|")
    for name, title in PHASES.items():
        print(f"| {title} | {seconds[name] / total:.1%} |")
    rest = total - seconds.total() + seconds["run_tower"] + seconds["record_tower"]
    print(f"| all else (loading, writing) | {rest / total:.1%} |")


def kinds(train: Callable[[], object]) -> None:
    """CPU time of one training by kind of operation, and the rate of the language model's matrix products."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        train()
    events = found.key_averages(group_by_input_shape=True)
    total = sum(event.self_cpu_time_total for event in events)
    print("\n| operations | share of CPU time |\n|---|---|")
    named = {name: kind for kind, names in KINDS.items() for name in names}
    shares: Counter[str] = Counter()
    for event in events:
        shares[named.get(event.key, "all else: element by element, copies, the optimizer, Python")] += (
            event.self_cpu_time_total
        )
    for kind, share in shares.most_common():
        print(f"| {kind} | {share / total:.1%} |")
    products = [event for event in events if event.key == "aten::mm"]
    flops = sum(2 * event.count * prod(event.input_shapes[0]) * event.input_shapes[1][1] for event in products)
    rate = flops / sum(event.self_cpu_time_total for event in products) / 1e3
    alone = [f"{max(product_rates(dtype)) / 1e9:.0f} in {dtype}" for dtype in (torch.float32, torch.bfloat16)]
    print(f"\nThe first of these run at {rate:.0f} GFLOP/s; a product of 2048² alone at {', '.join(alone)}.")


def attention_cost(tokens: int = 780, heads: int = 8, width: int = 64, repeats: int = 9) -> None:
    """Time forward and backward on one row, a prompt with two completions: in blocks and fused."""
    prompt = list(range(600))
    half = (tokens - 600) // 2
    tree = merge([np.array(prompt + [1000 * c + t for t in range(half)]) for c in (1, 2)])
    row = attention.TreeSpans(spans_of(tree.parent_S))
    states = [torch.randn(1, heads, len(tree), width, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(1, len(tree), heads, width)
    bound, found = blocked_attention._KEPT, {"by blocks": [], "fused": []}  # type: ignore[var-annotated]
    for _ in range(repeats):
        for name, kept in (("by blocks", bound), ("fused", 0)):
            blocked_attention._KEPT = kept
            began = time.perf_counter()
            torch.autograd.grad(attention.attend(*states, row), states, upstream)
            found[name].append(time.perf_counter() - began)
    blocked_attention._KEPT = bound
    seen = sum(depth + 1 for depth in tree.depth_S)
    needed = 2 * heads * width * seen * (2 + 4)  # two products forward, four backward
    print(f"\n| attention of {len(tree)} tokens, forward and backward | ms, median | GFLOP/s of needed arithmetic |")
    print("|---|---|---|")
    for name, times in found.items():
        middle = statistics.median(times)
        print(f"| {name} | {1e3 * middle:.1f} | {needed / middle / 1e9:.0f} |")
    ratios = [a / b for a, b in zip(found["by blocks"], found["fused"], strict=True)]
    print(f"\nBlocks take {statistics.median(ratios):.2f} of the fused time ({min(ratios):.2f}–{max(ratios):.2f}).")


if __name__ == "__main__":
    main()
