"""Pairs on a folder of numbered images, for the suites of the trainer and for processes that they start."""

from pairsight.images.source import FileImages
from pairsight.records import Completion, Message, PreferencePair, Prompt

NUM_IMAGES = 6


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
