"""Mentions of COCO's 80 objects in captions, by a synonym table: CHAIR's rule with its mistakes, and a robust one.

Source: `utils/chair.py` of A. Rohrbach et al. (1809.02156; github.com/LisaAnne/Hallucination); `robust` is ours.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pairsight.benchmarks.files.official import FileRecord, read_json, read_lines
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
"""Word pairs that mean one object or none (a home plate is not a plate). Three words are never matched: a "stove top
oven" counts as two ovens."""

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
    """The object words of a caption, how many name absent objects, and the numbers of present objects and of those
    found.
    """

    words: list[str]
    wrong: int
    objects: int
    found: int


@dataclass(frozen=True)
class CocoObjects:
    """The synonym table (word -> object), and how text is split into words.

    `synonyms` has the words as the originals split them, so that in CHAIR a word with a leading space never matches.
    """

    synonyms: Mapping[str, str]
    split: Tokenizer
    singular: Callable[[str], str]
    doubles: Mapping[str, str]

    @classmethod
    def read(cls, path: str | Path, nltk_data: str | None = None) -> "CocoObjects":
        """CHAIR's table from a `synonyms.txt`, with pattern's singular forms and CHAIR's word pairs.

        Raises:
            DataError: the file is missing or a line holds no word.
        """
        return cls(dict(_synonyms(path)), tokenizer(nltk_data)[0], pattern_singular, CHAIR_DOUBLES)

    @classmethod
    def read_refined(cls, path: str | Path, nltk_data: str | None = None) -> "CocoObjects":
        """RLHF-V's table from a `synonyms_refine.txt`, with base forms of nouns; spaces around its words are removed,
        and all its word pairs count as one word, in addition to CHAIR's renamed and qualified pairs.

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
        """Compare the mentions in a text with the objects that are present.

        Args:
            text: a caption.
            truth: the objects that are present, as each parser finds them.
            parser: how mentions are found.
            once: count each word only once.
        """
        mentions = self.mentions(text, parser)
        if once:
            mentions = list(dict.fromkeys(mentions))
        present = truth[parser]
        wrong = sum(node not in present for _, node in mentions)
        found = {node for _, node in mentions} & present
        return Compared([word for word, _ in mentions], wrong, len(present), len(found))

    @staticmethod
    def fallbacks(nltk_data: str | None, *, lemmas: bool = False) -> tuple[str, ...]:
        """What replaces the original's tokenizer and, if base forms are needed, its lemmatizer, if they are missing."""
        labels = tokenizer(nltk_data)[1], noun_lemma(nltk_data)[1] if lemmas else ""
        return tuple(label for label in labels if label)

    def truth(self, folder: Path, image_ids: set[int]) -> dict[int, "Truth"]:
        """Image id -> parser -> the objects that are present, for the ids that are in COCO's files.

        Args:
            folder: holds `instances_*.json` and `captions_*.json`, of val, train or both.
            image_ids: the images to look up.

        Raises:
            DataError: a file is missing or damaged, or a category is not in the synonyms.
        """
        labels: dict[int, set[str]] = {}
        for file in _files(folder, "instances"):
            document = read_json(file)
            names = {record.number("id"): self._node(record) for record in _records(document, "categories", file)}
            for record in _records(document, "images", file, "id", image_ids):
                labels.setdefault(record.number("id"), set())
            for record in _records(document, "annotations", file, "image_id", image_ids):
                if record.number("category_id") not in names:
                    raise record.error(f"there is no category {record.values['category_id']}")
                labels.setdefault(record.number("image_id"), set()).add(names[record.number("category_id")])
        mentioned: dict[Parser, dict[int, set[str]]] = {"official": {}, "robust": {}}
        for file in _files(folder, "captions"):
            for record in _records(read_json(file), "annotations", file, "image_id", image_ids):
                for parser, found in mentioned.items():
                    nodes = {node for _, node in self.mentions(record.text("caption", empty=True), parser)}
                    found.setdefault(record.number("image_id"), set()).update(nodes)
        return {
            image_id: {parser: frozenset(labelled | found.get(image_id, set())) for parser, found in mentioned.items()}
            for image_id, labelled in labels.items()
        }

    @staticmethod
    def images(folder: Path) -> dict[int, str]:
        """Image id -> file name of the images in the val labels, or in all labels if there is no val file."""
        files = _files(folder, "instances")
        val_files = [file for file in files if "val" in file.name] or files
        records = (record for file in val_files for record in _records(read_json(file), "images", file))
        return {record.number("id"): record.text("file_name") for record in records}

    def _node(self, record: FileRecord) -> str:
        name = record.text("name")
        if name not in self.synonyms:
            raise record.error(f"the category '{name}' is not in the synonyms table", reason="bad_synonyms")
        return self.synonyms[name]

    def _official(self, text: str) -> list[tuple[str, str]]:
        """The originals' rule: singular words, word pairs, `seat` dropped if there is a `toilet`, then the table."""
        words = list(_paired([self.singular(word) for word in self.split(text.lower())], self.doubles))
        if "toilet" in words and "seat" in words:
            words = [word for word in words if word != "seat"]
        return [(word, self.synonyms[word]) for word in words if word in self.synonyms]

    def _robust(self, text: str) -> list[tuple[str, str]]:
        words = re.findall(r"[a-z]+", re.sub(r"['’]s\b", "", text.lower()))
        bases = [self._base(word) for word in words]
        found: list[tuple[str, str]] = []
        start = 0
        while start < len(bases):
            length, phrase = self._longest(bases, start)
            if phrase is not None and phrase in self._phrases:
                found.append((phrase, self._phrases[phrase]))
            start += length
        if any(word == "toilet" for word, _ in found):
            found = [mention for mention in found if mention[0] != "seat"]
        return found

    def _longest(self, bases: Sequence[str], start: int) -> tuple[int, str | None]:
        """(number of words, phrase they count as) of the longest phrase that starts here."""
        for length in (3, 2):
            phrase = " ".join(bases[start : start + length])
            if start + length <= len(bases) and (phrase in self._phrases or phrase in _ROBUST_DOUBLES):
                return length, _ROBUST_DOUBLES.get(phrase, phrase)
        return 1, bases[start]

    def _base(self, word: str) -> str:
        """The word's singular if it is in the table, else the word."""
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


CHAIR_DOUBLES = {word: word for word in DOUBLE_WORDS} | _QUALIFIED | _RENAMED | {"wine glas": "wine glass"}
"""Pairs of singular words -> what they count as."""
_ROBUST_DOUBLES = {"home plate": "", "train track": ""} | _QUALIFIED | _RENAMED


def _synonyms(path: str | Path) -> Iterator[tuple[str, str]]:
    """The (word, object) pairs of a table; an object is also a word for itself."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"CHAIR: there is no file {path}; {_SYNONYMS_PUBLISHED}", reason="missing_file")
    for number, line in read_lines(path):
        words = line.strip().split(", ")
        if not all(word.strip() for word in words):
            raise FileRecord(path, number, {}).error("an object and its words are expected, separated by ', '")
        yield from ((word, words[0]) for word in words)


def _paired(words: Iterable[str], doubles: Mapping[str, str]) -> Iterator[str]:
    """The words, with each pair that is in the table as one word."""
    previous: str | None = None
    for word in words:
        if previous is None:
            previous = word
            continue
        pair = f"{previous} {word}"
        if pair in doubles:
            yield doubles[pair]
            previous = None
        else:
            yield previous
            previous = word
    if previous is not None:
        yield previous


_SYNONYMS_PUBLISHED = "its authors publish synonyms.txt at github.com/LisaAnne/Hallucination (data/)"
_PUBLISHED = "COCO publishes annotations_trainval2014.zip at cocodataset.org"
Truth = Mapping[Parser, frozenset[str]]
"""Parser -> the objects in an image, where captions are read by that parser."""


def _files(folder: Path, kind: str) -> list[Path]:
    found = sorted(folder.glob(f"{kind}_*.json")) if folder.is_dir() else []
    if not found:
        raise DataError(f"there is no {kind}_*.json in {folder}; {_PUBLISHED}", reason="missing_file")
    return found


def _records(
    document: Any, field: str, file: Path, id_field: str = "", wanted: Container[int] = frozenset()
) -> Iterator[FileRecord]:
    """The objects of a list in a COCO file; with an id field, only those whose id is wanted."""
    items = document.get(field) if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{file} must hold '{field}': a list of objects; {_PUBLISHED}")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(f"{file}: item {number} of '{field}' must be an object, found {type(item).__name__}")
        if not id_field or (isinstance(item.get(id_field), int) and item[id_field] in wanted):
            yield FileRecord(file, number, item, f"{field} {number}")
