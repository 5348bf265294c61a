"""Scorers by name, KIND:MODEL: `image_reward:models/ImageReward`, `armorm:RLHFlow/ArmoRM-Llama3-8B-v0.1`.

A plug-in's kind is `file.py:Class`, as in `mine.py:Brevity:models/mine`.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pairsight.errors import ConfigError
from pairsight.images.source import ImageSource
from pairsight.models.endpoint.model import is_endpoint, parse_endpoint
from pairsight.models.folders import local_folder
from pairsight.models.load import weights_folder
from pairsight.models.scorers.base import ImageAware, ImageTextScorer, Rated, Scorer
from pairsight.registry import is_file_name, plain_name, scorers

if TYPE_CHECKING:
    import torch

S = TypeVar("S", bound=Scorer[Any])
_OF_A_FILE = re.compile(r"([^:]+\.py:\w+)(?::(.*))?")


def parse_scorer(name: str) -> tuple[type[Scorer[Any]], str]:
    """The scorer's class and the model's name in `KIND:MODEL`; loads nothing.

    Raises:
        ConfigError: no colon, an unknown kind, with the nearest known one, or an endpoint for what needs weights.
        ModelError: a local folder that is missing or holds no safetensors.
    """
    kind, model_name = _split(name)
    if not model_name:
        raise ConfigError(f"scorer '{name}' must be KIND:MODEL; kinds: {', '.join(scorers.names())}")
    found: type[Scorer[Any]] = scorers.get(kind)
    if is_endpoint(model_name):
        parse_endpoint(model_name)
        if not found.may_be_endpoint:
            raise ConfigError(f"scorer '{name}': '{kind}' needs weights; only 'vlm' asks a model behind an endpoint")
    elif local_folder(model_name) is not None:
        weights_folder(model_name)
    return found, model_name


def scorer_kind(name: str) -> str:
    """What a scorer's numbers are called by: its kind, without the file of a plug-in."""
    return plain_name(_split(name)[0])


def scorer_identity(name: str) -> str:
    """What identifies a scorer wherever its folder lies: the contents of its folder and, of a judge, how it is asked.

    Raises:
        ConfigError, ModelError: as `parse_scorer`, or a hub name that the hub does not have.
    """
    found, model_name = parse_scorer(name)
    return found.identity(model_name)


def load_image_scorer(name: str, images: ImageSource, device: "torch.device | str | None" = None) -> ImageTextScorer:
    """A scorer of (text, image), loaded.

    Raises:
        ConfigError: a scorer that does not look at images.
        ModelError: weights that cannot be used.
    """
    found, model_name = parse_scorer(name)
    if not issubclass(found, ImageTextScorer):
        raise ConfigError(f"scorer '{name}' reads text only; images are ranked by clip, blip_match or image_reward")
    return _made(found, model_name, images, device)


def load_completion_scorer(name: str, images: ImageSource, device: "torch.device | str | None" = None) -> Scorer[Rated]:
    """A scorer of (prompt, completion), loaded; a scorer of (text, image) compares the completion with its image.

    Raises:
        ModelError: weights that cannot be used.
    """
    found, model_name = parse_scorer(name)
    scorer = _made(found, model_name, images, device)
    return ImageAware(scorer) if isinstance(scorer, ImageTextScorer) else scorer


def _made(found: type[S], model_name: str, images: ImageSource, device: "torch.device | str | None") -> S:
    """The scorer on its model; only a class that looks takes images."""
    make: Callable[..., S] = found
    return make(model_name, images, device) if found.needs_images else make(model_name, device)


def asks(name: str) -> bool:
    """Whether a scorer asks a model with the annotation prompt.

    Raises:
        ConfigError: as `parse_scorer`.
    """
    return parse_scorer(name)[0].asks


def sees_images(name: str) -> bool:
    """Whether a scorer of completions is shown the image; one of a kind that is not registered counts as not.

    Args:
        name: KIND:MODEL, or the kind alone; of a plug-in with its file.

    Raises:
        ConfigError: a plug-in whose file this call does not name, or does not have.
    """
    kind, _ = _split(name)
    if not is_file_name(kind) and kind not in scorers.names():
        return False
    found: type[Scorer[Any]] = scorers.get(kind)
    return found.needs_images


def _split(name: str) -> tuple[str, str]:
    """A scorer's kind and its model's name, "" where the name has none."""
    if found := _OF_A_FILE.fullmatch(name):
        return found[1], found[2] or ""
    kind, _, model_name = name.partition(":")
    return kind, model_name
