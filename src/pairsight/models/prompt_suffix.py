"""A line that must end every question asked of a model, kept beside its weights: SteerLM's wanted scores."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pairsight.errors import ModelError
from pairsight.models.protocols import Generator, Sampling
from pairsight.models.reference import local_folder, read_json
from pairsight.records import Completion, CompletionRequest, ItemError

FILE = "inference.json"


def encode(line: str) -> bytes:
    """The content of `FILE`: the line that ends every question asked of the model beside it."""
    return json.dumps({"prompt_suffix": line}, ensure_ascii=False).encode()


def read_prompt_suffix(reference: str | Path) -> str:
    """The line that a folder asks for; "" where there is none, as with a hub name.

    Raises:
        ModelError: `inference.json` is damaged.
    """
    folder = local_folder(reference)
    if folder is None or not (folder / FILE).is_file():
        return ""
    line = read_json(folder / FILE).get("prompt_suffix", "")
    if not isinstance(line, str):
        raise ModelError(f"{folder / FILE}: 'prompt_suffix' must be text, found {type(line).__name__}")
    return line


class Suffixed:
    """A generator that is asked every prompt with a line below it. Picklable where the generator is.

    Args:
        generator: what answers.
        line: what ends every prompt, on a line of its own.
    """

    def __init__(self, generator: Generator, line: str) -> None:
        self.generator = generator
        self.line = line

    @property
    def fingerprint(self) -> str:
        """The generator's together with the line."""
        return "sha256:" + hashlib.sha256(json.dumps([self.generator.fingerprint, self.line]).encode()).hexdigest()

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        """One completion or error per request, in order, made under the line; marked as this generator's."""
        asked = [replace(request, prompt=request.prompt.with_line(self.line)) for request in requests]
        made = self.generator.generate(asked, sampling)
        own = self.fingerprint
        return [one if isinstance(one, ItemError) else replace(one, model=own) for one in made]

    def load(self) -> None:
        """Load the weights, where the generator has any."""
        if hasattr(self.generator, "load"):
            self.generator.load()

    def close(self) -> None:
        """Free the weights."""
        if hasattr(self.generator, "close"):
            self.generator.close()
