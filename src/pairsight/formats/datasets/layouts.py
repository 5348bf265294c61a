"""The rows of an example in layouts with more than LLaVA's fields; the `write` of formats is made of these."""

import base64
from collections.abc import Sequence

from pairsight.formats.datasets.format import Example, Picture, Plain, RowCompletion
from pairsight.formats.datasets.written import cannot, marked, name_or_bytes, pair_of
from pairsight.images.load import media_type
from pairsight.records import ATTRIBUTES, IMAGE_MARK


def trl_pair(example: Example, title: str) -> tuple[Plain, ...]:
    """TRL's vision preference rows: message lists of parts, `images`; ids differ, as TRL has no room for a group."""
    chosen, rejected = pair_of(example, title)
    shared = _trl_prompt(example) | {"chosen": _trl_said(chosen)}
    return tuple(
        shared | {"id": example.id if len(rejected) == 1 else f"{example.id}#{number}", "rejected": _trl_said(one)}
        for number, one in enumerate(rejected)
    )


def trl_demonstration(example: Example, title: str) -> tuple[Plain, ...]:
    """TRL's vision rows of prompt and completion."""
    return (_trl_prompt(example) | {"completion": _trl_said(said_once(example, title))},)


def said_once(example: Example, title: str) -> RowCompletion:
    """The only completion of a demonstration; DataError where there are more, or one on other images."""
    if len(example.completions) != 1 or example.completions[0].images is not None:
        raise cannot(example, title, f"its rows have one completion and this has {len(example.completions)}")
    return example.completions[0]


def _trl_prompt(example: Example) -> Plain:
    prompt = [
        {"role": turn.role, "content": _parts(text)} for turn, text in zip(example.turns, marked(example), strict=True)
    ]
    return {"id": example.id, "prompt": prompt, "images": list(map(name_or_bytes, example.images))}


def _trl_said(one: RowCompletion) -> list[Plain]:
    return [{"role": "assistant", "content": [{"type": "text", "text": one.text}]}]


def _parts(text: str) -> list[Plain]:
    parts: list[Plain] = []
    for number, piece in enumerate(text.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image", "text": None})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


def ms_swift(example: Example, title: str) -> tuple[Plain, ...]:
    """ms-swift's rows: `messages` that end with the chosen completion, and what is rejected instead."""
    chosen = [one for one in example.completions if one.preferred is True]
    rejected = [one for one in example.completions if one.preferred is False]
    if len(chosen) != 1 or not rejected or chosen[0].images is not None:
        raise cannot(example, title, "its rows have one chosen completion, on the prompt's images, and a rejected one")
    if any((one.text, one.images) == (chosen[0].text, None) for one in rejected):
        raise cannot(example, title, "it refuses rows whose rejected completion is the chosen one")
    messages = [{"role": turn.role, "content": text} for turn, text in zip(example.turns, marked(example), strict=True)]
    shared: Plain = {
        "id": example.id,
        "messages": [*messages, {"role": "assistant", "content": chosen[0].text}],
        "images": list(map(name_or_bytes, example.images)),
    }
    return tuple(
        shared
        | ({} if one.text == chosen[0].text else {"rejected_response": one.text})
        | ({} if one.images is None else {"rejected_images": list(map(name_or_bytes, one.images))})
        for one in rejected
    )


def openai_messages(example: Example, title: str) -> tuple[Plain, ...]:
    """Messages of OpenAI's chat interface; an image is a data URI, or a file's name."""
    said = said_once(example, title)
    left, messages = iter(example.images), list[Plain]()
    for turn, text in zip(example.turns, marked(example), strict=True):
        parts: list[Plain] = []
        for number, piece in enumerate(text.split(IMAGE_MARK)):
            if number:
                parts.append({"type": "image_url", "image_url": {"url": _address(next(left))}})
            if piece.strip():
                parts.append({"type": "text", "text": piece.strip()})
        messages.append({"role": turn.role, "content": parts if IMAGE_MARK in text else text.strip()})
    return ({"id": example.id, "messages": [*messages, {"role": "assistant", "content": said.text}]},)


def _address(one: Picture) -> str:
    if one.data is None:
        return one.name
    return f"data:{media_type(one.name)};base64,{base64.b64encode(one.data).decode()}"


def helpsteer(example: Example, title: str) -> tuple[Plain, ...]:
    """HelpSteer's rows, one for each completion: `prompt`, `response`, and the five scores."""
    shared: Plain = {"id": example.id, "prompt": _one_prompt(example, title)} | _image(example, title)
    lacking = [name for one in example.completions for name in ATTRIBUTES if name not in one.scores]
    if lacking:
        raise cannot(example, title, f"its rows have five scores, and a completion has no '{lacking[0]}'")
    return tuple(
        shared | {"response": one.text} | {name: _number(one.scores[name]) for name in ATTRIBUTES}
        for one in example.completions
    )


def ultrafeedback(example: Example, title: str) -> tuple[Plain, ...]:
    """UltraFeedback's rows: `instruction` and the `completions` with a rating for each aspect."""
    asked: Plain = {"id": example.id, "source": example.source, "instruction": _one_prompt(example, title)}
    return (asked | _images(example) | {"completions": list(map(_rated, example.completions))},)


def vlfeedback(example: Example, title: str) -> tuple[Plain, ...]:
    """VLFeedback's rows: `prompt`, the image, and the `completions` with a rating for each aspect."""
    asked: Plain = {"id": example.id, "prompt": _one_prompt(example, title)}
    return (asked | _image(example, title) | {"completions": list(map(_rated, example.completions))},)


def _rated(one: RowCompletion) -> Plain:
    """A completion with its scores; `overall_score` is beside the aspects."""
    aspects = {name: {"Rating": str(_number(value))} for name, value in one.scores.items() if name != "overall_score"}
    rated: Plain = {"model": one.model, "response": one.text, "annotations": aspects or None, "critique": one.critique}
    return rated | {name: value for name, value in one.scores.items() if name == "overall_score"}


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _one_prompt(example: Example, title: str) -> str:
    """The text of an example on one question, with its images before it."""
    if len(example.turns) != 1:
        raise cannot(example, title, f"its rows have one question and this has {len(example.turns)} messages")
    return example.turns[0].text.replace(IMAGE_MARK, "").strip()


def _image(example: Example, title: str) -> Plain:
    if len(example.images) > 1:
        raise cannot(example, title, f"its rows have one image and this has {len(example.images)}")
    return {"image": name_or_bytes(example.images[0])} if example.images else {}


def _images(example: Example) -> Plain:
    found: Sequence[object] = list(map(name_or_bytes, example.images))
    return {"images": found} if found else {}
