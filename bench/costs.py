"""What the papers' trainings cost by arithmetic: `python bench/costs.py` prints the table of docs/scaling.md.

Nothing here is measured: operations are those of `flops.py`, hours take a card's dense bf16 rate by its maker's data
sheet and a share of it that is a goal.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from flops import training, unshared
from llava_shape import LLAVA_7B, LLAVA_13B, Item, Shape

CARD_FLOPS = 989e12
"""An NVIDIA H100 (SXM), dense bf16."""
SHARE = 0.45
PROMPT = 60
"""Tokens of LLaVA's system sentence, a question and the roles (assumed)."""


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        pairs: as the paper counts them.
        completion: tokens of a completion (assumed: no paper says).
    """

    title: str
    model: str
    shape: Shape
    pairs: int
    completion: int
    epochs: int
    rank: int
    questions: int = 1
    rejected: int = 1


TRAININGS = (
    Training("Feedback (Li et al.)", "13B", LLAVA_13B, 5_084, 200, 3, 128),
    Training("Synthetic (PDS-DPO)", "7B", LLAVA_7B, 9_000, 200, 2, 128),
    Training("SeVa", "7B", LLAVA_7B, 16_000, 100, 1, 1024),
    Training("SeVa", "13B", LLAVA_13B, 16_000, 100, 1, 1024),
    Training("two orders above PDS-DPO, two questions an image", "7B", LLAVA_7B, 900_000, 200, 2, 128, 2),
)


def table() -> str:
    """A row for each training."""
    head = (
        "| training | model | pairs × epochs | tokens a pair, shared / not | LoRA r | PFLOP, shared / not | ratio "
        "| H100 hours, shared / not |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows()])


def rows() -> Iterator[str]:
    """One line of Markdown each."""
    for one in TRAININGS:
        ours, theirs = operations(one)
        hours = [flops / (SHARE * CARD_FLOPS) / 3600 for flops in (ours, theirs)]
        image = one.shape.image_tokens / one.questions
        shared = image + PROMPT + (1 + one.rejected) * one.completion
        separate = 2 * (one.shape.image_tokens + PROMPT + one.completion)
        yield (
            f"| {one.title} | {one.model} | {one.pairs:,} × {one.epochs} | {shared:,.0f} / {separate:,} | {one.rank} "
            f"| {ours / 1e15:,.0f} / {theirs / 1e15:,.0f} | {theirs / ours:.2f} | {hours[0]:,.1f} / {hours[1]:,.1f} |"
        )


def operations(one: Training) -> tuple[float, float]:
    """Of a training with shared prefixes and a kept reference, and of one without either."""
    text = " ".join(["w"] * (one.completion - 1))  # and the end of the turn
    question = " ".join(["w"] * (PROMPT - 3))  # beside <s> and the roles
    items = [Item("0", question, text, (text,) * one.rejected)] * one.questions
    times = one.pairs / one.rejected / one.questions
    ours = training(one.shape, items, one.epochs, one.rank)
    return times * ours, times * unshared(one.shape, items, one.epochs, one.rank)


if __name__ == "__main__":
    print(table())
