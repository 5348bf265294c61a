"""mllm-dpo, the pairs of Li et al. (2402.10884): texts as `{from, value}`, with log-probs of the authors' reference.

`ref_win_logp` and `ref_rej_logp` are sums over the completion, `*_avg_logp` means, `*_per_token_logp` one number a
token; they are read to be compared with ours, never trained on: another template or processor gives others. Source: the
fields of the authors' data and code.
"""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.datasets.format import Example, Format, GivenLogps, Head, RowCompletion, Turn, location_of
from pairsight.formats.datasets.turns import asked, llava_pictures, llava_turns, spoken, with_leading_mark
from pairsight.formats.rows import Row

_LOGPS = tuple(f"ref_{side}_{what}" for side in ("win", "rej") for what in ("logp", "avg_logp", "per_token_logp"))


class MllmDpo(Format):
    """`question`, `chosen` and `rejected` as `{from, value}` or lists of such, and the reference's log-probs."""

    title: ClassVar[str] = "mllm-dpo"
    columns: ClassVar[tuple[str, ...]] = ("question", "chosen", "rejected")
    known: ClassVar[tuple[str, ...]] = ("id", "image", "images", *_LOGPS)

    def detect(self, head: Head) -> bool:
        """Whether texts are such objects, or log-probs of a reference are there."""
        values = head.first.values
        shaped = all(_is_spoken(values.get(name)) for name in self.columns)
        return super().detect(head) and (shaped or "ref_win_logp" in head.columns)

    def example(self, row: Row) -> Example:
        """One pair; DataError where a text or a log-prob is something else."""
        identity = row.identity("id")
        location = location_of(row, identity)
        question = row.required("question")
        turns = (
            (Turn("user", with_leading_mark(row.text("question"))),)
            if isinstance(question, str)
            else llava_turns(question if isinstance(question, list) else [question], f"{location}: 'question'")
        )
        completions = tuple(
            RowCompletion(
                spoken(row.required(name), f"{location}: '{name}'"),
                preferred=name == "chosen",
                logps=_logps(row, side, location),
            )
            for name, side in (("chosen", "win"), ("rejected", "rej"))
        )
        return Example(identity, location, asked(turns, location), llava_pictures(row, location), completions)


def _is_spoken(value: object) -> bool:
    one = value[0] if isinstance(value, list) and value else value
    return isinstance(one, dict) and "value" in one


def _logps(row: Row, side: str, location: str) -> GivenLogps | None:
    total, average = (_number(row, f"ref_{side}_{name}", location) for name in ("logp", "avg_logp"))
    tokens = row.values.get(f"ref_{side}_per_token_logp")
    numbers = [] if tokens is None else tokens
    if isinstance(numbers, list) and len(numbers) == 1 and isinstance(numbers[0], list):
        numbers = numbers[0]
    if not isinstance(numbers, list) or not all(isinstance(one, int | float) for one in numbers):
        raise DataError(f"{location}: 'ref_{side}_per_token_logp' must be numbers, found {tokens!r:.40}", "wrong_type")
    return (
        GivenLogps(total, average, tuple(map(float, numbers))) if (total, average) != (None, None) or numbers else None
    )


def _number(row: Row, name: str, location: str) -> float | None:
    value = row.values.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise DataError(f"{location}: '{name}' must be a number, found {value!r:.40}", "wrong_type")
    return None if value is None else float(value)
