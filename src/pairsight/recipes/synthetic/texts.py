"""Text-to-image prompts from a language model: one-sentence scenes on ten topics, asked for in lists."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from pairsight.models.wording import filled
from pairsight.records import CompletionRequest, ImageCandidate, ImageRef, Message, Prompt
from pairsight.seeds import derived_seed

TOPICS = (
    "art",
    "culinary",
    "daily activities",
    "holidays",
    "industrial",
    "nature",
    "school",
    "transportation",
    "urban",
    "weather",
)
"""The topics of the paper (2412.17417, supplement B)."""

SCENES_A_REQUEST = 20
"""How many scenes are asked for at once (ours: long lists repeat themselves)."""

_NUMBERING = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•–])\s*")
_FEWEST_WORDS = 3


SCENE_PLACEHOLDERS = ("topic", "count")
SCENE_PROMPT = (
    "Write {count} prompts for a text-to-image model on the topic '{topic}'. Each is one sentence that describes one "
    "concrete scene: who or what is in it, where, doing what. Make the scenes differ from each other. Write one prompt "
    "a line, as a numbered list, and nothing else."
)
"""What asks for scenes (ours)."""


def scene_requests(
    topics: tuple[str, ...], scenes_per_topic: int, seed: int, wording: str = SCENE_PROMPT
) -> Iterator[CompletionRequest]:
    """Requests for lists of scenes, enough for `scenes_per_topic` of each topic; each has its own seed.

    Args:
        wording: with the placeholders of `SCENE_PLACEHOLDERS`.
    """
    for topic in topics:
        for number, start in enumerate(range(0, scenes_per_topic, SCENES_A_REQUEST)):
            wanted = min(SCENES_A_REQUEST, scenes_per_topic - start)
            text = filled(wording, {"topic": topic, "count": str(wanted)})
            prompt = Prompt(f"scenes-{slug(topic)}-{number}", (Message("user", text),), topic)
            yield CompletionRequest(prompt, 0, derived_seed("scenes", seed, topic, number))


def parse_scenes(text: str) -> list[str]:
    """The sentences of a list: numbers, bullets and quotation marks removed, headings and remarks left out.

    A line counts when it is numbered or bulleted, or, in a list without either, when it has three words or more and
    does not end in a colon.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [line for line in lines if _NUMBERING.match(line)]
    chosen = numbered or [line for line in lines if not line.endswith(":")]
    bare = (_NUMBERING.sub("", line).strip().strip("\"'“”*").strip() for line in chosen)
    return [line for line in bare if len(line.split()) >= _FEWEST_WORDS]


def slug(topic: str) -> str:
    """A topic as the beginning of ids, e.g. "daily activities" -> "daily-activities"."""
    return "-".join(topic.lower().split())


_WORD = re.compile(r"\w+")


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[int | None]:
    """For each text the first earlier, kept text it almost repeats; None when there is none.

    Two texts are near-duplicates when |A ∩ B| / |A ∪ B| ≥ threshold, A and B being their words in lower case.

    Args:
        texts: in order of precedence.
        threshold: in (0, 1]; 1 finds equal sets of words only.

    Returns:
        An index smaller than its own, or None, per text.

    Source: ours, by Jaccard similarity; exact through prefix filtering (Bayardo et al. 2007): with words ordered from
    rare to common, two similar sets share one of their first n − ⌈t·n⌉ + 1 words.
    """
    sets = [frozenset(_WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for words in sets for word in words)
    kept_by_word: dict[str, list[int]] = defaultdict(list)
    same: dict[frozenset[str], int] = {}
    found: list[int | None] = []
    for index, words in enumerate(sets):
        ordered = sorted(words, key=lambda word: (frequency[word], word))
        prefix = ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]
        near = [other for word in prefix for other in kept_by_word[word] if _alike(words, sets[other], threshold)]
        first = min(near, default=same.get(words))
        found.append(first)
        if first is None:
            same[words] = index
            for word in prefix:
                kept_by_word[word].append(index)
    return found


def _alike(words: frozenset[str], others: frozenset[str], threshold: float) -> bool:
    shared = len(words & others)
    return shared >= threshold * (len(words) + len(others) - shared) - 1e-9


_QUESTION = re.compile(r"\b((?:how|what|why)\b[^?\n]*\?)", re.IGNORECASE)
INSTRUCTION_PLACEHOLDERS = ("prompt",)
INSTRUCTION_PROMPT = (
    'An image was made from this text: "{prompt}". Write one question about the image that begins with How, What or '
    "Why and that can be answered by looking at the image. Ask about what the text says is there. Write the question "
    "alone."
)
"""What asks for a question about an image (ours)."""


def instruction_request(
    prompt: Prompt, image: ImageRef | None, seed: int, wording: str = INSTRUCTION_PROMPT
) -> CompletionRequest:
    """The request for one question; ours asks for How, What or Why.

    Args:
        prompt: the text-to-image prompt.
        image: the winning image, when the writer is to see it; None gives it the text alone.
        seed: of the recipe.
        wording: with the placeholders of `INSTRUCTION_PLACEHOLDERS`.
    """
    text = filled(wording, {"prompt": prompt.question})
    images = () if image is None else (image,)
    asked = Prompt(f"{prompt.id}-instruction", (Message("user", text, images),), prompt.source)
    return CompletionRequest(asked, 0, derived_seed("instruction", seed, prompt.id))


def parse_instruction(text: str) -> str | None:
    """The first How, What or Why question in what the writer said, on one line; None when there is none."""
    found = _QUESTION.search(text)
    if found is None:
        return None
    question = " ".join(found.group(1).split())
    return question[0].upper() + question[1:]


_LABEL = re.compile(r"^(?:\W{0,3}(?:question|instruction|prompt)\W{0,3}:\W{0,3})", re.IGNORECASE)


def first_line(text: str) -> str | None:
    """What the writer said where the wording is a user's own, and may ask for any question or instruction.

    Returns:
        The first line that is not a heading, without its number, label and quotation marks; None when there is none.
    """
    lines = (
        _LABEL.sub("", _NUMBERING.sub("", line.strip())).strip().strip('"“”*').strip() for line in text.splitlines()
    )
    return next((line for line in lines if line and not line.endswith(":")), None)


_REFUSAL = re.compile(
    r"^(i['’]?m (very |really )?sorry\b|sorry,|i apologi[sz]e\b"
    r"|(i|as an ai\b[^.]*?,? i) (can(no|['’])t|cannot|am (not able|unable)|['’]m (not able|unable)|won['’]t|will not)\b"
    r"|as an ai (language )?(model|assistant)\b)",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[\W_]+")


def unusable(text: str, question: str) -> str | None:
    """Why a completion is left out: "empty", "echo" (it only repeats the question) or "refusal"; None keeps it.

    Args:
        text: the completion.
        question: what was asked.

    Source: ours; a refusal is told by how it begins, in English.
    """
    said = text.strip()
    if not said:
        return "empty"
    if _plain(said) == _plain(question):
        return "echo"
    return "refusal" if _REFUSAL.match(said) else None


def _plain(text: str) -> str:
    return _SPACES.sub(" ", text.casefold()).strip()


def rank_images(images: Sequence[ImageCandidate], scorer: str, seen: Collection[str] = ()) -> list[int]:
    """Places of the images from best to worst by one scorer; of equals the first comes first.

    Args:
        images: candidates of one prompt.
        scorer: whose scores count; an image without its score cannot be ranked and is left out.
        seen: SHA-256 of images that must not be used again; they are left out.
    """
    usable = [i for i, one in enumerate(images) if scorer in one.scores and one.image.sha256 not in seen]
    return sorted(usable, key=lambda i: -images[i].scores[scorer])


def with_selected(images: Sequence[ImageCandidate], index: int) -> tuple[ImageCandidate, ...]:
    """The candidates, that at `index` marked as the one selected."""
    return tuple(replace(one, selected=i == index) for i, one in enumerate(images))
