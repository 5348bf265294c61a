"""What all scorers share: one result or `ItemError` per item, whatever one item of the batch does."""

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pairsight.errors import DataError
from pairsight.images.source import ImageSource
from pairsight.models.annotation.options import AnnotationOptions
from pairsight.models.folders import fingerprint
from pairsight.models.load import load_part, pick_device, pick_dtype, weights_folder
from pairsight.models.protocols import Model
from pairsight.records import IMAGE_MARK, Completion, ImageRef, ItemError, Prompt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


T = TypeVar("T")
ItemT = TypeVar("ItemT")
Scores = Mapping[str, float] | ItemError
ImageText = tuple[str, ImageRef]
Rated = tuple[Prompt, Completion]


def open_each(refs: Sequence[ImageRef], images: ImageSource) -> "list[Image | ItemError]":
    """The pictures, with an error instead of each that is missing or broken."""
    opened: list[Image | ItemError] = []
    for ref in refs:
        try:
            opened.append(images.open(ref))
        except DataError as error:
            opened.append(ItemError(error.reason, str(error), retryable=False))
    return opened


def named_rows(columns: Sequence[str], rows: Sequence[Sequence[float]]) -> list[Scores]:
    """Rows of numbers as column -> number; a row with a number that is not finite becomes an error.

    Args:
        columns: C names.
        rows: one row of C numbers per item.
    """
    results: list[Scores] = []
    for row in rows:
        named = dict(zip(columns, (float(number) for number in row), strict=True))
        bad = [name for name, number in named.items() if not math.isfinite(number)]
        if bad:
            detail = f"the scorer gave {named[bad[0]]} in column {bad[0]}"
            results.append(ItemError("not_finite", detail, retryable=False))
        else:
            results.append(named)
    return results


def fill(inputs: Sequence[T | ItemError], results: Sequence[Scores]) -> list[Scores]:
    """The results put back among the errors: each of `inputs` is an error or was scored, in the order of `results`."""
    waiting = iter(results)
    return [one if isinstance(one, ItemError) else next(waiting) for one in inputs]


class Scorer(Model, Generic[ItemT]):
    """Returns a number per column: of (text, ImageRef) for images, of (Prompt, Completion) for completions.

    A subclass is made loaded: `Class(model_name, device)`, or `Class(model_name, images, device)` with `needs_images`.
    `fingerprint` identifies it wherever its folder lies; `columns` are the names of its numbers, the first selects.
    """

    fingerprint: str
    columns: tuple[str, ...]
    needs_images: ClassVar[bool] = False
    """Whether it is itself shown the images, besides the text or the dialogue."""
    may_be_endpoint: ClassVar[bool] = False
    """Whether the model it asks may be behind an endpoint."""
    asks: ClassVar[bool] = False
    """Whether it asks a model with the annotation prompt, by the annotation's options."""

    @classmethod
    def identity(cls, model_name: str | Path) -> str:
        """The fingerprint of such a scorer on the model in `model_name`, which is not loaded."""
        return fingerprint(model_name)

    def ask_by(self, options: AnnotationOptions) -> None:
        """Ask by a user's own options from now on; only where it `asks`."""

    @abstractmethod
    def score(self, items: Sequence[ItemT]) -> list[Scores]:
        """One mapping column -> number, or error, per item."""


class ImageTextScorer(Scorer[ImageText]):
    """A scorer of (text, image) with one column. Subclasses load a model and define `values`.

    Args:
        images: where the images of the items are.
        fingerprint: what identifies the weights in item keys.
    """

    column: ClassVar[str]
    needs_images: ClassVar[bool] = True

    def __init__(self, images: ImageSource, fingerprint: str) -> None:
        self.images = images
        self.fingerprint = fingerprint
        self.columns = (self.column,)

    @abstractmethod
    def values(self, texts: Sequence[str], pictures: "Sequence[Image]") -> "torch.Tensor":
        """One number per text and picture, higher is better, shape [B]; B is at least 1."""

    def score(self, items: Sequence[ImageText]) -> list[Scores]:
        """One mapping column -> number, or error, per item; an image that cannot be opened is an error of its item."""
        opened = open_each([ref for _, ref in items], self.images)
        usable = [
            (text, picture)
            for (text, _), picture in zip(items, opened, strict=True)
            if not isinstance(picture, ItemError)
        ]
        if not usable:
            return fill(opened, [])
        texts, pictures = zip(*usable, strict=True)
        return fill(opened, named_rows(self.columns, self.values(texts, pictures).float().reshape(-1, 1).tolist()))


def processed(
    processor: Any, texts: Sequence[str], pictures: "Sequence[Image]", max_tokens: int, device: "torch.device"
) -> tuple[Any, "torch.Tensor"]:
    """Texts and pictures as CLIP's and BLIP's processors give them: tokens, cut at `max_tokens`, and pixels."""
    tokens = processor.tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
    ).to(device)
    pixels = processor.image_processor(list(pictures), return_tensors="pt", input_data_format="channels_last")
    return tokens, pixels["pixel_values"].to(device)


class DialogueScorer(Scorer[Rated]):
    """A reward model of a dialogue's text, which never sees the image. Subclasses define `network` and `values`.

    The dialogue goes through the tokenizer's chat template; a model without one reads (prompt, completion) as a pair of
    texts, as the first reward models did.

    Args:
        model_name: a folder, or a hub name.
        device: default: the GPU where there is one.
        dtype: default: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ModelError: no such model, pickled weights, or weights of another model.
    """

    def __init__(
        self,
        model_name: str | Path,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | str | None" = None,
    ) -> None:
        folder = weights_folder(model_name)
        self.fingerprint = fingerprint(folder)
        self.device = pick_device(device)
        self.model = self.network(folder, pick_dtype(dtype, self.device)).to(self.device)
        self.tokenizer = load_part(folder, "AutoTokenizer")
        self.limit = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length

    @abstractmethod
    def network(self, folder: Path, dtype: "torch.dtype") -> Any:
        """The model that gives the numbers, from its folder."""

    @abstractmethod
    def values(self, rows: Sequence[dict[str, list[int]]]) -> list[list[float]]:
        """A number per column for each dialogue, given as the tokenizer writes it, without padding; at least one."""

    def score(self, items: Sequence[Rated]) -> list[Scores]:
        """One mapping column -> number, or error, per dialogue: too long, a control token in it, not finite."""
        encoded = [self.encoded(*item) for item in items]
        rows = [row for row in encoded if not isinstance(row, ItemError)]
        return fill(encoded, named_rows(self.columns, self.values(rows)) if rows else [])

    def encoded(self, prompt: Prompt, completion: Completion) -> dict[str, list[int]] | ItemError:
        """A dialogue as the model takes it, or why it cannot be scored."""
        turns = turns_of(prompt, completion)
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            inputs = dict(self.tokenizer(text, add_special_tokens=False))
        else:
            inputs = dict(self.tokenizer("\n".join(turn["content"] for turn in turns[:-1]), turns[-1]["content"]))
        return control_token(self.tokenizer, turns) or too_long(len(inputs["input_ids"]), self.limit) or inputs


def turns_of(prompt: Prompt, completion: Completion) -> list[dict[str, str]]:
    """The turns as role and text: all the prompt's, then the completion as the assistant's; image marks removed."""
    turns = [{"role": m.role, "content": m.text.replace(IMAGE_MARK, "").strip()} for m in prompt.messages]
    return [*turns, {"role": "assistant", "content": completion.text.replace(IMAGE_MARK, "").strip()}]


def control_token(tokenizer: Any, turns: list[dict[str, str]]) -> ItemError | None:
    """An error when a turn's text contains a special token of this tokenizer, which would end or forge a turn."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted(special | set(tokenizer.all_special_tokens)):
        if token and any(token in turn["content"] for turn in turns):
            return ItemError("control_token", f"the text contains '{token}', a control token of the scorer", False)
    return None


def too_long(num_tokens: int, limit: int) -> ItemError | None:
    """An error when a dialogue is longer than the scorer's context: what is cut would be scored as if it were not."""
    if num_tokens <= limit:
        return None
    return ItemError("too_long", f"{num_tokens} tokens; the scorer reads at most {limit}", retryable=False)


_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n+")


class ImageAware(Scorer[Rated]):
    """The mean, over a completion's sentences and the prompt's images, of a (text, image) score.

    Sentence by sentence because the encoders cut a text after 35 to 77 tokens, so the end of a long completion would
    never be looked at (ours). The question is not part of the text: it fits descriptions, not one-word answers.

    Args:
        scorer: the scorer of (text, image).
    """

    def __init__(self, scorer: ImageTextScorer) -> None:
        self.scorer = scorer
        self.fingerprint = scorer.fingerprint
        self.columns = scorer.columns

    def score(self, items: Sequence[Rated]) -> list[Scores]:
        """One mapping column -> number, or error, per completion: no image, no text, or any of its parts failed."""
        parts: list[ImageText] = []
        spans: list[range | ItemError] = []
        for prompt, completion in items:
            refs = prompt.images if completion.images is None else completion.images
            sentences = sentences_of(completion.text)
            if not refs or not sentences:
                reason = "no_image" if not refs else "empty"
                spans.append(ItemError(reason, f"completion '{completion.id}' has nothing to compare", retryable=False))
                continue
            spans.append(range(len(parts), len(parts) + len(refs) * len(sentences)))
            parts += [(sentence, ref) for ref in refs for sentence in sentences]
        scores = self.scorer.score(parts) if parts else []
        return [span if isinstance(span, ItemError) else _mean([scores[i] for i in span]) for span in spans]


def sentences_of(text: str) -> list[str]:
    """A text's sentences and lines, without image marks and empty ones."""
    pieces = (piece.strip() for piece in _SENTENCE_END.split(text.replace(IMAGE_MARK, " ")))
    return [piece for piece in pieces if piece]


def _mean(parts: Sequence[Scores]) -> Scores:
    numbers: list[Mapping[str, float]] = []
    for part in parts:
        if isinstance(part, ItemError):
            return part
        numbers.append(part)
    return {column: fmean(row[column] for row in numbers) for column in numbers[0]}
