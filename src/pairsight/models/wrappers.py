"""A line that must end every question asked of a model, kept beside its weights: SteerLM's wanted scores."""

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pairsight.errors import ModelError
from pairsight.models.protocols import Generator, Sampling
from pairsight.models.references import local_folder, read_model_json
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
    line = read_model_json(folder / FILE).get("prompt_suffix", "")
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


T = TypeVar("T")
_KEPT: dict[Hashable, Any] = {}


def load_or_reuse(key: Hashable, load: Callable[[], T], keep: bool) -> T:
    """The model under `key`: one that was kept, else loaded, and kept from now on if `keep`.

    Args:
        key: what tells models apart, e.g. class, reference and device.
        load: makes it.
        keep: for machines with room for all models of a recipe at once.
    """
    if key in _KEPT:
        return _KEPT[key]  # type: ignore[no-any-return]
    model = load()
    if keep:
        _KEPT[key] = model
    return model


def release_memory() -> None:
    """Give the GPU's memory back where dropped models held it; the CPU's comes back by itself."""
    import torch

    if torch.cuda.is_available():
        import gc

        gc.collect()
        torch.cuda.empty_cache()


def forget_all() -> None:
    """Drop every model that was kept."""
    for model in _KEPT.values():
        if hasattr(model, "close"):
            model.close()
    _KEPT.clear()
    release_memory()


class KeptGenerator:
    """A generator whose weights stay when its stage ends; `forget_all` frees them.

    Args:
        generator: what it stands for.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @property
    def fingerprint(self) -> str:
        """The generator's own."""
        return self.generator.fingerprint

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        """What the generator makes."""
        return self.generator.generate(requests, sampling)

    def load(self) -> None:
        """Load the weights and note that they stay."""
        load = getattr(self.generator, "load", None)
        if load is not None:
            load()
        _KEPT[id(self.generator)] = self.generator

    def close(self) -> None:
        """Do nothing: that is what it is for."""
