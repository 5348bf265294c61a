"""A prompt as an OpenAI-compatible server takes it: messages of text and of images as data URLs."""

import base64
import io
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pairsight.config import BaseConfig
from pairsight.engine.calls.answers import LONGEST_ENDING, read_json
from pairsight.errors import DataError, one_line
from pairsight.images.source import ImageSource
from pairsight.models.profiles.profile import Profile
from pairsight.models.protocols import completion_id
from pairsight.records import IMAGE_MARK, Completion, CompletionRequest, ImageRef, ItemError, Message, Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


class EndpointOptions(BaseConfig):
    """The shape of requests. All of it is part of what determines an answer, hence of the items' keys."""

    max_image_side: int | None = Field(
        1024, ge=16, description="images are made smaller to this, in pixels; null: sent in their own size"
    )
    image_format: Literal["jpeg", "png"] = Field("jpeg", description="of images sent; small ones are always PNG")
    structured_output: bool | None = Field(
        None, description="ask for JSON of the wanted schema; default: where the service is known to offer it"
    )
    max_tokens_name: str = Field("max_tokens", description="some models want max_completion_tokens")
    send_seed: bool = Field(True, description="send each completion's seed; some servers refuse it")
    extra_body: dict[str, object] = Field({}, description="more of the request's body; null leaves a parameter out")


SMALL_SIDE = 256
"""Up to this side images go as PNG, whatever is chosen: they are small, and JPEG would blur them (ours)."""
JPEG_QUALITY = 95
PIXELS_PER_TOKEN = 750
CHARACTERS_PER_TOKEN = 3
"""For estimates before sending only, on the high side (ours); the server's own count replaces them."""


def chat_messages(
    prompt: Prompt, images: ImageSource, options: EndpointOptions, profile: Profile | None = None
) -> tuple[list[dict[str, object]], int]:
    """The messages, and about how many tokens they are.

    Args:
        prompt: its images go where its marks are, or before the text.
        images: where they are.
        options: largest side and format of images.
        profile: how images are shown.

    Raises:
        DataError: an image is missing, or its distortion acts on normalised pixels, so that it is not a picture.
    """
    messages: list[dict[str, object]] = []
    num_tokens = 0
    for message in prompt.messages:
        content: str | list[dict[str, object]] = message.text
        num_tokens += len(message.text) // CHARACTERS_PER_TOKEN + 8
        if message.images:
            pictures = [shown_image(images, ref, options.max_image_side, profile) for ref in message.images]
            num_tokens += sum(picture.width * picture.height // PIXELS_PER_TOKEN + 85 for picture in pictures)
            kinds = ["png" if _is_rendered(ref) else options.image_format for ref in message.images]
            content = _parts(message, [data_url(*one) for one in zip(pictures, kinds, strict=True)])
        messages.append({"role": message.role, "content": content})
    return messages, num_tokens


def _is_rendered(ref: ImageRef) -> bool:
    return ref.distortion is not None and ref.distortion.space == "rendered"


def shown_image(images: ImageSource, ref: ImageRef, max_side: int | None, profile: Profile | None = None) -> "Image":
    """The image as it is sent: distorted if it is meant to be, padded if a profile says so, and no side longer than
    `max_side`.

    A rendered distortion is sent in its own size and as PNG, whatever the options: resizing or JPEG would change its
    noise.
    """
    if ref.distortion is not None and ref.distortion.space == "normalised":
        raise DataError(
            f"image {ref.sha256[:12]}… has the distortion '{ref.distortion.name}' of normalised pixels, which is not a "
            f"picture: an endpoint cannot be shown it; render it (images/rendering.py), or use a local model",
            reason="normalised_distortion",
        )
    picture = images.open(ref)
    if profile is not None:
        picture = profile.shown(picture)
    if max_side is not None and max(picture.size) > max_side and not _is_rendered(ref):
        scale = max_side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, resample=3)  # bicubic
    return picture


def data_url(picture: "Image", image_format: str) -> str:
    """The picture as a `data:` URL."""
    kind = "png" if max(picture.size) <= SMALL_SIDE else image_format
    data = io.BytesIO()
    if kind == "png":
        picture.save(data, "PNG")
    else:
        picture.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def _parts(message: Message, urls: list[str]) -> list[dict[str, object]]:
    waiting: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    pieces = message.text.split(IMAGE_MARK)
    if len(pieces) == 1:
        return [*waiting, {"type": "text", "text": message.text}]
    if len(pieces) - 1 != len(urls):
        raise DataError(
            f"a message has {len(pieces) - 1} {IMAGE_MARK} marks and {len(urls)} images; write as many, or no marks",
            reason="image_marks",
        )
    parts: list[dict[str, object]] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append(waiting[number - 1])
        if piece.strip():
            parts.append({"type": "text", "text": piece})
    return parts


ENDINGS_WITHOUT_TEXT = ("length", "content_filter", "refusal")
"""Endings that say why nothing was said: kept as they are, not asked again."""


def completion_of(raw: str, request: CompletionRequest, model: str) -> Completion | ItemError:
    """The first choice of a raw answer.

    Args:
        raw: the body as it came; what its JSON escapes as half a surrogate pair is read as U+FFFD.
        request: what was asked.
        model: the name that the completion carries.

    Returns:
        The completion, with the server's own `finish_reason`; an `ItemError` "not_json" or "no_text" that quotes what
        came instead.
    """
    try:
        answer, _ = read_json(raw)
        choice = answer["choices"][0]
        message = choice["message"]
        ending = one_line(choice.get("finish_reason") or "unknown")[:LONGEST_ENDING]
        text = _text(message.get("content"))
        refusal = message.get("refusal")
    except (ValueError, RecursionError):
        return ItemError("not_json", f"the answer is not JSON or is cut short: {_quoted(raw)}")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ItemError("no_text", f"the answer holds no message: {_quoted(raw)}")
    if text is None and isinstance(refusal, str):
        text, ending = refusal, "refusal"
    if text is None and ending not in ENDINGS_WITHOUT_TEXT:
        return ItemError("no_text", f"the answer holds no text (it ended by '{ending}'): {_quoted(raw)}")
    return Completion(
        id=completion_id(request),
        prompt_id=request.prompt.id,
        text=text or "",
        finish_reason=ending,
        model=model,
        seed=request.seed,
        sample_index=request.sample_index,
        images=request.images,
    )


def _text(content: Any) -> str | None:
    """A message's text: a text, or the texts in a list of parts."""
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


def _quoted(raw: str) -> str:
    return one_line(raw, 200) or "nothing"
