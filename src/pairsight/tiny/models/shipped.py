"""Where the models that ship with the package are."""

from pathlib import Path

from pairsight.errors import ModelError

MODELS = ("base", "second", "backbone")
ADAPTERS = ("careful", "terse")
SCORERS = {"clip": "clip", "blip_match": "blip", "image_reward": "image_reward", "sequence": "reward"}
"""Kinds of scorers (see `pairsight.registry.scorers`) and the folders of their weights."""


def shipped_model(name: str = "base") -> Path:
    """The folder of a shipped model.

    Args:
        name: "base"; "second", of another seed; "careful" or "terse", adapters of base; or "backbone", base's language
            model before it saw images.

    Raises:
        ModelError: an unknown name, or an installation without the weights.
    """
    if name not in (*MODELS, *ADAPTERS):
        raise ModelError(f"unknown tiny model '{name}'; known: {', '.join((*MODELS, *ADAPTERS))}")
    return _folder(name, "adapter_model.safetensors" if name in ADAPTERS else "model.safetensors")


def shipped_pipeline() -> Path:
    """The folder of the tiny text-to-image pipeline.

    Raises:
        ModelError: an installation without the weights.
    """
    return _folder("pipeline", "model_index.json")


def shipped_scorer(kind: str) -> str:
    """KIND:FOLDER of a tiny scorer, as recipes name scorers.

    Args:
        kind: "clip", "blip_match" or "image_reward", which look; "sequence", which reads only.

    Raises:
        ModelError: an unknown kind, or an installation without the weights.
    """
    if kind not in SCORERS:
        raise ModelError(f"there is no tiny scorer of the kind '{kind}'; there are: {', '.join(SCORERS)}")
    return f"{kind}:{_folder(SCORERS[kind], 'model.safetensors')}"


def _folder(name: str, needed: str) -> Path:
    folder = Path(__file__).parents[1] / "weights" / name
    if not (folder / needed).is_file():
        raise ModelError(f"the package lacks the tiny model '{name}' ({folder}): reinstall pairsight")
    return folder
