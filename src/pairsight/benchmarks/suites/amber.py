"""AMBER: hallucination in descriptions (1,004 images) and in 14,216 yes-no questions, without a judge.

Source: J. Wang et al. (2311.07397); the rule is that of `inference.py` (github.com/junyangwang0410/AMBER). The prompts
are the queries themselves, decoding is greedy with 1,024 tokens.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.protocol import Benchmark, Better, Reading, Sample, SampleImages
from pairsight.benchmarks.words import amber_nouns
from pairsight.benchmarks.words.reading import robust_yes_no

Floats = NDArray[np.float64]
KINDS = ("existence", "state", "number", "action", "relation")
_CAPTION = (
    "unsupported", "nouns", "covered", "truth", "made_up", "likely", "clean_responses", "responses",
)  # fmt: skip
_ANSWER = ("correct", "questions", "no_right", "no_true", "no_said_right", "no_said")
COLUMNS = (*_CAPTION, *(f"{kind}_{count}" for kind in KINDS for count in _ANSWER))
_START = 0.001
_PARTS: dict[str, tuple[tuple[str, ...], float]] = {
    "": (KINDS, 0.0001),
    "existence_": (("existence",), 0.001),
    "attribute_": (("state", "number", "action"), 0.0001),
    "state_": (("state",), 0.0001),
    "number_": (("number",), 0.0001),
    "action_": (("action",), 0.0001),
    "relation_": (("relation",), 0.0001),
}
"""Prefix of the metrics -> the kinds to sum, and the constant added to F1's denominator."""


def _better() -> dict[str, Better]:
    """Metric name -> which values are better."""
    caption_metrics: dict[str, Better] = {"chair": "lower", "cover": "higher", "hal": "lower", "cog": "lower"}
    answer_metrics = {f"{part}{name}" for part in _PARTS for name in ("accuracy", "precision", "recall", "f1")}
    return {**caption_metrics, **dict.fromkeys(sorted(answer_metrics), "higher"), "amber_score": "higher"}


def figures(sums_RC: Floats) -> dict[str, Floats]:
    """The metrics of all parts that have queries; "no" is the positive class of the yes-no part."""
    column = {name: sums_RC[:, index] for index, name in enumerate(COLUMNS)}
    found: dict[str, Floats] = {}
    if (column["responses"] > 0).any():
        clean = _percent(column["clean_responses"], column["responses"] + _START, complement=True)
        found |= {
            "chair": _percent(column["unsupported"], column["nouns"] + _START),
            "cover": _percent(column["covered"], column["truth"] + _START),
            "hal": clean,
            "cog": _percent(column["made_up"], column["likely"] + _START),
        }
    for prefix, (kinds, added) in _PARTS.items():
        present = [(column[f"{kind}_questions"] > 0).any() for kind in kinds]
        if all(present):
            found |= _answer_figures(prefix, {name: [column[f"{k}_{name}"] for k in kinds] for name in _ANSWER}, added)
    if "chair" in found and "f1" in found:
        found["amber_score"] = (100 - found["chair"] + found["f1"]) / 2
    return {name: values / 100 for name, values in found.items()}


def _answer_figures(prefix: str, counts: dict[str, list[Floats]], added: float) -> dict[str, Floats]:
    # the total has one denominator that starts at 0.001; the attributes have three, which are added up
    start = _START if prefix == "" else _START * len(counts["questions"])
    total = {name: np.sum(values, axis=0) for name, values in counts.items()}
    precision = _percent(total["no_said_right"], total["no_said"] + start)
    recall = _percent(total["no_right"], total["no_true"] + start)
    f1 = 2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + added)
    return {
        f"{prefix}accuracy": _percent(total["correct"], total["questions"] + start),
        f"{prefix}precision": precision,
        f"{prefix}recall": recall,
        f"{prefix}f1": _rounded(f1 * 100),
    }


def _percent(top: Floats, bottom: Floats, *, complement: bool = False) -> Floats:
    percent = top / bottom * 100
    return _rounded(100 - percent if complement else percent)


def _rounded(values: Floats) -> Floats:
    """Rounded to one digit by Python's rule, which sometimes differs from numpy's."""
    return np.array([round(float(value), 1) for value in values])


Part = Literal[
    "all", "generative", "discriminative", "discriminative-existence", "discriminative-attribute",
    "discriminative-relation",
]  # fmt: skip
_TYPES = {
    "generative": "generative", "discriminative-attribute-state": "state", "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action", "discriminative-hallucination": "existence",
}  # fmt: skip
"""The annotation's type -> our kind; all other types are relations."""


class Amber(Benchmark):
    """AMBER from its `data` folder: `query/query_<part>.json`, `annotations.json`, `relation.json`, `safe_words.txt`.

    Nouns are tagged by NLTK and compared by spaCy's `en_core_web_lg` if both are installed with their data (NLTK's data
    may be a folder). Otherwise fallbacks are used and named, and the figures are not called official. The yes-no part
    needs neither.
    """

    part: Part = Field("all", description="which queries: all, generative, discriminative or one of its three")
    vectors: str | None = Field(None, description="a spaCy model or a file of word vectors, instead of en_core_web_lg")
    nltk_data: str | None = Field(None, description="folder of NLTK's data, instead of where NLTK looks")
    similarity: float = Field(0.8, ge=-1, le=1, description="cosine above which two words mean the same")

    name = "amber"
    title = "AMBER"
    published = "its authors publish the data folder at github.com/junyangwang0410/AMBER"
    columns = COLUMNS
    better = _better()
    max_new_tokens = 1024
    answers_file = "amber.json"

    @cached_property
    def fallbacks(self) -> tuple[str, ...]:
        """What replaces missing tools of the original; nothing if only yes-no questions are asked."""
        return self._nouns.fallbacks if self.part in ("all", "generative") else ()

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per query; the id is AMBER's.

        Raises:
            DataError: a missing file, a bad record, an id that is duplicate or has no annotation, or an object that is
                not in `relation.json`.
        """
        if not (path / "safe_words.txt").is_file():
            raise self.file_error(f"there is no file {path / 'safe_words.txt'}", "missing_file")
        safe_words = frozenset(line for _, line in files.read_lines(path / "safe_words.txt"))
        words = amber_nouns.AmberWords(self._relations(path / "relation.json"), safe_words)
        annotations = self._list(path / "annotations.json")
        for record in files.unique_records(self._list(path / "query" / f"query_{self.part}.json"), "id"):
            index = record.number("id") - 1
            if not 0 <= index < len(annotations) or annotations[index].values.get("id") != index + 1:
                raise record.error(f"item {index + 1} of annotations.json does not have this id", reason="foreign_id")
            target = _target(annotations[index].with_id("id"), words)
            question, image = record.text("query"), record.image(images, "image")
            yield (self.sample(record.id, question, [image], cluster=record.text("image"), target=target),)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """Count the nouns of a description, or a yes-no answer: exactly `Yes` or `No` (`robust`: in any form)."""
        target, sums = sample.target, np.zeros(len(COLUMNS))
        if target["kind"] == "generative":
            counts = self._nouns.count(answer, target["truth"], target["hallu"], target["words"])
            clean = counts.unsupported == 0
            sums[: len(_CAPTION)] = (
                counts.unsupported, counts.nouns, counts.covered, counts.truth, counts.made_up, counts.likely, clean, 1,
            )  # fmt: skip
            return Reading(None, float(clean), True, tuple(sums), ("generative",))
        understood = robust_yes_no(answer)
        read = answer if official else str(understood).capitalize()
        truth = target["truth"]
        start = COLUMNS.index(f"{target['kind']}_correct")
        correct = read == ("Yes" if truth == "yes" else "No")
        is_no, says_no = truth != "yes", read == "No"
        sums[start : start + 6] = correct, 1, is_no and says_no, is_no, says_no and truth == "no", says_no
        return Reading(read, float(correct), understood is not None, tuple(sums), (target["kind"],))

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The official metrics, rounded as in the original, as fractions; omitted for parts without queries."""
        return figures(sums_RC)

    def to_record(self, sample: Sample, answer: str | None) -> dict[str, object]:
        """`{id, response}`, as `inference.py` reads it."""
        return {"id": int(sample.id), "response": answer or ""}

    @cached_property
    def _nouns(self) -> amber_nouns.NounReader:
        return amber_nouns.NounReader(self.nltk_data, self.vectors, self.similarity)

    def _relations(self, path: Path) -> dict[str, list[str]]:
        value = self.mapping(path)
        words = {name: listed for name, listed in value.items() if isinstance(listed, list)}
        if len(words) < len(value):
            raise self.file_error(f"{path} must hold {{object: [words]}}")
        return words

    def _list(self, path: Path) -> list[files.FileRecord]:
        return list(self.records(path, self.document(path)))


def _target(record: files.FileRecord, words: amber_nouns.AmberWords) -> dict[str, object]:
    kind = _TYPES.get(record.text("type"), "relation")
    if kind != "generative":
        return {"kind": kind, "truth": record.choice("truth", ("yes", "no"))}
    truth, hallu = record.texts("truth"), record.texts("hallu")
    for word in (*truth, *hallu):
        if word not in words.association:
            raise record.error(f"the object '{word}' is not in relation.json")
    return {"kind": kind, "truth": truth, "hallu": hallu, "words": words}
