"""What a training of a made dataset will take, on a model whose weights, and perhaps whose folder, are not here.

A shape is a JSON file of facts that a model's published folder holds: the files' contents that matter, the ids of its
special tokens, and how its chat template marks an image. A folder made of it is read like any other.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, overload

from pairsight.bounded import as_object, read_json
from pairsight.errors import DataError, ModelError, PairsightError, one_line
from pairsight.records import Completion, Demonstration, ImageRef, Message, PreferencePair, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from pairsight.models.profiles.profile import Profile
    from pairsight.training.config import TrainingConfig
    from pairsight.training.examples import Record
    from pairsight.training.forecast.fake_training import Device
    from pairsight.training.forecast.forecast import Forecast, Phase

_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
_WORDS = ("the", "of", "and", "to", "in", "is", "on", "it", "as", "at")
"""Each a token of nearly every tokenizer, with a blank before it."""
_PLAIN: Mapping[str, str] = MappingProxyType({"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"})
_FIRST = 64
"""Ids among which those of words and plain tokens are: below all of images."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's folder decides how much a training takes.

    Attributes:
        files: name -> content, a JSON text.
        tokens: special token -> its id.
        named: the name that the processor has for a token -> the token.
        mark: what the chat template writes for an image.
    """

    files: Mapping[str, str]
    tokens: Mapping[str, int]
    named: Mapping[str, str]
    mark: str

    @classmethod
    def read(cls, file: Path) -> Self:
        """The shape in a JSON file.

        Raises:
            ModelError: no such file, or one that holds no shape.
        """
        try:
            plain = as_object(read_json(file))
            files = {name: json.dumps(as_object(plain[name])) for name in _FILES if name in plain}
            as_object(plain["config.json"])["model_type"]
            tokens = {str(token): int(str(number)) for token, number in as_object(plain["tokens"]).items()}
            named = {str(name): str(token) for name, token in as_object(plain.get("named_tokens", {})).items()}
            return cls(files, tokens, named, str(plain["image_mark"]))
        except OSError as error:
            raise ModelError(f"shape {file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ModelError(f"shape {file} holds no model's shape: {error}; see configs/shapes") from None

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A model folder without weights, made of it, while inside."""
        from pairsight.models.load import quiet

        with TemporaryDirectory() as made, quiet():
            for name, content in self.files.items():
                (Path(made) / name).write_text(content, encoding="utf-8")
            self._save_tokenizer(made)
            yield Path(made)

    def _save_tokenizer(self, folder: str) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        free = iter(sorted(set(range(_FIRST)) - set(self.tokens.values())))
        ours = {token: next(free) for token in (*_PLAIN.values(), *_WORDS) if token not in self.tokens}
        backend = Tokenizer(models.WordLevel({**ours, **self.tokens}, unk_token=_PLAIN["unk"]))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {f"{name}_token": token for name, token in _PLAIN.items()}
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=dict(self.named), **special)
        fast.add_special_tokens({"additional_special_tokens": sorted(set(self.tokens) - set(self.named.values()))})
        fast.chat_template = (
            "{{ bos_token }}{% for m in messages %} {{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}"
            "{% else %}{% for part in m['content'] %}{% if part['type'] == 'image' %}" + self.mark + "{% else %}"
            "{{ part['text'] }}{% endif %} {% endfor %}{% endif %} {% if m['role'] == 'assistant' %}</s>{% endif %}"
            "{% endfor %}{% if add_generation_prompt %} assistant {% endif %}"
        )
        fast.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Made(Sequence["Record"]):
    """Examples of assumed sizes, each on an image of its own, made when they are asked for.

    Args:
        size: how many.
        question: words of a question.
        completion: words of a completion.
        rejected: rejected completions; 0 makes demonstrations.
        has_image: whether there is an image.
    """

    size: int
    question: int
    completion: int
    rejected: int = 1
    has_image: bool = True

    @overload
    def __getitem__(self, index: int) -> "Record": ...
    @overload
    def __getitem__(self, index: slice) -> "Sequence[Record]": ...
    def __getitem__(self, index: "int | slice") -> "Record | Sequence[Record]":
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self.size))]
        if not 0 <= index < self.size:
            raise IndexError(index)
        name = f"example-{index}"
        images = (ImageRef(f"{index:064x}"),) if self.has_image else ()
        prompt = Prompt(name, (Message("user", _text(self.question, index), images),))
        chosen, *rejected = (
            Completion(f"{name}:{k}", name, _text(self.completion, k), "stop", "", 0, k)
            for k in range(1 + self.rejected)
        )
        if not rejected:
            return Demonstration(name, prompt, chosen, "made")
        return PreferencePair(name, prompt, chosen, tuple(rejected), "made")

    def __len__(self) -> int:
        return self.size


def _text(words: int, start: int) -> str:
    """Words whose first one depends on `start`, so that different completions share no beginning."""
    return " ".join(_WORDS[(start + number) % len(_WORDS)] for number in range(words))


@dataclass(frozen=True, slots=True)
class BlankImages:
    """Images of one size, for every reference: only sizes matter."""

    width: int
    height: int

    def path(self, ref: ImageRef) -> Path:
        """There is no file."""
        raise DataError(f"image {ref.sha256[:12]}… is made, and has no file", reason="missing_image")

    def open(self, ref: ImageRef) -> "Image":
        """A grey image."""
        from PIL import Image

        return Image.new("RGB", (self.width, self.height), (127, 127, 127))


@contextmanager
def folder_of(model: str, shape: Path | None) -> Iterator[Path]:
    """A folder that has a model's config, processor and tokenizer: its own where it is here, else one of a shape.

    The hub is not asked; its cache is.

    Raises:
        ModelError: the model is not here, and there is no shape.
    """
    own = _here(model)
    if own is not None:
        yield own
    elif shape is not None:
        with Shape.read(shape).folder() as made:
            yield made
    else:
        raise ModelError(f"model {model} is not here, and no shape says its sizes: give its folder, or shape: FILE")


def _here(model: str) -> Path | None:
    """The model's folder, or its snapshot in the hub's cache, where a tokenizer is beside its config."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model).expanduser()
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(model, "config.json")
        except ValueError:  # not a hub name
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json")
    has_words = any((folder / name).is_file() for name in tokenizers)
    return folder if has_words and (folder / "config.json").is_file() else None


_COUNTED = 4
"""Examples of which passes are run; or as many as a batch holds. All are alike, so that the others add no news."""


def forecast_made(
    folder: Path,
    config: "TrainingConfig",
    examples: Made,
    images: BlankImages,
    device: "Device",
    *,
    profile: "Profile | None" = None,
) -> "Forecast":
    """What a training on made examples takes on a device; no weights are read.

    Some of them are counted, and what grows with their number is multiplied: operations, steps, and the features of
    images that are kept. A pass of the reference holds no more examples than were counted.

    Args:
        folder: of the model, with its config, processor and tokenizer.
        config: of the training.
        examples: of assumed sizes.
        images: of an assumed size.
        device: that it is planned for.
        profile: how images are shown and prompts written.

    Raises:
        PairsightError: a model that no forecast can be made of.
    """
    from pairsight.engine.progress import Progress
    from pairsight.training.forecast.forecast import forecast
    from pairsight.training.trainer import PreferenceTrainer

    batch = config.for_examples(int(examples.size * (1 - config.eval_fraction) * config.repeat))
    count = min(examples.size, max(_COUNTED, batch.per_device_train_batch_size))
    alone = batch.model_copy(update={"max_steps": 2})  # moments of the optimizer are held from the second step on
    quiet = Progress("quiet")
    trainer = PreferenceTrainer(folder, out=".", images=images, config=alone, profile=profile, progress=quiet)
    try:
        return _multiplied(forecast(trainer, replace(examples, size=count), device), examples.size, batch)
    except PairsightError:
        raise
    except Exception as error:  # noqa: BLE001 - code of a family that needs values fails in ways of its own
        kind = type(error).__name__
        raise ModelError(f"counting on tensors without values fails with {kind}: {one_line(error, 120)}") from None


def _multiplied(found: "Forecast", count: int, config: "TrainingConfig") -> "Forecast":
    """What a training on `count` examples takes, by a forecast of some that are like all of them."""
    times = count / found.examples
    budget = config.image_cache_mb * 2**20

    def more(phase: "Phase | None") -> "Phase | None":
        if phase is None:
            return None
        memory = Counter(phase.memory)
        memory["images"] = min(budget, round(memory["images"] * times))
        return replace(phase, passes=round(phase.passes * times), flops=phase.flops * times, memory=memory)

    trained = count * (1 - found.skipped) * (1 - config.eval_fraction) * config.repeat
    steps = math.ceil(trained / config.global_batch * config.num_train_epochs)
    epochs = config.num_train_epochs
    if config.max_steps > 0:
        steps, epochs = config.max_steps, config.max_steps * config.global_batch / trained
    training = more(found.training)
    assert training is not None
    return replace(
        found, examples=count, epochs=epochs, steps=steps, reference=more(found.reference), training=training,
        tower_flops=found.tower_flops * times,
    )  # fmt: skip
