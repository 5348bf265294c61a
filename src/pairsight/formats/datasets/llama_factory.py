"""LLaMA-Factory's ranking data: ShareGPT's `conversations` with `chosen` and `rejected`, or Alpaca's `instruction`.

What a `dataset_info.json` calls columns and roles is applied before (`detect.py`). Source: LLaMA-Factory's data/README.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pairsight.errors import DataError
from pairsight.formats.containers.sinks import Container
from pairsight.formats.datasets.format import Example, Format, Plain, RowCompletion, Turn, location_of
from pairsight.formats.datasets.turns import asked, llava_pictures, spoken, turns_of
from pairsight.formats.datasets.written import cannot, conversation, name_or_bytes, pair_of
from pairsight.formats.rows import Row


class LlamaFactory(Format):
    """`conversations` that end with the user, `chosen` and `rejected` as one turn each, `images`, `system`."""

    title: ClassVar[str] = "LLaMA-Factory, ShareGPT ranking"
    columns: ClassVar[tuple[str, ...]] = ("conversations", "chosen", "rejected")
    known: ClassVar[tuple[str, ...]] = ("id", "images", "image", "system", "tools", "videos", "audios")
    containers: ClassVar[tuple[Container, ...]] = ("jsonl", "json", "parquet")

    def example(self, row: Row) -> Example:
        """One pair; DataError where the conversation does not end with a question."""
        identity = row.identity("id")
        location = location_of(row, identity)
        turns, _ = turns_of(row.required("conversations"), f"{location}: 'conversations'")
        return _pair(row, identity, turns)

    def write(self, example: Example) -> tuple[Plain, ...]:
        """A row for each rejected completion."""
        chosen, rejected = pair_of(example, self.title)
        turns = conversation(example, None)
        self._check_order(example)
        system = str(turns.pop(0)["value"]) if turns[0]["from"] == "system" else ""
        shared: Plain = {
            "id": example.id,
            "conversations": turns,
            "chosen": {"from": "gpt", "value": chosen.text},
            "images": [name_or_bytes(picture) for picture in example.images],
        }
        shared |= {"system": system}
        return tuple(shared | {"rejected": {"from": "gpt", "value": one.text}} for one in rejected)

    def _check_order(self, example: Example) -> None:
        """DataError where LLaMA-Factory would skip the row: user and assistant must take turns, from the user's on."""
        roles = [turn.role for turn in example.turns]
        asked = roles[1:] if roles[0] == "system" else roles
        if asked != ["user", "assistant"] * (len(asked) // 2) + ["user"]:
            raise cannot(example, self.title, f"user and assistant must take turns, and these are {', '.join(roles)}")

    def beside(self, file: str) -> Mapping[str, str]:
        """The list in which LLaMA-Factory looks for datasets, where this one is called `pairs`."""
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
        entry = {
            "file_name": file,
            "formatting": "sharegpt",
            "ranking": True,
            "columns": columns | {"system": "system"},
        }
        return {"dataset_info.json": json.dumps({"pairs": entry}, indent=2) + "\n"}

    def next_step(self, target: Path, file: str) -> str:
        """How LLaMA-Factory takes it."""
        return f"llamafactory-cli train CONFIG.yaml, with stage: dpo, dataset_dir: {target.resolve()}, dataset: pairs"


class LlamaFactoryAlpaca(Format):
    """`instruction` and `input` together are the question; `history` holds earlier questions and answers."""

    title: ClassVar[str] = "LLaMA-Factory, Alpaca ranking"
    columns: ClassVar[tuple[str, ...]] = ("instruction", "chosen", "rejected")
    known: ClassVar[tuple[str, ...]] = ("id", "input", "history", "images", "image", "system")

    def example(self, row: Row) -> Example:
        """One pair; DataError where a text is missing."""
        identity = row.identity("id")
        location = location_of(row, identity)
        earlier = row.values.get("history") or []
        if not isinstance(earlier, list) or not all(isinstance(one, list) and len(one) == 2 for one in earlier):
            raise DataError(f"{location}: 'history' must be a list of [question, answer]", "wrong_type")
        said = [
            {"role": role, "content": text}
            for one in earlier
            for role, text in zip(("user", "assistant"), one, strict=True)
        ]
        before = turns_of(said, f"{location}: 'history'")[0] if said else ()
        question = "\n".join(part for part in (row.text("instruction"), row.optional_text("input")) if part)
        return _pair(row, identity, (*before, Turn("user", question)))


def _pair(row: Row, identity: str, turns: tuple[Turn, ...]) -> Example:
    location = location_of(row, identity)
    if system := row.optional_text("system"):
        turns = (Turn("system", system), *turns)
    chosen, rejected = (spoken(row.required(name), f"{location}: '{name}'") for name in ("chosen", "rejected"))
    return Example(
        identity,
        location,
        asked(turns, location),
        llava_pictures(row, location),
        (RowCompletion(chosen, preferred=True), RowCompletion(rejected, preferred=False)),
    )
