"""The trainings that `gpu.py` times, their goals, and the table that it writes."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flops import training
from gpu_speed import QUESTION, SHAPES, WORDS
from llava_shape import build_texts
from table import Row

LIMIT_80_GB = 79 * 2**30
"""What a card of 80 GB has; a larger one is limited to it where a training must fit into 80 GB."""
MATRIX_SHARE, MEMORY = 0.45, 0.6
"""Goals on an H100: share of the matrix rate, and memory relative to TRL's."""


@dataclass(frozen=True)
class Case:
    """One training of both sides.

    Args:
        goal: for the ratio of our speed to TRL's, on an H100.
        limited: whether ours must fit into 80 GB.
    """

    key: str
    title: str
    goal: float | None = None
    epochs: int = 1
    questions: int = 1
    rejected: int = 1
    rank: int = 128
    projector: bool = False
    limited: bool = False


CASES = (
    Case("one_epoch", "r 128, one epoch", 2.0),
    Case("three_epochs", "r 128, three epochs", 2.5, epochs=3),
    Case(
        "shared_images",
        "r 128, two epochs, two questions an image, two rejected",
        6.0,
        epochs=2,
        questions=2,
        rejected=2,
    ),
    Case("rank_1024", "r 1024, one epoch", rank=1024, limited=True),
    Case("projector", "r 128, one epoch, projector open", projector=True),
)


def report(found: Mapping[str, Any]) -> str:
    """The text of GPU.md."""
    parts = [ABOUT.format(machine=machine(found), words="–".join(map(str, WORDS["llava-7b"])), question=QUESTION)]
    parts += [heading("Speed and memory"), table(found), tried(found)]
    checks = found.get("checks", [])
    failed = [check for check in checks if not check["ok"]]
    parts += [heading("Correctness"), f"{len(checks) - len(failed)} of {len(checks)} checks hold."]
    parts += [f"- **fails**: {line(check)}" for check in failed] + [f"- {line(c)}" for c in checks if c["ok"]]
    parts += [heading("Not measured")] if found.get("missing") else []
    parts += [f"- {one['what']}: {one['why']}" for one in found.get("missing", [])]
    return "\n".join(part for part in parts if part) + "\n"


def heading(title: str) -> str:
    """With the empty lines that Markdown wants."""
    return f"\n## {title}\n"


def line(check: Mapping[str, Any]) -> str:
    """One check."""
    allowed = "" if check["allowed"] is None else f", allowed {check['allowed']:.2g}"
    value = "" if check["found"] is None else f": {check['found']:.2g}{allowed}"
    return f"{check['name']}{value}{' (' + check['detail'] + ')' if check['detail'] else ''}"


def machine(found: Mapping[str, Any]) -> str:
    """Card, versions and matrix rates."""
    about = found.get("machine", {})
    rates = [found[key]["best_flops_per_s"] / 1e12 for key in ("matrix_before", "matrix_after") if key in found]
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    card = f"{about.get('card', 'no card')}, {about.get('total_gb', 0):.0f} GB, driver {about.get('driver', 'none')}"
    products = " and ".join(f"{rate:.0f}" for rate in rates)
    return (
        f"{card}; {about.get('cores')} cores; {versions}; commit {found.get('commit')}. Best of many bf16 products "
        f"before and after: {products} TFLOP/s. The script took {found.get('seconds', 0):.0f} s."
    )


def table(found: Mapping[str, Any]) -> str:
    """All rows that were measured."""
    lines = ["| measured | result | goal on an H100 |", "|---|---|---|"]
    for row in rows(found):
        digits = 2 if row.unit != " GB" else 1
        lines.append(f"| {row.title} | {row.detail}**{row.median:.{digits}f}{row.unit}** | {row.goal()} |")
    return "\n".join(lines)


def rows(found: Mapping[str, Any]) -> Iterator[Row]:
    """Speed, share of the matrix rate and memory of every case."""
    rates = [found[key]["best_flops_per_s"] for key in ("matrix_before", "matrix_after") if key in found]
    for case in CASES:
        sides = found.get("speed", {}).get(case.key, {})
        our, their = (sides.get(side, {}) for side in ("ours", "trl"))
        mine, theirs = our.get("measured"), their.get("measured")
        if mine and theirs:
            detail = f"{pairs_per_s(mine)} against {pairs_per_s(theirs)} pairs/s: "
            yield Row(case.key, f"{case.title}, over TRL", detail, (speed(mine) / speed(theirs),), at_least=case.goal)
        elif mine or theirs:
            yield Row(
                case.key, f"{case.title}, {'ours' if mine else 'TRL'} alone", "pairs/s: ", (speed(mine or theirs),), ""
            )
        if mine and rates:
            share = needed(found, case, mine["pairs"]) / mine["seconds"] / max(rates)
            title = f"{case.title}: needed arithmetic over a matrix product's"
            yield Row(case.key, title, "", (share,), "", at_least=MATRIX_SHARE)
        for name, side in (("ours", mine), ("TRL", theirs)):
            if side:
                limit = 80.0 if case.limited and name == "ours" else None
                detail = f"{side['static_bytes'] / 1e9:.1f} GB of it weights, adapters and optimizer: "
                yield Row(
                    case.key,
                    f"{case.title}: peak memory, {name}",
                    detail,
                    (side["peak_bytes"] / 1e9,),
                    " GB",
                    at_most=limit,
                )
        if our.get("memory") and theirs:
            ratio = above(our["memory"]) / above(theirs)
            title = f"{case.title}: peak above weights, adapters and optimizer, over TRL"
            detail = f"{their['way']['per_pass']} pairs in a pass on both sides: "
            yield Row(case.key, title, detail, (ratio,), at_most=MEMORY)


def speed(measured: Mapping[str, Any]) -> float:
    """Pairs a second."""
    return float(measured["pairs"] / measured["seconds"])


def pairs_per_s(measured: Mapping[str, Any]) -> str:
    """The speed, and the spread of the steps."""
    steps = measured["step_seconds"]
    return f"{speed(measured):.2f} (steps {min(steps):.2f}–{statistics.median(steps):.2f}–{max(steps):.2f} s)"


def above(measured: Mapping[str, Any]) -> float:
    """Bytes of a peak beyond weights, adapters and optimizer."""
    return float(measured["peak_bytes"] - measured["static_bytes"])


def needed(found: Mapping[str, Any], case: Case, pairs: int) -> float:
    """Operations that a training of so many pairs needs, by `flops.py`; lengths are those of the data."""
    shape = "tiny" if found["tiny"] else "llava-7b"
    prompts = pairs // case.epochs // case.rejected
    items = build_texts(SHAPES[shape], prompts, case.questions, case.rejected, WORDS[shape], QUESTION)
    return training(SHAPES[shape], items, case.epochs, case.rank)


def tried(found: Mapping[str, Any]) -> str:
    """TRL's pairs per pass."""
    ways = [way for case in found.get("speed", {}).values() for way in case.get("trl", {}).get("tried", [])]
    seen = {
        f"{way['per_pass']} a pass, {way['attention']}{', recomputing' if way['checkpointing'] else ''}: "
        + (f"{way['pairs_per_s']:.2f} pairs/s" if way["fits"] else "does not fit")
        for way in ways
    }
    return f"\nTRL in its warm-ups: {'; '.join(sorted(seen))}." if seen else ""


ABOUT = """# Training on a GPU

{machine}

Made by `make bench-gpu` (`bench/gpu.py`). LLaVA-1.5-7B's shape (hidden 4096 × 32 layers, vision 1024 × 24, 336 px) with
random bf16 weights, random images with 576 tokens, questions of {question} words, completions of {words} tokens, 8
pairs a step, LoRA on every linear layer of the language model (α = 2r), adapters in fp32, frozen weights and products
in bf16. TRL is its `DPOTrainer` with bf16=True, without gradient checkpointing where that fits, with the number of
pairs in a pass that was fastest in its warm-up, and with worker processes for images; it refuses precomputed reference
log-probs for images, so it runs the reference at every step.

**What differs**: ours is timed from the loaded model to the last step (tokenising in one process, reference pass,
first-batch check, training, all in the seconds), TRL in `train()` alone. Neither reads nor writes weights then. Each
side is a process of its own and ran once, TRL first, after a training of two steps that is not counted and in which
kernels are chosen and compiled. TRL trains an open projector at the adapters' rate and in bf16, ours in fp32. Peak
memory is what tensors took; ours takes larger passes where memory is free, so memory is compared in a training of its
own with as many pairs in a pass as TRL's. Ours has `group_by_image` where images are shared.
"""
