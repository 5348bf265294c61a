"""The seeded distortions of SeVa (2404.10501, §3.1): what makes a completion worse without anyone's label.

A `Distortion` is a name, its parameters and a seed; the same one gives the same result on any engine and in any batch.

| name | what it does |
|---|---|
| `random_flip` | mirrors left and right, always |
| `random_resized_crop` | a crop of 8–100 % of the area at ratio 3/4–4/3, back to the image's size |
| `small_crop` | a crop of 1–20 % of the area, back to the image's size (mDPO's contrast image, 2406.11839) |
| `autoaugment` | AutoAugment, the ImageNet policy |
| `moco_v2` | crop 20–100 %, colour jitter .4/.4/.4/.1 (p .8), grey (p .2), blur σ .1–2 (p .5), flip (p .5) |
| `diffusion` | noise of diffusion step `step` on the processor's normalised pixels |
| `diffusion_weak`, `diffusion_strong` | `diffusion` at step 800 and 999 |

Several are joined by `+`, each after the other, diffusion last; `diffusion:500` names a step.

Sources: the names are the paper's, the parameters the common definitions of those augmentations; steps: the paper's
§4.1 (weak) and ours (strong). Crops keep the image's own size (ours: the paper crops to its model's input).
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import kornia.augmentation as kornia
import numpy as np
import torch
from kornia.augmentation.auto import AutoAugment
from torch import Tensor

from pairsight.errors import ConfigError, DataError, did_you_mean
from pairsight.records import Distortion
from pairsight.seeds import derived_seed

if TYPE_CHECKING:
    from PIL.Image import Image


_PRESETS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "random_flip": ("random_flip", {}),
    "random_resized_crop": ("random_resized_crop", {}),
    "small_crop": ("small_crop", {}),
    "autoaugment": ("autoaugment", {}),
    "moco_v2": ("moco_v2", {}),
    "diffusion": ("diffusion", {"step": 800}),
    "diffusion_weak": ("diffusion", {"step": 800}),
    "diffusion_strong": ("diffusion", {"step": 999}),
}

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""The normalisation of OpenAI's CLIP, which LLaVA uses: that of a preview."""


def distortion_names() -> list[str]:
    """The names `make_distortion` knows."""
    return list(_PRESETS)


def make_distortion(name: str, seed: int = 0, **parameters: float) -> Distortion:
    """A distortion by name.

    Args:
        name: one of `distortion_names()`; several joined by `+` are applied one after the other, diffusion last, e.g.
            `moco_v2+diffusion_weak`; `diffusion:500` is diffusion at another step.
        seed: what its random choices follow from, in [0, 2⁶³).
        parameters: `step` in 0…999 for the diffusion ones; the others take none.

    Raises:
        ConfigError: an unknown name, an unknown parameter, a step out of range, or parts that cannot be combined.
    """
    kinds, values = list[str](), dict[str, float]()
    for part in name.split("+"):
        kind, own = _part(part)
        if kind in kinds or "diffusion" in kinds:
            raise ConfigError(f"distortion '{name}': each part may be named once, and diffusion last")
        kinds.append(kind)
        values |= own
    unknown = set(parameters) - set(values)
    if unknown:
        allowed = ", ".join(values) or "none"
        raise ConfigError(f"distortion '{name}' has no parameter '{min(unknown)}'; it takes: {allowed}")
    values |= parameters
    if "step" not in values:
        return Distortion("+".join(kinds), values, seed)
    step = values["step"]
    if step != int(step) or not 0 <= step < NUM_STEPS:
        raise ConfigError(f"distortion '{name}': step {step} must be a whole number in 0…{NUM_STEPS - 1}")
    return Distortion("+".join(kinds), {"step": int(step)}, seed, space="normalised")


def _part(part: str) -> tuple[str, Mapping[str, float]]:
    """The kind and the parameters of a name without `+`."""
    name, colon, step = part.partition(":")
    if name not in _PRESETS:
        raise ConfigError(f"unknown distortion '{name}'{did_you_mean(name, list(_PRESETS))}")
    kind, own = _PRESETS[name]
    if colon and (name != "diffusion" or not step.isdecimal()):
        raise ConfigError(f"distortion '{part}': only diffusion takes a step, e.g. diffusion:500")
    return kind, {"step": int(step)} if colon else own


def is_seeded(name: str) -> bool:
    """Whether another seed gives another result; mirroring alone always gives the same."""
    return make_distortion(name).name != "random_flip"


def distort(image: "Image", distortion: Distortion) -> "Image":
    """Apply an image-space distortion to an RGB picture; the result has the picture's size.

    Raises:
        DataError: a distortion of the normalised pixels, which makes no picture (see `preview`), or an unknown one.
    """
    if distortion.space != "image":
        raise DataError(f"distortion '{distortion.name}' acts on normalised pixels and makes no picture: use preview()")
    return before_processor(image, distortion)


def before_processor(image: "Image", distortion: Distortion) -> "Image":
    """The picture after those parts of a distortion that act on pictures; after all of them in the space `image`.

    Raises:
        DataError: an unknown part.
    """
    kinds = distortion.name.split("+")
    for index, kind in enumerate(kinds):
        if kind in _NORMALISED and distortion.space != "image":
            break
        if kind not in AUGMENTATIONS:
            raise DataError(f"unknown distortion '{kind}'; known: {', '.join(AUGMENTATIONS)}")
        seed = distortion.seed if len(kinds) == 1 else derived_seed(distortion.name, distortion.seed, index)
        image = augment(image, kind, seed)
    return image


def apply_normalised(pixel_values: Tensor, distortion: Distortion) -> Tensor:
    """Apply the part of a distortion that acts on ONE image's processed pixels, of any layout (it acts elementwise).

    Args:
        pixel_values: one image: [C, H, W], [tiles, C, H, W] or flattened patches [patches, width].

    Returns:
        A new tensor of the same shape, dtype and device. The noise is drawn on the CPU, so that devices agree.

    Raises:
        DataError: an image-space distortion (see `distort`), or an unknown one.
    """
    if distortion.space == "image":
        raise DataError(f"distortion '{distortion.name}' acts on the picture, not on normalised pixels: use distort()")
    last = distortion.name.rpartition("+")[2]
    if last not in _NORMALISED:
        raise DataError(f"unknown distortion '{last}'; known: {', '.join(_NORMALISED)}")
    return _NORMALISED[last](pixel_values, distortion)


def preview(image: "Image", distortion: Distortion) -> "Image":
    """A picture of any distortion for people to look at; only an approximation where the space is `normalised`.

    A normalised distortion is applied at the picture's own resolution and then clipped to [0, 255], which the model's
    input is not. So whoever shows it must say so when `distortion.space == "normalised"`.
    """
    if distortion.space == "image":
        return distort(image, distortion)
    noisy = apply_normalised(normalised(before_processor(image, distortion), CLIP_MEAN, CLIP_STD), distortion)
    return eight_bits(noisy, CLIP_MEAN, CLIP_STD)


def normalised(image: "Image", mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A picture's pixels [3, H, W] as (value / 255 − mean) / std, as image processors make them."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(scaled).permute(2, 0, 1)


def eight_bits(pixels_CHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> "Image":
    """The picture of normalised pixels: denormalised, clipped to [0, 255], rounded."""
    from PIL import Image as Pillow

    values = pixels_CHW.permute(1, 2, 0).numpy() * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return Pillow.fromarray((values.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))


def _diffuse(pixel_values: Tensor, distortion: Distortion) -> Tensor:
    return diffuse(pixel_values, int(distortion.parameters["step"]), distortion.seed)


_NORMALISED: Mapping[str, Callable[[Tensor, Distortion], Tensor]] = {"diffusion": _diffuse}


NUM_STEPS = 1000


@cache
def signal_and_noise(step: int) -> tuple[float, float]:
    """(√ᾱ_t, √(1 − ᾱ_t)) of a step in 0…999; step 999 leaves 28.5 % of the signal."""
    if not 0 <= step < NUM_STEPS:
        raise ValueError(f"diffusion step {step} must be in 0…{NUM_STEPS - 1}")
    kept = 1.0
    for index in range(step + 1):
        sigmoid = 1.0 / (1.0 + math.exp(6.0 - 12.0 * index / (NUM_STEPS - 1)))
        kept *= 1.0 - (sigmoid * (0.005 - 1e-5) + 1e-5)
    return math.sqrt(kept), math.sqrt(1.0 - kept)


def diffuse(x: Tensor, step: int, seed: int) -> Tensor:
    """x_t of a normalised tensor of any shape, not clipped; the noise follows from `seed` alone, drawn in float32."""
    signal, noise = signal_and_noise(step)
    generator = torch.Generator().manual_seed(seed)
    epsilon = torch.randn(x.shape, generator=generator, dtype=torch.float32)
    return (signal * x.float() + noise * epsilon.to(x.device)).to(x.dtype)


_LOCK = threading.Lock()


def augment(image: "Image", name: str, seed: int) -> "Image":
    """One of `AUGMENTATIONS` applied to an RGB picture; the same seed gives the same picture."""
    pixels_HWC = np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0
    pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()
    with _LOCK, torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        changed_CHW = AUGMENTATIONS[name](pixels_CHW)
    changed_HWC = changed_CHW.clamp(0.0, 1.0).mul(255.0).round().permute(1, 2, 0).to(torch.uint8)
    from PIL import Image as Pillow

    return Pillow.fromarray(changed_HWC.numpy())


def random_flip(pixels_CHW: Tensor) -> Tensor:
    """Mirror left and right, always (p = 1)."""
    return pixels_CHW.flip(-1)


def random_resized_crop(pixels_CHW: Tensor) -> Tensor:
    """A crop of 8–100 % of the area, ratio 3/4–4/3, resized to the picture's size."""
    return _crop(pixels_CHW, (0.08, 1.0))


def small_crop(pixels_CHW: Tensor) -> Tensor:
    """A crop of 1–20 % of the area, ratio 3/4–4/3, resized to the picture's size (mDPO, Wang et al. 2406.11839)."""
    return _crop(pixels_CHW, (0.01, 0.2))


def autoaugment(pixels_CHW: Tensor) -> Tensor:
    """AutoAugment with the policy searched on ImageNet (Cubuk et al. 1805.09501)."""
    changed_1CHW: Tensor = kornia.AugmentationSequential(AutoAugment("imagenet"))(pixels_CHW[None])
    return changed_1CHW[0]


def moco_v2(pixels_CHW: Tensor) -> Tensor:
    """The augmentation of MoCo v2 (Chen et al. 2003.04297, from SimCLR): crop, colour, grey, blur, flip."""
    jitter = kornia.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8, keepdim=True)
    grey = kornia.RandomGrayscale(p=0.2, keepdim=True)
    blur = kornia.RandomGaussianBlur(_blur_kernel(pixels_CHW), (0.1, 2.0), p=0.5, keepdim=True)
    flip = kornia.RandomHorizontalFlip(p=0.5, keepdim=True)
    changed_CHW: Tensor = flip(blur(grey(jitter(_crop(pixels_CHW, (0.2, 1.0))))))
    return changed_CHW


AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "random_flip": random_flip,
    "random_resized_crop": random_resized_crop,
    "small_crop": small_crop,
    "autoaugment": autoaugment,
    "moco_v2": moco_v2,
}


def _crop(pixels_CHW: Tensor, scale: tuple[float, float]) -> Tensor:
    size = (pixels_CHW.shape[-2], pixels_CHW.shape[-1])
    crop = kornia.RandomResizedCrop(size, scale=scale, ratio=(3 / 4, 4 / 3), p=1.0, keepdim=True)
    cropped_CHW: Tensor = crop(pixels_CHW)
    return cropped_CHW


def _blur_kernel(pixels_CHW: Tensor) -> tuple[int, int]:
    """Odd kernel sides: ±4σ of the widest blur (17), or what reflection at a small picture's edges allows."""
    height, width = pixels_CHW.shape[-2:]
    return min(17, 2 * height - 1), min(17, 2 * width - 1)
