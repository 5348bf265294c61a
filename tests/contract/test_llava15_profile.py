"""Profile `llava-1.5` against LLaVA-1.5's published rules, rebuilt here: what enters the model, by any verb, is theirs.

Pixels are recorded where they enter the first convolution, tokens where they enter the embedding. The expectations use
Pillow, numpy and the tokenizer alone: the square, the colour and the CLIP numbers; the template `vicuna_v1`; tokens of
the pieces around `<image>`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import llava15
from pairsight.benchmarks.likelihood import OptionRequest, RankOptions
from pairsight.engine.progress import Progress
from pairsight.images.source import FileImages
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.profiles.shipped import LLAVA_1_5, LLAVA_V1
from pairsight.models.protocols import Sampling
from pairsight.records import Completion, CompletionRequest, ImageRef, ItemError, Message, PreferencePair, Prompt
from pairsight.training.trainer import PreferenceTrainer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_INDEX, PLACEHOLDERS = -200, 16
QUESTION = "What is in the red thing?"


def published_pixels(picture: Image.Image, side: int = 28) -> np.ndarray:
    longer = max(picture.size)
    square = np.empty((longer, longer, 3), np.uint8)
    square[:] = [int(part * 255) for part in MEAN]
    top, left = (longer - picture.height) // 2, (longer - picture.width) // 2
    square[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    small = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))
    return ((small.astype(np.float64) / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def published_ids(words: Any, text: str) -> list[int]:
    """LLaVA's rule: each piece by itself, its start token only once, the image's index between them."""
    chunks = [words(chunk).input_ids for chunk in text.split("<image>")]
    assert all(chunk[0] == words.bos_token_id == 1 for chunk in chunks)
    ids = [1]
    for number, chunk in enumerate(chunks):
        ids += ([IMAGE_INDEX] if number else []) + chunk[1:]
    return ids


def with_placeholders(words: Any, ids: list[int]) -> list[int]:
    mark = words.convert_tokens_to_ids("<image>")
    return [token for one in ids for token in ([mark] * PLACEHOLDERS if one == IMAGE_INDEX else [one])]


@dataclass
class Entered:
    """What entered models since the last `clear`."""

    pixels: list[np.ndarray] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)

    def clear(self) -> None:
        self.pixels.clear()
        self.tokens.clear()

    def rows_with(self, ids: list[int]) -> int:
        """How many rows hold these tokens one after the other."""
        wanted = f" {' '.join(map(str, ids))} "
        return sum(wanted in f" {' '.join(map(str, row))} " for row in self.tokens)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Entered]:
    found = Entered()
    convolve, embed = torch.nn.Conv2d.forward, torch.nn.Embedding.forward

    def conv(self: Any, x: torch.Tensor) -> torch.Tensor:
        found.pixels.extend(x.detach().float().numpy())
        return convolve(self, x)

    def embedding(self: Any, x: torch.Tensor) -> torch.Tensor:
        if self.num_embeddings == llava15.VOCABULARY:
            found.tokens.extend(x.reshape(-1, x.shape[-1]).tolist())
        return embed(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", conv)
    monkeypatch.setattr(torch.nn.Embedding, "forward", embedding)
    yield found


@dataclass(frozen=True)
class Small:
    model: Path
    images: FileImages
    wide: ImageRef
    tall: ImageRef
    pictures: dict[ImageRef, Image.Image]
    words: Any


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("llava15")
    numbers = np.random.default_rng(5)
    pictures = {
        name: Image.fromarray(numbers.integers(0, 256, size, dtype=np.uint8))
        for name, size in {"wide.png": (33, 60, 3), "tall.png": (52, 31, 3)}.items()
    }
    for name, picture in pictures.items():
        picture.save(folder / name)
    images = FileImages(folder)
    refs = images.refs(list(pictures))
    return Small(
        llava15.build(folder / "model"),
        images,
        refs["wide.png"],
        refs["tall.png"],
        {refs[name]: picture for name, picture in pictures.items()},
        llava15.tokenizer(),
    )


def prompt(small: Small, name: str, image: ImageRef, text: str = f"<image>\n{QUESTION}") -> Prompt:
    return Prompt(name, (Message("user", text, (image,)),))


def written(question: str = QUESTION) -> str:
    return f"{SYSTEM} USER: <image>\n{question} ASSISTANT:"


def same_pixels(small: Small, found: list[np.ndarray], *images: ImageRef) -> bool:
    return len(found) == len(images) and all(
        np.abs(pixels - published_pixels(small.pictures[image])).max() < 1e-5
        for pixels, image in zip(found, images, strict=True)
    )


def test_what_enters_the_model_in_generation_is_as_published(small: Small, entered: Entered):
    model = LocalVLM(small.model, small.images, profile=LLAVA_1_5)
    (made,) = model.generate([CompletionRequest(prompt(small, "a", small.wide))], Sampling(max_new_tokens=2))
    assert isinstance(made, Completion)
    assert same_pixels(small, entered.pixels, small.wide)
    assert entered.tokens[0] == with_placeholders(small.words, published_ids(small.words, written()))
    pieces = small.words.convert_ids_to_tokens(entered.tokens[0])
    first = pieces.index("<image>")
    assert pieces[first - 2 : first] == [":", "▁"], "the piece before the image ends in a blank of its own"
    assert pieces[first + PLACEHOLDERS :][:3] == ["▁", "<0x0A>", "W"], "the piece after it begins as a text does"


def test_without_a_profile_pixels_and_tokens_are_others(small: Small, entered: Entered):
    LocalVLM(small.model, small.images).generate(
        [CompletionRequest(prompt(small, "a", small.wide))], Sampling(max_new_tokens=1)
    )
    assert not same_pixels(small, entered.pixels, small.wide)
    assert entered.tokens[0] != with_placeholders(small.words, published_ids(small.words, written()))


def test_what_enters_the_model_when_options_are_ranked_is_as_published(small: Small, entered: Entered):
    model = LocalVLM(small.model, small.images, profile=LLAVA_1_5)
    stage = RankOptions.of(model)
    stage.setup()
    list(stage.process([OptionRequest(prompt(small, "a", small.tall), {"A": "the red", "B": "a tin"})]))
    assert entered.pixels and all(same_pixels(small, [one], small.tall) for one in entered.pixels)
    asked = with_placeholders(small.words, published_ids(small.words, written()))
    assert entered.rows_with(asked)


def test_what_enters_the_model_in_training_is_as_published(small: Small, entered: Entered, tmp_path: Path):
    def completion(name: str, text: str) -> Completion:
        return Completion(f"{name}:{text}", name, text, "stop", "m", 0, 0)

    pairs = [
        PreferencePair(
            name,
            prompt(small, name, image, text),
            completion(name, "the red thing is a tin"),
            (completion(name, "a ship"),),
            "given",
        )
        for name, image, text in (
            ("wide", small.wide, f"<image>\n{QUESTION}"),
            ("tall", small.tall, QUESTION),
            ("last", small.tall, "Is the mark here? \n<image>"),
        )
    ]
    options = {"lora_r": 2, "max_steps": 1, "min_steps_per_epoch": 0, "report_to": (), "share_prefixes": False}
    out = PreferenceTrainer(
        small.model, out=tmp_path / "a", images=small.images, profile=LLAVA_1_5, progress=Progress("quiet"), **options
    ).train(pairs)
    assert any(same_pixels(small, [one], small.wide) for one in entered.pixels)
    assert any(same_pixels(small, [one], small.tall) for one in entered.pixels)
    assert all(same_pixels(small, [one], i) for one in entered.pixels for i in [nearest(small, one)])
    for question in (QUESTION, "Is the mark here?"):
        for answer in ("the red thing is a tin", "a ship"):
            full = published_ids(small.words, f"{written(question)} {answer}</s>")
            assert full[-1] == 2
            assert with_placeholders(small.words, full) in entered.tokens
    noted = json.loads((out / "inference.json").read_text())
    assert noted["profile"]["name"] == "llava-1.5"


def nearest(small: Small, pixels: np.ndarray) -> ImageRef:
    return min(small.pictures, key=lambda ref: float(np.abs(pixels - published_pixels(small.pictures[ref])).max()))


def test_a_dialogue_is_written_as_published(small: Small, entered: Entered):
    turns = (
        Message("user", "<image>\nWhat is it?", (small.wide,)),
        Message("assistant", "a red tin"),
        Message("user", QUESTION),
    )
    for profile, system in ((LLAVA_1_5, SYSTEM), (LLAVA_V1, SYSTEM.replace("user", "human"))):
        entered.clear()
        model = LocalVLM(small.model, small.images, profile=profile)
        model.generate([CompletionRequest(Prompt("d", turns))], Sampling(max_new_tokens=1))
        text = f"{system} USER: <image>\nWhat is it? ASSISTANT: a red tin</s>USER: {QUESTION} ASSISTANT:"
        assert entered.tokens[0] == with_placeholders(small.words, published_ids(small.words, text))


def test_noise_acts_on_the_padded_and_normalised_pixels(small: Small, entered: Entered):
    from pairsight.images.distort import apply_normalised, make_distortion

    noise = make_distortion("diffusion_weak", 7)
    model = LocalVLM(small.model, small.images, profile=LLAVA_1_5)
    asked = CompletionRequest(prompt(small, "a", small.wide), images=(ImageRef(small.wide.sha256, noise),))
    model.generate([asked], Sampling(max_new_tokens=1))
    clean = torch.from_numpy(published_pixels(small.pictures[small.wide]))
    assert np.abs(entered.pixels[0] - apply_normalised(clean, noise).numpy()).max() < 1e-5


def test_what_cannot_be_written_is_an_error_of_its_own_item(small: Small):
    model = LocalVLM(small.model, small.images, profile=LLAVA_1_5)
    twice = prompt(small, "twice", small.wide, "<image> and <image>")
    said = Message("user", "a</s>b <image>?")
    turns = Prompt("turns", (said, Message("assistant", "x"), Message("user", "y")))
    requests = [CompletionRequest(one) for one in (twice, turns, Prompt("once", (said,)))]
    first, second, third = model.generate(requests, Sampling(max_new_tokens=1))
    assert isinstance(first, ItemError) and first.reason == "image_marks" and "'twice'" in first.detail
    assert isinstance(second, ItemError) and second.reason == "control_token" and "'turns'" in second.detail
    assert isinstance(third, Completion), "in one turn, a control token stays text"
