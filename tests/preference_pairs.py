"""Pairs on a folder of numbered images, for the suites of the trainer and for processes that they start."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import families
from pairsight.images.source import FileImages
from pairsight.records import Completion, Message, PreferencePair, Prompt

NUM_IMAGES = 6


def base(folder: Path) -> Path:
    """A folder with a small model and the images of all trainings; this process uses one thread from now on."""
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(NUM_IMAGES):
        picture = Image.fromarray(pixels.integers(0, 255, (28, 28, 3), dtype=np.uint8))
        picture.save(folder / "images" / f"{number}.png")
    families.build("llava", folder / "model")
    return folder


def pair(images: FileImages, number: int) -> PreferencePair:
    """A pair on one of the images; every third has two rejected completions."""
    message = Message("user", f"What is {number}?", (images.ref(f"{number % NUM_IMAGES}.png"),))
    prompt = Prompt(f"p{number}", (message,))
    rejected = [f"a bad {number * 7} answer"] + (["worse"] if number % 3 == 0 else [])
    made = [
        Completion(f"p{number}:{index}", prompt.id, text, "stop", "m", 0, index)
        for index, text in enumerate([f"a good answer {number}", *rejected])
    ]
    return PreferencePair(f"p{number}", prompt, made[0], tuple(made[1:]), "test")
