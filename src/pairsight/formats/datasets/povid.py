"""POVID and PDS-DPO: LLaVA's conversations twice, the second ending in the rejected text; and LLaVA-RLHF's two outputs.

Source: the fields of YiyangAiLab/POVID_preference_data_for_VLLMs, pdsdpo/pdsdpo-v1_0-data and
zhiqings/LLaVA-Human-Preference-10K. PDS-DPO's question begins with the mark and a blank, and some of its rejected texts
are empty: these are counted and left out.
"""

from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets.format import Example, Format, Plain, RowCompletion, location_of
from pairsight.formats.datasets.turns import asked, llava_pictures, llava_turns, turns_of
from pairsight.formats.datasets.written import conversation, one_image, pair_of
from pairsight.formats.rows import Row


class Povid(Format):
    """`conversations` and `rejected_conversations`, which differ in the last turn only."""

    title: ClassVar[str] = "POVID / PDS-DPO"
    columns: ClassVar[tuple[str, ...]] = ("conversations", "rejected_conversations")
    known: ClassVar[tuple[str, ...]] = ("id", "image", "images")
    containers: ClassVar[tuple[Container, ...]] = ("json", "jsonl")

    def example(self, row: Row) -> Example:
        """One pair; DataError where the two conversations differ before the end."""
        identity = row.identity("id")
        location = location_of(row, identity)
        chosen = llava_turns(row.required("conversations"), f"{location}: 'conversations'")
        rejected = llava_turns(row.required("rejected_conversations"), f"{location}: 'rejected_conversations'")
        ends = [turns[-1] if turns[-1].role == "assistant" else None for turns in (chosen, rejected)]
        if ends[0] is None or ends[1] is None:
            raise DataError(f"{location}: both conversations must end with the assistant's turn", "no_turns")
        if chosen[:-1] != rejected[:-1]:
            raise DataError(f"{location}: the two conversations differ before their last turn", "different_prompts")
        return Example(
            identity,
            location,
            asked(chosen[:-1], location),
            llava_pictures(row, location),
            (RowCompletion(ends[0].text, preferred=True), RowCompletion(ends[1].text, preferred=False)),
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        chosen, rejected = pair_of(example, self.title)
        shared: Plain = {"id": example.id, **one_image(example, self.title)}
        return tuple(
            shared
            | {
                "conversations": conversation(example, chosen),
                "rejected_conversations": conversation(example, one),
            }
            for one in rejected
        )


class LlavaRlhf(Format):
    """`conversations`, `output_1` and `output_2`, and which of them people preferred: 1 or 2."""

    title: ClassVar[str] = "LLaVA-RLHF"
    columns: ClassVar[tuple[str, ...]] = ("conversations", "output_1", "output_2", "preference")
    known: ClassVar[tuple[str, ...]] = ("id", "image", "images", "hallucination", "chat_history")

    def example(self, row: Row) -> Example:
        """One pair; DataError for a preference that is neither 1 nor 2."""
        identity = row.identity("id")
        location = location_of(row, identity)
        preference = row.required("preference")
        if preference not in (1, 2, "1", "2"):
            raise DataError(f"{location}: 'preference' must be 1 or 2, found {preference!r:.40}", "no_preference")
        first, second = (
            turns_of([row.required(name)], f"{location}: '{name}'")[0][0].text for name in ("output_1", "output_2")
        )
        chosen, rejected = (first, second) if str(preference) == "1" else (second, first)
        turns = llava_turns(row.required("conversations"), f"{location}: 'conversations'")
        return Example(
            identity,
            location,
            asked(turns, location),
            llava_pictures(row, location),
            (RowCompletion(chosen, preferred=True), RowCompletion(rejected, preferred=False)),
        )

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion; the chosen one is output 1."""
        chosen, rejected = pair_of(example, self.title)
        shared: Plain = {
            "id": example.id,
            **one_image(example, self.title),
            "conversations": conversation(example, None),
            "output_1": {"from": "llava", "value": chosen.text},
            "preference": 1,
        }
        return tuple(shared | {"output_2": {"from": "llava", "value": one.text}} for one in rejected)
