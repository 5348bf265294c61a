"""AMBER: hallucination in descriptions (1,004 images) and in 14,216 yes-no questions, without a judge.

Source: J. Wang et al. (2311.07397); the rule is that of `inference.py` (github.com/junyangwang0410/AMBER). The prompts
are the queries themselves, decoding is greedy with 1,024 tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.amber_caption import AmberWords, count_caption
from pairsight.benchmarks.amber_figures import COLUMNS, better, figures
from pairsight.benchmarks.answer_files import write_json
from pairsight.benchmarks.noun_lemmas import Nouns, known_nouns, tagged_nouns
from pairsight.benchmarks.official_files import Row, UniqueIds, read_json, read_lines
from pairsight.benchmarks.protocol import Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.word_similarity import Similar, word_similarity
from pairsight.benchmarks.yes_no import robust_yes_no
from pairsight.config import BaseConfig
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt

Part = Literal[
    "all", "generative", "discriminative", "discriminative-existence", "discriminative-attribute",
    "discriminative-relation",
]  # fmt: skip
_PUBLISHED = "its authors publish the data folder at github.com/junyangwang0410/AMBER"
_TYPES = {
    "generative": "generative", "discriminative-attribute-state": "state", "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action", "discriminative-hallucination": "existence",
}  # fmt: skip
"""The annotation's type -> our kind; every other type is a relation."""


class Amber(BaseConfig):
    """AMBER from its `data` folder: `query/query_<part>.json`, `annotations.json`, `relation.json`, `safe_words.txt`.

    Nouns are tagged by NLTK and compared by spaCy's `en_core_web_lg` where both are installed with their data (NLTK's
    may be given as a folder); what stands in for them is named, and the figures are then not called official. The
    yes-no part needs neither.
    """

    part: Part = Field("all", description="which queries: all, generative, discriminative or one of its three")
    vectors: str | None = Field(None, description="a spaCy model or a file of word vectors, instead of en_core_web_lg")
    nltk_data: str | None = Field(None, description="folder of NLTK's data, instead of where NLTK looks")
    similarity: float = Field(0.8, ge=-1, le=1, description="cosine above which two words mean the same")

    name: ClassVar[str] = "amber"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = COLUMNS
    better: ClassVar[Mapping[str, Better]] = better()
    prompt_suffix: ClassVar[str] = ""
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=1024)

    @cached_property
    def fallbacks(self) -> tuple[str, ...]:
        """What stands in for the original's tagger and vectors; nothing where only yes-no questions are asked."""
        if self.part not in ("all", "generative"):
            return ()
        tagged = tagged_nouns(self.nltk_data)
        nouns = "nouns are the words that AMBER's vocabulary knows, untagged" if tagged is None else tagged[1]
        return tuple(label for label in (nouns, self._similar[1]) if label)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group a query; the id is AMBER's.

        Raises:
            DataError: a missing file, a bad row, an id twice or without annotation, or an object without relation.
        """
        safe_words = frozenset(line for _, line in read_lines(_existing(path / "safe_words.txt")))
        words = AmberWords(_relations(path / "relation.json"), safe_words)
        annotations = _list(path / "annotations.json")
        ids = UniqueIds()
        for row in (bare.named("id") for bare in _rows(path / "query" / f"query_{self.part}.json")):
            ids.add(row)
            place = row.number("id") - 1
            if not 0 <= place < len(annotations) or annotations[place].get("id") != place + 1:
                raise row.error("annotations.json has no such id at its place", reason="foreign_id")
            target = _target(Row(path / "annotations.json", place + 1, annotations[place], row.name), words)
            message = Message("user", row.text("query"), (row.image(images, "image"),))
            yield (Sample(row.name, Prompt(row.name, (message,), "amber"), row.text("image"), target),)

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Count the nouns of a description, or a yes-no answer, exactly `Yes` or `No` (in `robust`: in any form)."""
        sample, answer = group[0], answers[0]
        sums = np.zeros(len(COLUMNS))
        if sample.target["kind"] == "generative":
            found = self._caption(sample, answer)
            sums[: len(found)] = found
            decision = _decision(sample, None, float(found[0] == 0), parsed=True)
            return Scored(sample.cluster, tuple(sums), (decision,), 1, 0, ("generative",))
        understood = robust_yes_no(answer)
        read = answer if parser == "official" else str(understood).capitalize()
        truth = sample.target["truth"]
        start = COLUMNS.index(f"{sample.target['kind']}_correct")
        correct = read == ("Yes" if truth == "yes" else "No")
        is_no, says_no = truth != "yes", read == "No"
        sums[start : start + 6] = correct, 1, is_no and says_no, is_no, says_no and truth == "no", says_no
        decision = _decision(sample, read, float(correct), parsed=understood is not None)
        return Scored(sample.cluster, tuple(sums), (decision,), 1, int(understood is None), (sample.target["kind"],))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The official figures, rounded as there, as fractions; those of parts without queries are left out."""
        return figures(sums_RC)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`[{id, response}]` as `inference.py` reads it."""
        rows = [{"id": int(sample.id), "response": answers.get(sample.id, "")} for (sample,) in groups]
        return [write_json(folder / "amber.json", rows)]

    def _caption(self, sample: Sample, answer: str) -> tuple[float, ...]:
        words: AmberWords = sample.target["words"]
        tagged = tagged_nouns(self.nltk_data)
        find: Nouns = known_nouns(words.vocabulary, self.nltk_data) if tagged is None else tagged[0]
        nouns = [noun for noun in find(answer) if noun in words.vocabulary]
        truth, likely = sample.target["truth"], sample.target["hallu"]
        counts = count_caption(nouns, truth, likely, words=words, similar=self._similar[0])
        return (
            counts.unsupported, counts.nouns, counts.covered, counts.truth, counts.made_up, counts.likely,
            float(counts.unsupported == 0), 1.0,
        )  # fmt: skip

    @cached_property
    def _similar(self) -> tuple[Similar, str]:
        return word_similarity(self.vectors, self.similarity)


def _target(row: Row, words: AmberWords) -> dict[str, Any]:
    kind = _TYPES.get(row.text("type"), "relation")
    if kind != "generative":
        return {"kind": kind, "truth": row.choice("truth", ("yes", "no"))}
    truth, hallu = row.texts("truth"), row.texts("hallu")
    for word in (*truth, *hallu):
        if word not in words.association:
            raise row.error(f"the object '{word}' is not in relation.json")
    return {"kind": kind, "truth": truth, "hallu": hallu, "words": words}


def _decision(sample: Sample, read: str | None, correct: float, *, parsed: bool) -> dict[str, Any]:
    return {
        "id": sample.id, "prediction": read, "target": sample.target["truth"], "correct": correct, "parsed": parsed,
    }  # fmt: skip


def _relations(path: Path) -> dict[str, list[str]]:
    value = read_json(_existing(path))
    if not isinstance(value, dict) or not all(isinstance(words, list) for words in value.values()):
        raise DataError(f"AMBER: {path} must hold {{object: [words]}}; {_PUBLISHED}")
    return value


def _list(path: Path) -> list[dict[str, Any]]:
    value = read_json(_existing(path))
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"AMBER: {path} must hold a list of objects; {_PUBLISHED}")
    return value


def _rows(path: Path) -> Iterator[Row]:
    for number, values in enumerate(_list(path), start=1):
        yield Row(path, number, values)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"AMBER: there is no {path}; {_PUBLISHED}", reason="missing_file")
    return path
