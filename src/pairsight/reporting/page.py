"""A self-contained page from a template: one file, everything escaped, no scripts, no requests."""

import base64
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pairsight.errors import DataError, RunError
from pairsight.images.source import ImageSource
from pairsight.records import Distortion, ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image


LONGEST = 2_000
"""Characters of one text on a page; the run has the complete text (ours, so that a page stays small)."""

_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: object, longest: int = LONGEST) -> str:
    """The text with invisible control and direction characters shown, such as ⟨U+202E⟩, cut at `longest` characters."""
    full = str(text).encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return uncovered(full if len(full) <= longest else f"{full[:longest]} … (cut: {len(full):,} characters)")


def uncovered(text: str) -> str:
    """The text with invisible control and direction characters shown; applied to every value of a page."""
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def marked_differences(text: str, other: str) -> list[tuple[str, bool]]:
    """`text` in pieces, each with whether its words differ from `other` there.

    Nothing is marked when fewer than a quarter of the words are shared: marks would cover almost everything (ours).
    """
    mine, theirs = _pieces(visible(text)), _pieces(visible(other))
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    marks = [True] * len(mine)
    for start, _, size in matcher.get_matching_blocks():
        marks[start : start + size] = [False] * size
    shared = sum(not mark and not piece.isspace() for piece, mark in zip(mine, marks, strict=True))
    longer = max(sum(not piece.isspace() for piece in pieces) for pieces in (mine, theirs))
    if 4 * shared < longer:
        return [("".join(mine), False)]
    return _joined(mine, marks)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s+|[^\s]+", text)


def _joined(pieces: Sequence[str], marks: Sequence[bool]) -> list[tuple[str, bool]]:
    """Adjacent pieces with the same mark joined; white space is marked only between marked words."""
    joined: list[tuple[str, bool]] = []
    for index, (piece, mark) in enumerate(zip(pieces, marks, strict=True)):
        marked = mark
        if piece.isspace():
            marked = 0 < index < len(pieces) - 1 and marks[index - 1] and marks[index + 1]
        if joined and joined[-1][1] == marked:
            joined[-1] = (joined[-1][0] + piece, marked)
        else:
            joined.append((piece, marked))
    return joined


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""What the browser may use: images and styles inside the page, and nothing else."""


def render(template: str, **values: object) -> str:
    """The page's HTML. Figures made by `plots` are inserted unchanged; all other values are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("pairsight.reporting"),
        autoescape=True,
        finalize=lambda value: uncovered(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = Markup  # applied only to the SVG of `plots`, which escapes its labels
    environment.filters["thousands"] = lambda count: f"{count:,}"
    return environment.get_template(template).render(**values, content_security_policy=CONTENT_SECURITY_POLICY)


LONGEST_SIDE = 320
"""Pixels of a thumbnail's longer side: sharp at the displayed size, about 15 kB (ours)."""

_TINY = 96
"""Images up to this side are embedded unchanged as PNG, and are scaled without smoothing."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image for the page; `source` is empty when it cannot be shown, and the caption says why."""

    source: str
    caption: str
    width: int = 0
    height: int = 0
    pixelated: bool = False
    approximate: bool = False


def thumbnail(ref: ImageRef, images: ImageSource | None) -> Thumbnail:
    """The thumbnail of an image with its distortion applied; a missing or damaged image gives one without a source."""
    caption = _caption(ref.distortion)
    if images is None:
        return Thumbnail("", "the image is not in this folder")
    try:
        picture = images.open(ImageRef(ref.sha256))
        if ref.distortion is not None:
            picture = _distorted(picture, ref.distortion)
    except (DataError, RunError) as error:
        return Thumbnail("", str(error))
    approximate = ref.distortion is not None and ref.distortion.space == "normalised"
    source, pixelated = _data_uri(picture)
    return Thumbnail(source, caption, *_shown_size(picture), pixelated=pixelated, approximate=approximate)


def _distorted(picture: "Image", distortion: Distortion) -> "Image":
    if distortion.space == "rendered":
        from pairsight.images.rendering import render

        return render(picture, distortion)
    from pairsight.images.distort import preview

    if max(picture.size) > LONGEST_SIDE and distortion.space == "normalised":
        picture = picture.copy()
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return preview(picture, distortion)


def _data_uri(picture: "Image") -> tuple[str, bool]:
    out = io.BytesIO()
    if max(picture.size) <= _TINY:
        picture.save(out, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}", True
    small = picture.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    small.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}", False


def _shown_size(picture: "Image") -> tuple[int, int]:
    """Width and height in CSS pixels; the longer side is 160."""
    longer = max(picture.size)
    return max(1, round(160 * picture.width / longer)), max(1, round(160 * picture.height / longer))


def _caption(distortion: Distortion | None) -> str:
    if distortion is None:
        return "image"
    parameters = ", ".join(f"{name} {value:g}" for name, value in distortion.parameters.items())
    how = "rendered, " if distortion.space == "rendered" else ""
    return distortion.name.replace("_", " ") + (f" ({how}{parameters})" if parameters else "")
