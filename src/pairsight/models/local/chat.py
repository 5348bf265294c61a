"""A prompt in a model's own words: its chat template, with images where the prompt's marks say."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

from pairsight.errors import DataError, ModelError, one_line
from pairsight.models.profiles.profile import Profile
from pairsight.records import IMAGE_MARK, Message, Prompt

_PROBE = "pairsight probe"
_PROFILES: WeakKeyDictionary[Any, Profile] = WeakKeyDictionary()


def give_profile(processor: Any, profile: Profile) -> None:
    """Let a loaded processor be used with a profile."""
    _PROFILES[processor] = profile


def profile_of(processor: Any) -> Profile | None:
    """The profile that a processor is used with."""
    return _PROFILES.get(processor)


def copy_processor(processor: Any) -> Any:
    """A shallow copy of a processor, used with the same profile."""
    made = copy(processor)
    if processor in _PROFILES:
        _PROFILES[made] = _PROFILES[processor]
    return made


def chat_text(processor: Any, prompt: Prompt) -> str:
    """The prompt as the model's chat template writes it, up to where the model's turn begins.

    Args:
        processor: from `load_processor`.
        prompt: where its images go, the model's own image mark is written, once per image.

    Raises:
        ModelError: the processor has no chat template, or the template refuses this order of roles.
        DataError: a message with marks for images it does not have.
    """
    template = chat_template(processor)
    return _render(processor, template, template_messages(processor, prompt), add_generation_prompt=True)


def template_messages(processor: Any, prompt: Prompt) -> list[dict[str, object]]:
    """The messages as the chat template takes them: lists of parts, or plain text where it knows no parts."""
    in_parts = [_parts(prompt, message) for message in prompt.messages]
    if _takes_parts(processor):
        return [{"role": m.role, "content": parts} for m, parts in zip(prompt.messages, in_parts, strict=True)]
    mark = getattr(processor, "image_token", IMAGE_MARK)
    return [
        {"role": m.role, "content": _plain(parts, mark)} for m, parts in zip(prompt.messages, in_parts, strict=True)
    ]


def turn_end(processor: Any, stop_ids: tuple[int, ...]) -> int | None:
    """The stop token that a profile or the chat template writes after a model's turn; None where they write none."""
    profile = profile_of(processor)
    if profile is not None and profile.turns is not None:
        after = profile.turns.after_assistant
    else:
        content: Any = [{"type": "text", "text": _PROBE}] if _takes_parts(processor) else _PROBE
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
        try:
            text = _render(processor, chat_template(processor), turns, add_generation_prompt=False)
        except ModelError:
            return None
        after = text.rpartition(_PROBE)[2]
    ids = tokenizer_of(processor)(after, add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in stop_ids), None)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer in a processor, or the tokenizer itself for a text-only model."""
    return getattr(processor, "tokenizer", processor)


def chat_template(processor: Any) -> str:
    """The chat template in use: the processor's, else its tokenizer's.

    Raises:
        ModelError: there is none.
    """
    for owner in (processor, tokenizer_of(processor)):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    name = getattr(tokenizer_of(processor), "name_or_path", "") or "the model"
    raise ModelError(
        f"{name} has no chat template: put the file chat_template.jinja of its family into the model folder"
    )


def _parts(prompt: Prompt, message: Message) -> list[dict[str, str]]:
    pieces = message.text.split(IMAGE_MARK)
    marks = len(pieces) - 1
    if marks not in (0, len(message.images)):
        raise DataError(
            f"prompt '{prompt.id}': a message has {marks} {IMAGE_MARK} marks and {len(message.images)} images; "
            "write one mark an image, or none",
            reason="image_marks",
        )
    if marks == 0:
        parts = [{"type": "image"}] * len(message.images)
        return [*parts, {"type": "text", "text": message.text}]
    parts = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _plain(parts: list[dict[str, str]], mark: str) -> str:
    return "".join(part.get("text", mark) for part in parts)


_TAKES_PARTS: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()


def _takes_parts(processor: Any) -> bool:
    """Whether the template writes the text of a list of parts rather than the list itself."""
    template = chat_template(processor)
    known = _TAKES_PARTS.setdefault(processor, {})
    if template not in known:
        known[template] = _writes_parts(processor, template)
    return known[template]


def _writes_parts(processor: Any, template: str) -> bool:
    turns = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
    try:
        text = _render(processor, template, turns, add_generation_prompt=True)
    except ModelError:
        return False
    return _PROBE in text and f"'{_PROBE}'" not in text and f'"{_PROBE}"' not in text


def _render(
    processor: Any, template: str, turns: Sequence[Mapping[str, object]], *, add_generation_prompt: bool
) -> str:
    from jinja2 import TemplateError

    try:
        text = processor.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        roles = ", ".join(str(turn["role"]) for turn in turns)
        raise ModelError(f"the model's chat template refuses turns of {roles}: {one_line(error)}") from None
    return str(text)
