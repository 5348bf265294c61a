"""Scorers by name, KIND:REFERENCE: `image_reward:models/ImageReward`, `armorm:RLHFlow/ArmoRM-Llama3-8B-v0.1`."""

from typing import TYPE_CHECKING, Any

from pairsight.errors import ConfigError
from pairsight.images.source import ImageSource
from pairsight.models.endpoint.model import is_endpoint, parse_endpoint
from pairsight.models.protocols import Scorer
from pairsight.models.references import fingerprint, local_folder, weights_folder
from pairsight.models.scorers.base import ImageAware, ImageTextScorer, Rated
from pairsight.registry import scorers

if TYPE_CHECKING:
    import torch


def parse_scorer(name: str) -> tuple[Any, str]:
    """The scorer's class and the model reference in `KIND:REFERENCE`; loads nothing.

    Raises:
        ConfigError: no colon, an unknown kind, with the nearest right one, or an endpoint for what needs weights.
        ModelError: a local folder that is missing or holds no safetensors.
    """
    kind, colon, reference = name.partition(":")
    if not colon or not reference:
        raise ConfigError(f"scorer '{name}' must be KIND:REFERENCE; kinds: {', '.join(scorers.names())}")
    found = scorers.get(kind)
    if is_endpoint(reference):
        parse_endpoint(reference)
        if not getattr(found, "may_be_endpoint", False):
            raise ConfigError(f"scorer '{name}': '{kind}' needs weights; only 'vlm' asks a model behind an endpoint")
    elif local_folder(reference) is not None:
        weights_folder(reference)
    return found, reference


def scorer_identity(name: str) -> str:
    """What identifies a scorer wherever its folder lies: the contents of its folder and, of a judge, how it is asked.

    Raises:
        ConfigError, ModelError: as `parse_scorer`, or a hub name that the hub does not have.
    """
    found, reference = parse_scorer(name)
    identity: str = getattr(found, "identity", fingerprint)(reference)
    return identity


def load_image_scorer(name: str, images: ImageSource, device: "torch.device | str | None" = None) -> ImageTextScorer:
    """A scorer of (text, image), loaded.

    Raises:
        ConfigError: a scorer that does not look at images.
        ModelError: weights that cannot be used.
    """
    found, reference = parse_scorer(name)
    if not sees_images(found):
        raise ConfigError(f"scorer '{name}' reads text only; images are ranked by clip, blip_match or image_reward")
    scorer: ImageTextScorer = found(reference, images, device)
    return scorer


def load_completion_scorer(name: str, images: ImageSource, device: "torch.device | str | None" = None) -> Scorer[Rated]:
    """A scorer of (prompt, completion), loaded; a scorer of (text, image) compares the completion with its image.

    Raises:
        ModelError: weights that cannot be used.
    """
    found, reference = parse_scorer(name)
    if sees_images(found):
        return ImageAware(found(reference, images, device))
    scorer: Scorer[Rated] = found(reference, images, device) if needs_images(found) else found(reference, device)
    return scorer


def looks(kind: str) -> bool:
    """Whether this kind of scorer of completions is shown the image; a kind that is not registered counts as not."""
    if kind not in scorers.names():
        return False
    found = scorers.get(kind)
    return sees_images(found) or needs_images(found)


def needs_images(found: Any) -> bool:
    """Whether a completion scorer's class is itself shown the images, beside the dialogue."""
    return bool(getattr(found, "needs_images", False))


def sees_images(found: Any) -> bool:
    """Whether a scorer's class is one of (text, image)."""
    return isinstance(found, type) and issubclass(found, ImageTextScorer)
