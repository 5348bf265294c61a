"""Weights that the hub has as pickles only, converted once into the user's cache; none of their code runs."""

import logging
from pathlib import Path

from pairsight.errors import ModelError, one_line
from pairsight.images.source import cache_folder
from pairsight.models.checkpoints.convert import COPIED, to_safetensors

_LOG = logging.getLogger("pairsight.models")


def converted_from_hub(model_name: str, published_as: str) -> Path:
    """The folder in the cache that holds a hub model's weights as safetensors, written when it is first asked for.

    Args:
        model_name: a hub name.
        published_as: the name of its pickle there; of several parts, the name that parts are numbered from.

    Raises:
        ModelError: the hub gives no such pickle, or one that names code.
    """
    from huggingface_hub import snapshot_download

    stem, _, suffix = published_as.rpartition(".")
    wanted = [published_as, f"{stem}-*-of-*.{suffix}", *COPIED]
    try:
        snapshot = Path(snapshot_download(model_name, allow_patterns=wanted))
    except Exception as error:  # noqa: BLE001 - the hub client raises a dozen unrelated classes
        raise ModelError(f"model {model_name} is not a folder here and the hub gives none: {one_line(error)}") from None
    single = snapshot / published_as
    if not single.is_file() and not any(snapshot.glob(f"{stem}-*-of-*.{suffix}")):
        raise ModelError(f"model {model_name} has neither *.safetensors nor {published_as} on the hub")
    target = cache_folder() / "converted" / f"{model_name.replace('/', '--')}-{snapshot.name[:12]}"
    if not target.is_dir():
        done = to_safetensors(single if single.is_file() else snapshot, target)
        text = "%s has only pickled weights: converted, running none of their code, into %s (%.2f GB)"
        _LOG.warning(text, model_name, target, done.num_bytes / 1e9)
    return target
