"""COCO's 80 objects as captions mention them, by a synonym table: CHAIR's way with its mistakes, and a robust one.

Source: `utils/chair.py` of A. Rohrbach et al. (1809.02156; github.com/LisaAnne/Hallucination); `robust` is ours.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pairsight.benchmarks.files.official import Row, read_json, read_lines
from pairsight.benchmarks.protocol import Parser
from pairsight.benchmarks.words.singular import pattern_singular
from pairsight.benchmarks.words.tokens import Tokenizer, noun_lemma, tokenizer
from pairsight.errors import DataError

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
VEHICLES = ("jet", "train")
DOUBLE_WORDS = (
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier", "potted plant",
    "laptop computer", "stove top oven", "home plate", "train track",
)  # fmt: skip
"""Two words that are one object or none (a home plate is no plate). Three words are never looked for: a "stove top
oven" is found as two ovens."""

_QUALIFIED = {f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS} | {
    f"passenger {vehicle}": vehicle for vehicle in VEHICLES
}
_RENAMED = {"bow tie": "tie", "toilet seat": "toilet"}
_IRREGULAR = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse", "geese": "goose",
    "knives": "knife", "oxen": "ox", "calves": "calf", "wives": "wife", "policemen": "policeman", "buses": "bus",
    "businessmen": "man", "gentlemen": "gentleman",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compared:
    """The words a caption mentions, how many are of objects that are not there, the objects there, and those found."""

    words: list[str]
    wrong: int
    objects: int
    found: int


@dataclass(frozen=True)
class CocoObjects:
    """The synonym table: each line an object and the words for it; and how a text becomes words.

    `synonyms` keeps the words as the originals split them, so that in CHAIR one with a space before it never matches.
    """

    synonyms: Mapping[str, str]
    split: Tokenizer
    singular: Callable[[str], str]
    doubles: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, nltk_data: str | None = None) -> "CocoObjects":
        """CHAIR's table in a `synonyms.txt`, with pattern's singular forms and CHAIR's pairs of words.

        Raises:
            DataError: the file is missing or a line holds no word.
        """
        return cls(dict(_synonyms(path)), tokenizer(nltk_data)[0], pattern_singular, CHAIR_DOUBLES)

    @classmethod
    def read_refined(cls, path: Path, nltk_data: str | None = None) -> "CocoObjects":
        """RLHF-V's table in a `synonyms_refine.txt`, with base forms of nouns; spaces around its words are removed,
        and all its pairs of words count as one beside CHAIR's renamed and qualified ones.

        Raises:
            DataError: the file is missing or a line holds no word.
        """
        table = {word.strip(): node.strip() for word, node in _synonyms(path)}
        pairs = [word for word in table if len(word.split(" ")) >= 2] + ["home plate", "train track"]
        rest = {pair: word for pair, word in CHAIR_DOUBLES.items() if pair not in DOUBLE_WORDS}
        doubles = {pair: pair for pair in pairs} | rest
        return cls(table, tokenizer(nltk_data)[0], noun_lemma(nltk_data)[0], doubles)

    def mentions(self, text: str, parser: Parser) -> list[tuple[str, str]]:
        """(word, object) for every mention in a text, in order."""
        return self._official(text) if parser == "official" else self._robust(text)

    def compare(self, text: str, truth: "Truth", parser: Parser, *, once: bool) -> "Compared":
        """What a text mentions against the objects that are there.

        Args:
            text: a caption.
            truth: the objects that are there, as each parser finds them.
            parser: how mentions are found.
            once: count a mention of the same word once.
        """
        mentions = self.mentions(text, parser)
        if once:
            mentions = list(dict.fromkeys(mentions))
        there = truth[parser]
        wrong = sum(node not in there for _, node in mentions)
        found = {node for _, node in mentions} & there
        return Compared([word for word, _ in mentions], wrong, len(there), len(found))

    def _official(self, text: str) -> list[tuple[str, str]]:
        """The originals' way: singular words, pairs of words, `seat` dropped beside `toilet`, then the table."""
        words = list(_paired([self.singular(word) for word in self.split(text.lower())], self.doubles))
        if "toilet" in words and "seat" in words:
            words = [word for word in words if word != "seat"]
        return [(word, self.synonyms[word]) for word in words if word in self.synonyms]

    def _robust(self, text: str) -> list[tuple[str, str]]:
        words = re.findall(r"[a-z]+", re.sub(r"['’]s\b", "", text.lower()))
        bases = [self._base(word) for word in words]
        found: list[tuple[str, str]] = []
        place = 0
        while place < len(bases):
            length, phrase = self._longest(bases, place)
            if phrase is not None and phrase in self._phrases:
                found.append((phrase, self._phrases[phrase]))
            place += length
        if any(word == "toilet" for word, _ in found):
            found = [mention for mention in found if mention[0] != "seat"]
        return found

    def _longest(self, bases: Sequence[str], place: int) -> tuple[int, str | None]:
        """(how many words, the phrase they stand for) of the longest phrase that begins here."""
        for length in (3, 2):
            phrase = " ".join(bases[place : place + length])
            if place + length <= len(bases) and (phrase in self._phrases or phrase in _ROBUST_DOUBLES):
                return length, _ROBUST_DOUBLES.get(phrase, phrase)
        return 1, bases[place]

    def _base(self, word: str) -> str:
        """The singular that the table knows, else the word."""
        if word in self._words:
            return word
        forms = [_IRREGULAR.get(word, ""), word.removesuffix("s"), word.removesuffix("es")]
        if word.endswith("ies"):
            forms += [f"{word[:-3]}y", f"{word[:-3]}ie"]
        if word.endswith("ves"):
            forms += [f"{word[:-3]}f", f"{word[:-3]}fe"]
        return next((form for form in forms if form in self._words), word)

    @cached_property
    def _phrases(self) -> dict[str, str]:
        return {" ".join(word.lower().split()): node.strip() for word, node in self.synonyms.items()}

    @cached_property
    def _words(self) -> frozenset[str]:
        phrases = [*self._phrases, *_ROBUST_DOUBLES]
        return frozenset(word for phrase in phrases for word in phrase.split())


def synonyms_file(path: str | Path) -> Path:
    """A synonym table that is there; DataError with where to get it."""
    if not Path(path).is_file():
        raise DataError(f"CHAIR: there is no {path}; {_SYNONYMS_PUBLISHED}", reason="missing_file")
    return Path(path)


def stand_ins(nltk_data: str | None, *, lemmas: bool = False) -> tuple[str, ...]:
    """What stands in for the original's tokenizer and, where base forms are needed, lemmatizer."""
    labels = tokenizer(nltk_data)[1], noun_lemma(nltk_data)[1] if lemmas else ""
    return tuple(label for label in labels if label)


CHAIR_DOUBLES = {word: word for word in DOUBLE_WORDS} | _QUALIFIED | _RENAMED | {"wine glas": "wine glass"}
"""Pairs of singular words -> what they count as."""
_ROBUST_DOUBLES = {"home plate": "", "train track": ""} | _QUALIFIED | _RENAMED


def _synonyms(path: Path) -> Iterator[tuple[str, str]]:
    """(word, object) of a table, an object being a word for itself."""
    for number, line in read_lines(path):
        words = line.strip().split(", ")
        if not all(word.strip() for word in words):
            raise Row(path, number, {}).error("an object and its words are expected, with ', ' between")
        yield from ((word, words[0]) for word in words)


def _paired(words: Iterable[str], doubles: Mapping[str, str]) -> Iterator[str]:
    """The words, each pair that is in the table as one."""
    waiting: str | None = None
    for word in words:
        if waiting is None:
            waiting = word
            continue
        pair = f"{waiting} {word}"
        if pair in doubles:
            yield doubles[pair]
            waiting = None
        else:
            yield waiting
            waiting = word
    if waiting is not None:
        yield waiting


_SYNONYMS_PUBLISHED = "its authors publish synonyms.txt at github.com/LisaAnne/Hallucination (data/)"
_PUBLISHED = "COCO publishes annotations_trainval2014.zip at cocodataset.org"
Truth = Mapping[Parser, frozenset[str]]


def coco_truth(folder: Path, table: CocoObjects, image_ids: set[int]) -> dict[int, Truth]:
    """image id -> parser -> the objects that are there, for those ids that COCO has.

    Args:
        folder: holds `instances_*.json` and `captions_*.json`, of val, train or both.
        table: the synonyms; every COCO category must be among them.
        image_ids: the images that are asked for.

    Raises:
        DataError: a file is missing or damaged, or a category is not in the table.
    """
    labels: dict[int, set[str]] = {}
    for file in _files(folder, "instances"):
        whole = read_json(file)
        names = {row.number("id"): _node(table, row) for row in _rows(whole, "categories", file)}
        for row in _rows(whole, "images", file, "id", image_ids):
            labels.setdefault(row.number("id"), set())
        for row in _rows(whole, "annotations", file, "image_id", image_ids):
            if row.number("category_id") not in names:
                raise row.error(f"there is no category {row.values['category_id']}")
            labels.setdefault(row.number("image_id"), set()).add(names[row.number("category_id")])
    mentioned: dict[Parser, dict[int, set[str]]] = {"official": {}, "robust": {}}
    for file in _files(folder, "captions"):
        for row in _rows(read_json(file), "annotations", file, "image_id", image_ids):
            for parser, found in mentioned.items():
                nodes = {node for _, node in table.mentions(row.text("caption", empty=True), parser)}
                found.setdefault(row.number("image_id"), set()).update(nodes)
    return {
        image_id: {parser: frozenset(own | found.get(image_id, set())) for parser, found in mentioned.items()}
        for image_id, own in labels.items()
    }


def coco_images(folder: Path) -> dict[int, str]:
    """image id -> file name of the images of the val labels, or of all where there is no val file."""
    files = _files(folder, "instances")
    chosen = [file for file in files if "val" in file.name] or files
    rows = (row for file in chosen for row in _rows(read_json(file), "images", file))
    return {row.number("id"): row.text("file_name") for row in rows}


def _files(folder: Path, kind: str) -> list[Path]:
    found = sorted(folder.glob(f"{kind}_*.json")) if folder.is_dir() else []
    if not found:
        raise DataError(f"there is no {kind}_*.json in {folder}; {_PUBLISHED}", reason="missing_file")
    return found


def _rows(whole: Any, field: str, file: Path, key: str = "", wanted: Container[int] = frozenset()) -> Iterator[Row]:
    """The objects of a list in a COCO file; with a key, only those whose key is wanted."""
    items = whole.get(field) if isinstance(whole, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{file} must hold '{field}': a list of objects; {_PUBLISHED}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(f"{file}: item {number} of '{field}' must be an object, found {type(item).__name__}")
        if not key or (isinstance(item.get(key), int) and item[key] in wanted):
            yield Row(file, number, item, f"{field} {number}")


def _node(table: CocoObjects, row: Row) -> str:
    name = row.text("name")
    if name not in table.synonyms:
        raise row.error(f"the category '{name}' is not in the synonyms table", reason="bad_synonyms")
    return table.synonyms[name]
