"""AMBER: hallucination in descriptions (1,004 images) and in 14,216 yes-no questions, without a judge.

Source: J. Wang et al. (2311.07397); the rule is that of `inference.py` (github.com/junyangwang0410/AMBER). The prompts
are the queries themselves, decoding is greedy with 1,024 tokens.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pairsight.benchmarks.files.answers import write_json
from pairsight.benchmarks.files.official import Row, UniqueIds, read_json, read_lines
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.benchmarks.words.similarity import Similar, word_similarity
from pairsight.benchmarks.words.tokens import Nouns, known_nouns, tagged_nouns
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt


@dataclass(frozen=True)
class AmberWords:
    """AMBER's word lists: object -> words that may stand for it, and nouns that are never wrong."""

    association: Mapping[str, Sequence[str]]
    safe_words: Collection[str]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The nouns that are looked at."""
        return frozenset(self.association) | frozenset(word for words in self.association.values() for word in words)


@dataclass(frozen=True, slots=True)
class CaptionCounts:
    """Unsupported nouns of all nouns, truth objects covered of all, likely hallucinations made of all."""

    unsupported: int
    nouns: int
    covered: int
    truth: int
    made_up: int
    likely: int


def count_caption(
    nouns: Sequence[str],
    truth: Sequence[str],
    likely: Sequence[str],
    *,
    words: "AmberWords",
    similar: Similar,
) -> CaptionCounts:
    """Score the nouns of a description.

    Args:
        nouns: its nouns in base form, those of the vocabulary only, in order.
        truth: the objects that are there.
        likely: objects that a model may hallucinate.
        words: what may stand for an object, and the safe words.
        similar: whether two words mean nearly the same.
    """
    there, made_up = _Named(truth, words.association), _Named(likely, words.association)
    unsupported = 0
    for noun in nouns:
        if noun in words.safe_words or there.hit_exact(noun):
            continue
        made_up.hit_exact(noun)
        made_up.hit_similar(noun, similar)
        if not there.hit_similar(noun, similar):
            unsupported += 1
    return CaptionCounts(unsupported, len(nouns), there.num_hit, len(truth), made_up.num_hit, len(likely))


class _Named:
    """Objects by the words that may name them: first the associated words of all objects, then the objects."""

    def __init__(self, objects: Sequence[str], association: Mapping[str, Sequence[str]]) -> None:
        associated = [(word, place) for place, name in enumerate(objects) for word in association[name]]
        self._words = [*associated, *((name, place) for place, name in enumerate(objects))]
        self._hit: set[int] = set()

    @property
    def num_hit(self) -> int:
        """How many objects were named."""
        return len(self._hit)

    def hit_exact(self, noun: str) -> bool:
        """Mark the first object that this noun names."""
        return self._mark(lambda word: word == noun)

    def hit_similar(self, noun: str, similar: Similar) -> bool:
        """Mark the first object that a similar word names."""
        return self._mark(lambda word: similar(noun, word))

    def _mark(self, fits: Callable[[str], bool]) -> bool:
        place = next((place for word, place in self._words if fits(word)), None)
        if place is not None:
            self._hit.add(place)
        return place is not None


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
"""Prefix of the figures -> the kinds that are summed, and what is added to F1's denominator."""


def better() -> dict[str, Better]:
    """Which way each figure is better."""
    ways: dict[str, Better] = {"chair": "lower", "cover": "higher", "hal": "lower", "cog": "lower"}
    figures_of_answers = {f"{part}{name}" for part in _PARTS for name in ("accuracy", "precision", "recall", "f1")}
    return {**ways, **dict.fromkeys(sorted(figures_of_answers), "higher"), "amber_score": "higher"}


def figures(sums_RC: Floats) -> dict[str, Floats]:
    """All figures of the parts that have any queries; "no" is the positive class of the yes-no part."""
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
    # the whole has one denominator that starts at 0.001, the attributes have three that are added up
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
    """Rounded to one digit as Python rounds, which is not always as numpy does."""
    return np.array([round(float(value), 1) for value in values])


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


class Amber(Benchmark):
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
