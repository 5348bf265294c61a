"""The only module where processors are loaded and prompts become tokens and pixels.

Training and sampling both encode here, so that the model sees the same tokens in both.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pairsight.errors import DataError, ModelError, one_line
from pairsight.images.source import ImageSource
from pairsight.models.folders import has_template, is_text_only, read_model_json, resolve
from pairsight.models.load import quiet
from pairsight.models.local.chat import (
    chat_template,
    chat_text,
    give_profile,
    profile_of,
    template_messages,
    tokenizer_of,
    turn_end,
)
from pairsight.models.local.written import written_inputs
from pairsight.models.profiles.profile import Profile
from pairsight.records import IMAGE_MARK, ImageRef, Prompt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
_NOT_INPUTS = ("attention_mask", "labels", "text_replacement_offsets")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as a model takes it, without padding.

    Attributes:
        input_ids: the L tokens, image placeholders written out.
        tensors: what the model takes besides tokens and masks, e.g. `pixel_values`, `image_sizes`, `image_grid_thw`;
            distortions of normalised pixels are applied.
        token_inputs: per-token inputs of length L by name, e.g. `mm_token_type_ids`; a completion's tokens are 0 in
            `mm_token_type_ids` and Gemma's `token_type_ids`, 1 in PaliGemma's when training, as its own suffixes are.
        images: the prompt's images in order.
        image_spans: for each image the half-open range of positions from its first to its last placeholder.
    """

    input_ids: list[int]
    tensors: dict[str, "torch.Tensor"]
    token_inputs: dict[str, list[int]]
    images: tuple[ImageRef, ...]
    image_spans: tuple[tuple[int, int], ...]


def load_processor(model_name: str | Path, trust_remote_code: bool = False, profile: Profile | None = None) -> Any:
    """The processor of a model (its tokenizer, for a text-only model), padding on the left, used with a profile.

    Works without torchvision: families that also take video are loaded without that part.

    Raises:
        ModelError: the folder holds no usable processor, or no chat template.
    """
    folder = resolve(model_name)
    from transformers import AutoProcessor, AutoTokenizer

    # A tokenizer cut out of a vision-language model still names that model's processor.
    auto = AutoTokenizer if is_text_only(folder) else AutoProcessor
    with quiet():
        try:
            processor = auto.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        except Exception as error:  # noqa: BLE001 - a damaged folder fails in as many ways as there are families
            processor = _second_try(folder, error, trust_remote_code)
    tokenizer = tokenizer_of(processor)
    tokenizer.padding_side = "left"
    # Families that want token types ask for them themselves; others' forward would be given a stranger.
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    if profile is not None:
        give_profile(processor, profile)
    if profile is not None and profile.chat_template and not has_template(folder):
        tokenizer.chat_template = profile.chat_template
    if profile is None or profile.turns is None:
        chat_template(processor)
    return processor


def _second_try(folder: Path, error: Exception, trust_remote_code: bool) -> Any:
    if isinstance(error, ImportError) or "video" in str(error):
        try:
            return load_without_video(folder, trust_remote_code=trust_remote_code)
        except Exception as second:  # noqa: BLE001 - as above
            error = second
    raise ModelError(f"model {folder}: its processor cannot be loaded: {one_line(error)}") from None


def encode(processor: Any, prompt: Prompt, images: ImageSource) -> EncodedPrompt:
    """A prompt's tokens and image tensors.

    Args:
        processor: from `load_processor`.
        prompt: text only, or with images.
        images: where the prompt's images are.

    Raises:
        DataError: a missing or broken image, marks that do not fit the images, images for a text-only model, or text
            with a control token of this model that cannot be kept as text, or what this processor refuses.
        ModelError: the folder's template and processor do not fit each other.
    """
    encoded = encode_pictures(processor, prompt, lambda: [images.open(ref) for ref in prompt.images])
    _distort(encoded.tensors, prompt.images)
    return encoded


def encode_pictures(
    processor: Any, prompt: Prompt, pictures: "Callable[[], list[Image]]", *, as_tensors: bool = True
) -> EncodedPrompt:
    """As `encode`, with the prompt's pictures given; distortions of normalised pixels are not applied.

    Args:
        as_tensors: whether the processor makes tensors of what is not a tensor yet; tokens take long.
    """
    if (refs := prompt.images) and tokenizer_of(processor) is processor:
        raise DataError(f"prompt '{prompt.id}' has {len(refs)} images but the model is text-only", reason="text_only")
    shown, form = pictures(), {"return_tensors": "pt"} if as_tensors else {}
    control = _control_token(tokenizer_of(processor), prompt)
    if (profile := profile_of(processor)) is not None:
        prompt, shown = profile.asked(prompt), [_shown(processor, profile, picture) for picture in shown]
    if profile is not None and profile.turns is not None:
        inputs = written_inputs(processor, profile, prompt, shown, control=control, form=form)
    else:
        inputs = _inputs(processor, prompt, shown, control, form)
    ids = _listed(inputs.pop("input_ids")[0])
    replacements = inputs.get("text_replacement_offsets")
    token_inputs = {name: _listed(inputs.pop(name)[0]) for name in _PER_TOKEN if name in inputs}
    tensors = {name: value for name, value in inputs.items() if name not in _NOT_INPUTS}
    spans = _image_spans(processor, prompt, ids, replacements[0] if replacements else None)
    return EncodedPrompt(ids, tensors, token_inputs, refs, spans)


def _shown(processor: Any, profile: Profile, picture: "Image") -> "Image":
    """A picture as a profile shows it, made small by Pillow on every machine alike, as in its authors' time.

    With torchvision, an image processor would resize by rules of its own. One pixel, which is where only the size
    counts, is left to it.
    """
    pictures = processor.image_processor
    square = profile.shown(picture, pictures.image_mean)
    if profile.pad == "none" or square.width == 1 or not pictures.do_resize:
        return square
    side = pictures.size.get("shortest_edge") or pictures.size.get("height")
    return square.resize((side, side), pictures.resample) if side else square


def _listed(values: Any) -> list[int]:
    return values if isinstance(values, list) else values.tolist()


def completions_ids(
    processor: Any, generation_config: Any, texts: Sequence[str], finish_reasons: Sequence[str]
) -> list[list[int]]:
    """The tokens of completions as the model would write them after `encode`'s prompt.

    The turn's end is among them unless the completion was cut (`finish_reason` "length"). Text that looks like a
    special token stays text.

    Args:
        generation_config: the model's, for its stop tokens (None: the tokenizer's own).
    """
    tokenizer = tokenizer_of(processor)
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    end = _turn_end_id(processor, stop_ids(processor, generation_config))
    return [
        list(ids) if end is None or reason == "length" else [*ids, end]
        for ids, reason in zip(rows, finish_reasons, strict=True)
    ]


def stop_ids(processor: Any, generation_config: Any) -> tuple[int, ...]:
    """The tokens that end a completion: the generation config's, else the tokenizer's end-of-sequence; a profile's."""
    tokenizer, profile = tokenizer_of(processor), profile_of(processor)
    written = getattr(generation_config, "eos_token_id", None)
    if written is None:
        written = tokenizer.eos_token_id
    ends = [] if written is None else [int(one) for one in (written if isinstance(written, Sequence) else [written])]
    known = {} if profile is None else tokenizer.added_tokens_encoder
    more = () if profile is None else (known[stop] for stop in profile.stop if stop in known)
    return tuple(dict.fromkeys([*ends, *more]))


_TURN_ENDS: WeakKeyDictionary[Any, dict[tuple[int, ...], int | None]] = WeakKeyDictionary()


def _turn_end_id(processor: Any, stops: tuple[int, ...]) -> int | None:
    known = _TURN_ENDS.setdefault(processor, {})
    if stops not in known:
        end = turn_end(processor, stops)
        own = tokenizer_of(processor).eos_token_id
        if end is None and stops:
            end = own if own in stops else stops[0]
        known[stops] = end
    return known[stops]


def _inputs(
    processor: Any, prompt: Prompt, pictures: "list[Image]", control: str | None, form: Mapping[str, str]
) -> dict[str, Any]:
    """The processor's output, one row, as tensors if `form` says so; `control` is a control token that stays text."""
    tokenizer = tokenizer_of(processor)
    if control is not None:
        return _inputs_of_hostile_text(processor, prompt, pictures, control)
    text = chat_text(processor, prompt)
    text_only = tokenizer is processor
    bos = tokenizer.bos_token
    starts = text_only or (bos is not None and text.startswith(bos))
    options: dict[str, object] = {**form, "add_special_tokens": not starts}
    if len(pictures) > 1:
        options["return_text_replacement_offsets"] = True
    if pictures:
        options["images"] = pictures
    with quiet():
        try:
            return dict(processor(text=[text], **options))
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise DataError(
                f"prompt '{prompt.id}': the model's processor refuses it: {one_line(error)}", reason="refused"
            ) from None


def _inputs_of_hostile_text(processor: Any, prompt: Prompt, pictures: "list[Image]", control: str) -> dict[str, Any]:
    """As `_inputs`, for text that contains a control token, which transformers is told to keep as text."""
    turns = template_messages(processor, prompt)
    waiting = iter(pictures)
    for turn in turns:
        for part in turn["content"] if isinstance(turn["content"], list) else []:
            if part["type"] == "image":
                part["image"] = next(waiting)
    options: dict[str, object] = {"chat_template": chat_template(processor), "sanitize_control_tokens": True}
    if pictures:
        options["processor_kwargs"] = {"return_text_replacement_offsets": True}
    with quiet():
        try:
            rows = processor.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
            )
        except Exception as error:  # noqa: BLE001 - each family that cannot do it fails in its own way
            raise DataError(
                f"prompt '{prompt.id}' contains '{control}', a control token of this model, and it cannot be kept as "
                f"text; remove it ({one_line(error, 120)})",
                reason="control_token",
            ) from None
    return dict(rows)


def _control_token(tokenizer: Any, prompt: Prompt) -> str | None:
    """A special token of the model that occurs in the prompt's text."""
    texts = [m.text.replace(IMAGE_MARK, " ") if m.images else m.text for m in prompt.messages]
    return next((token for token in _special_tokens(tokenizer) if any(token in text for text in texts)), None)


_SPECIAL: WeakKeyDictionary[Any, tuple[int, tuple[str, ...]]] = WeakKeyDictionary()


def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """All special tokens, sorted; a tokenizer that has grown since is asked again."""
    known = _SPECIAL.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        added = tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        known = _SPECIAL[tokenizer] = len(tokenizer), tuple(sorted(token for token in special if token))
    return known[1]


def _distort(tensors: "dict[str, torch.Tensor]", refs: tuple[ImageRef, ...]) -> None:
    """Apply distortions of normalised pixels, image by image."""
    wanted = [
        (index, ref.distortion)
        for index, ref in enumerate(refs)
        if ref.distortion is not None and ref.distortion.space == "normalised"
    ]
    if not wanted:
        return
    from pairsight.images.distort import apply_normalised

    pixels = tensors["pixel_values"].clone()
    rows = rows_of_images(tensors, len(refs))
    for index, distortion in wanted:
        pixels[rows[index]] = apply_normalised(pixels[rows[index]], distortion)
    tensors["pixel_values"] = pixels


def rows_of_images(tensors: "dict[str, torch.Tensor]", count: int) -> list[Any]:
    """Where each image's pixels are: along the first axis, patches by `image_grid_thw`, all of it for one image."""
    pixels = tensors["pixel_values"]
    if count == 1:
        return [0] if len(pixels) == 1 else [slice(None)]
    if (grid := tensors.get("image_grid_thw")) is not None:
        ends = grid.prod(dim=1).cumsum(0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    if len(pixels) == count:
        return list(range(count))
    raise ModelError(
        "this model's processor mixes the tiles of several images, so a distortion of normalised pixels can only be "
        "applied to prompts with one image"
    )


def _image_spans(
    processor: Any, prompt: Prompt, ids: list[int], replacements: list[dict[str, str]] | None
) -> tuple[tuple[int, int], ...]:
    if not prompt.images:
        return ()
    tokenizer = tokenizer_of(processor)
    placeholder = getattr(tokenizer, "image_token_id", None) or getattr(processor, "image_token_id", None)
    indices = [index for index, token in enumerate(ids) if token == placeholder]
    if replacements is None and len(prompt.images) == 1:
        counts = [len(indices)]
    else:
        mark = tokenizer.convert_ids_to_tokens(placeholder)
        counts = [found["replacement"].count(mark) for found in replacements or []]
    if not indices or sum(counts) != len(indices) or len(counts) != len(prompt.images) or 0 in counts:
        raise ModelError(
            f"prompt '{prompt.id}': {len(indices)} image placeholders for {len(prompt.images)} images; the chat "
            "template or the processor is not this model's"
        )
    spans, start = [], 0
    for count in counts:
        spans.append((indices[start], indices[start + count - 1] + 1))
        start += count
    return tuple(spans)


def load_without_video(folder: Path, *, trust_remote_code: bool) -> Any:
    """The folder's processor without its video part.

    Raises:
        ModelError: no processor class of transformers belongs to the folder.
    """
    cls = _processor_class(folder)
    return image_only(cls).from_pretrained(str(folder), trust_remote_code=trust_remote_code)


def _processor_class(folder: Path) -> type:
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        if (folder / name).is_file() and (written := read_model_json(folder / name).get("processor_class")):
            cls = processor_class_from_name(written)
            if isinstance(cls, type):
                return cls
    cls = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(str(folder))), None)
    if not isinstance(cls, type):
        raise ModelError(f"model {folder}: no processor class of transformers belongs to it")
    return cls


def image_only(cls: Any) -> Any:
    """The processor class without its video part: built from an image processor and a tokenizer alone."""
    from transformers import ProcessorMixin

    _excuse_num2words(cls)
    parts = [name for name in cls.get_attributes() if name != "video_processor"]
    names = cls.__init__.__code__.co_varnames[1 : cls.__init__.__code__.co_argcount]
    index = names.index("video_processor") if "video_processor" in names else None

    def from_args_and_dict(inner: Any, /, args: list[Any], processor_dict: dict[str, object], **kwargs: Any) -> Any:
        if index is not None:
            args = [*args[:index], None, *args[index:]]
        return super(built, inner).from_args_and_dict(args, processor_dict, **kwargs)

    members = {
        "__module__": cls.__module__,
        "__init__": cls.__init__,
        # A family's own version of this only sets how videos are read.
        "apply_chat_template": ProcessorMixin.apply_chat_template,
        "get_attributes": classmethod(lambda _: list(parts)),
        "from_args_and_dict": classmethod(from_args_and_dict),
    }
    # The same name, so that a saved copy names a class that transformers knows.
    built: Any = type(cls.__name__, (cls,), members)
    return built


def _excuse_num2words(cls: type) -> None:
    """SmolVLM's processor refuses to start without num2words, which it uses for the time stamps of videos only."""
    module = sys.modules.get(cls.__module__) or importlib.import_module(cls.__module__)
    if getattr(module, "num2words", cls) is None:
        module.num2words = _no_video  # type: ignore[attr-defined]


def _no_video(*_: Any, **__: Any) -> str:
    raise ModelError("videos are not supported: give images")
