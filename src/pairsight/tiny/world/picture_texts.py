"""Texts that pictures are made from: a topic (the world's scene types, named) and the objects to show."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairsight.records import Message, Prompt
from pairsight.tiny.world.captions import listed, mentioned_kinds
from pairsight.tiny.world.scenes import COLOURS, NUM_KINDS, SHAPES, stream, type_weights

TOPICS = ("art", "nature", "school", "urban", "weather")
"""One name per scene type, from the paper's ten topics; a topic has its ground's tint and its typical objects."""

MAX_OBJECTS = 3
MAX_TOKENS = 16
_COUNTS = (0.25, 0.4, 0.35)  # probabilities of 1, 2, 3 objects

_WORDS = (
    *("scene", "with", "a", "an", "and", ",", ".", "there", "is", "are", "in", "the", "image", "of", "nothing", "no"),
    *("yes", "picture", "photo", "shows", "it", "contains"),
)
PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"


def picture_text(topic: str, kinds: Sequence[int]) -> str:
    """E.g. "urban scene with a red circle, an orange ring and a blue cross"."""
    return f"{topic} scene with {listed(kinds)}"


def kinds_wanted(text: str) -> frozenset[int]:
    """The kinds that a text asks for."""
    return frozenset(mentioned_kinds(text))


def picture_prompts(num_per_topic: int, seed: int = 0) -> list[Prompt]:
    """Text-to-image prompts, ids `topic-n`, their objects drawn as the topic's scenes draw theirs.

    No text repeats another of the same topic.
    """
    prompts = []
    for scene_type, topic in enumerate(TOPICS):
        rng = stream("align", seed, scene_type, 8)
        seen: set[str] = set()
        while len(seen) < num_per_topic:
            count = 1 + int(rng.choice(MAX_OBJECTS, p=_COUNTS))
            kinds = rng.choice(NUM_KINDS, size=count, replace=False, p=type_weights()[scene_type])
            text = picture_text(topic, [int(kind) for kind in kinds])
            if text not in seen:
                seen.add(text)
                prompts.append(Prompt(f"{topic}-{len(seen)}", (Message("user", text),), topic))
    return prompts


def write_texts(path: Path, num_per_topic: int, seed: int = 0) -> None:
    """Text-to-image prompts as JSON Lines of `id`, `topic` and `prompt`, as `build synthetic --prompts` reads them."""
    rows = [{"id": one.id, "topic": one.source, "prompt": one.question} for one in picture_prompts(num_per_topic, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def draw_kinds(scene_type: int, rng: np.random.Generator, even: float) -> list[int]:
    """Objects of a training picture: as the topic's scenes draw theirs, or (share `even`) any kinds alike."""
    count = 1 + int(rng.choice(MAX_OBJECTS, p=_COUNTS))
    weights = None if rng.random() < even else type_weights()[scene_type]
    return [int(kind) for kind in rng.choice(NUM_KINDS, size=count, replace=False, p=weights)]


def build_caption_tokenizer() -> Any:
    """The tokenizer of the tiny pipeline and image scorers: one token a word in lower case, start and end marks."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [PAD, START, END, UNKNOWN, *_WORDS, *TOPICS, *COLOURS]
    words += [word for shape in SHAPES for word in (shape, f"{shape}{'es' if shape == 'cross' else 's'}")]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=MAX_TOKENS,
        padding_side="right",
    )
