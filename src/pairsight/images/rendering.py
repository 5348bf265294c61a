"""Noise on normalised pixels drawn as a picture of 8 bits, so that a model behind an endpoint can be shown it.

A server takes pictures and runs its own processor on them. A picture that already has the size of the processor's
tensor goes through resizing and cropping unchanged, so that its noise stays as it is: the server then sees x_t of SeVa
(2404.10501, §3.1), denormalised, clipped to [0, 255] and rounded. What clipping and rounding change, `shift` measures.
Source: ours.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from PIL import Image as Pillow
from pydantic import Field, field_validator

from pairsight.bounded import as_object, read_json
from pairsight.config import BaseConfig
from pairsight.errors import ConfigError
from pairsight.images.distort import (
    CLIP_MEAN,
    CLIP_STD,
    apply_normalised,
    before_processor,
    eight_bits,
    normalised,
)
from pairsight.records import Distortion

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_FITS = ("crop", "pad", "stretch")


class Rendering(BaseConfig):
    """How a processor makes its square tensor of a picture. The default is that of LLaVA-1.5's CLIP processor."""

    size: int = Field(336, ge=16, le=2048, description="side of the processor's square, in pixels")
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="crop: shortest side to size, centre kept; pad: square of the mean colour; stretch"
    )
    mean: tuple[float, float, float] = Field(CLIP_MEAN, description="what the processor takes off each channel")
    std: tuple[float, float, float] = Field(CLIP_STD, description="what it divides each channel by")

    @field_validator("std")
    @classmethod
    def _divides(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError("must be three numbers above 0")
        return value


_HALF = (0.5, 0.5, 0.5)
RENDERINGS: Mapping[str, Rendering] = MappingProxyType(
    {
        "llava-1.5": Rendering(),
        "llava-1.5-pad": Rendering(fit="pad"),
        "paligemma-224": Rendering(size=224, fit="stretch", mean=_HALF, std=_HALF),
        "paligemma-448": Rendering(size=448, fit="stretch", mean=_HALF, std=_HALF),
        "gemma-3": Rendering(size=896, fit="stretch", mean=_HALF, std=_HALF),
        "internvl": Rendering(size=448, fit="stretch", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "qwen2-vl": Rendering(size=448, fit="stretch"),
        "qwen3-vl": Rendering(size=448, fit="stretch", mean=_HALF, std=_HALF),
    }
)
"""Family -> how its processor's square is made. Qwen's take any size: 448 is a multiple of their 28 and 32 pixels."""


_TILES = ("crop_to_patches", "do_image_splitting", "do_pan_and_scan", "image_grid_pinpoints")
"""Options of processors that cut a picture into tiles, or enlarge it first."""
_OF_ANY_SIZE = 448


def rendering_for(folder: Path) -> Rendering:
    """How the processor in a model's folder makes its square, by its `processor_config.json` or the like.

    Raises:
        ConfigError: no such file, one without a square, or a processor that cuts pictures into tiles.
    """
    plain = as_object({})
    for name in ("processor_config.json", "preprocessor_config.json"):
        with suppress(OSError, ValueError):
            read = as_object(read_json(folder / name))
            plain = as_object(read.get("image_processor", read)) or plain
    if tiles := [name for name in _TILES if plain.get(name)]:
        raise ConfigError(
            f"render={folder}: its processor cuts pictures into tiles ({tiles[0]}); if it leaves one of a size as it "
            "is, say size, fit, mean and std"
        )
    if "merge_size" in plain:
        side = _number(plain.get("patch_size")) * _number(plain["merge_size"])
        square = side * max(1, round(_OF_ANY_SIZE / side)) if side else 0
        fit = "stretch"
    elif plain.get("do_center_crop"):
        square, fit = _side(plain.get("crop_size")), "crop"
    else:
        square, fit = _side(plain.get("size")), "stretch"
    if plain.get("do_pad") and fit != "stretch":
        fit = "pad"
    if not square:
        raise ConfigError(f"render={folder} has no image processor with a square size: say size, fit, mean, std")
    usual = {"mean": plain.get("image_mean"), "std": plain.get("image_std")}
    return Rendering.parse({"size": square, "fit": fit, **{name: one for name, one in usual.items() if one}}, "render")


def _side(size: object) -> int:
    """The side of a square size, a number or height and width; 0 for another."""
    if not isinstance(size, Mapping):
        return _number(size)
    sides = {_number(size.get(name)) for name in ("height", "width")}
    return sides.pop() if len(sides) == 1 else 0


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def rendered(distortion: Distortion, rendering: Rendering) -> Distortion:
    """A distortion of normalised pixels as the picture of it that such a processor would leave as it is."""
    usual = Rendering()
    extra: dict[str, float] = {"size": rendering.size}
    if rendering.fit != usual.fit:
        extra[rendering.fit] = 1
    for name, values in (("mean", rendering.mean), ("std", rendering.std)):
        if values != getattr(usual, name):
            extra |= {f"{name}_{channel}": value for channel, value in zip("rgb", values, strict=True)}
    return replace(distortion, parameters={**distortion.parameters, **extra}, space="rendered")


def rendering_of(distortion: Distortion) -> Rendering:
    """The rendering that a rendered distortion's parameters say."""
    said = distortion.parameters
    usual = Rendering()
    return Rendering(
        size=int(said["size"]),
        fit=next((fit for fit in _FITS if said.get(fit)), usual.fit),
        mean=_channels(said, "mean", usual.mean),
        std=_channels(said, "std", usual.std),
    )


def _channels(said: Mapping[str, float], name: str, usual: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (said.get(f"{name}_{channel}", value) for channel, value in zip("rgb", usual, strict=True))
    return red, green, blue


def render(picture: "Image", distortion: Distortion) -> "Image":
    """The square picture of 8 bits that a rendered distortion makes of an undistorted picture."""
    how = rendering_of(distortion)
    return eight_bits(_noisy(picture, distortion, how), how.mean, how.std)


def shift(picture: "Image", distortion: Distortion) -> tuple[float, float]:
    """The greatest and the mean absolute difference that 8 bits make, in units of the normalised pixel tensor.

    max and mean of |(rendering / 255 − mean) / std − x_t|, where x_t is the tensor that is neither clipped nor rounded.

    Args:
        picture: the undistorted picture.
        distortion: a rendered one.
    """
    how = rendering_of(distortion)
    wanted = _noisy(picture, distortion, how)
    seen = normalised(eight_bits(wanted, how.mean, how.std), how.mean, how.std)
    difference = (seen - wanted).abs()
    return float(difference.max()), float(difference.mean())


def _noisy(picture: "Image", distortion: Distortion, how: Rendering) -> "Tensor":
    square = _square(before_processor(picture, distortion), how)
    return apply_normalised(normalised(square, how.mean, how.std), distortion)


def _square(picture: "Image", how: Rendering) -> "Image":
    """The picture as the processor's square, resized bicubically."""
    width, height = picture.size
    if how.fit == "pad":
        side = max(width, height)
        ground = Pillow.new("RGB", (side, side), tuple(int(value * 255) for value in how.mean))
        ground.paste(picture, ((side - width) // 2, (side - height) // 2))
        return ground.resize((how.size, how.size), Pillow.Resampling.BICUBIC)
    if how.fit == "stretch":
        return picture.resize((how.size, how.size), Pillow.Resampling.BICUBIC)
    short = min(width, height)
    wide, high = (how.size if side == short else int(how.size * side / short) for side in (width, height))
    left, top = (wide - how.size) // 2, (high - how.size) // 2
    resized = picture.resize((wide, high), Pillow.Resampling.BICUBIC)
    return resized.crop((left, top, left + how.size, top + how.size))
