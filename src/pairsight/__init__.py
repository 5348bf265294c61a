"""Pairsight: from images to a vision-language model that people prefer.

Build preference data three ways, align with it, measure what it did, look at it. The names below are the complete
public interface; each is imported when it is first used, so that `import pairsight` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pairsight.version import __version__

_PUBLIC = {
    "read_prompts": "pairsight.formats.prompts",
    "build": "pairsight.pipeline.build",
    "select": "pairsight.pipeline.select",
    "evaluate": "pairsight.pipeline.evaluate",
    "SeVa": "pairsight.recipes.seva",
    "Feedback": "pairsight.recipes.feedback",
    "PreferenceTrainer": "pairsight.training.trainer",
    "PairsightError": "pairsight.errors",
    "plugins": "pairsight.registry",
}

__all__ = [
    "Feedback",
    "PairsightError",
    "PreferenceTrainer",
    "SeVa",
    "__version__",
    "build",
    "evaluate",
    "plugins",
    "read_prompts",
    "select",
]

if TYPE_CHECKING:
    from pairsight.errors import PairsightError
    from pairsight.formats.prompts import read_prompts
    from pairsight.pipeline.build import build
    from pairsight.pipeline.evaluate import evaluate
    from pairsight.pipeline.select import select
    from pairsight.recipes.feedback import Feedback
    from pairsight.recipes.seva import SeVa
    from pairsight.registry import plugins
    from pairsight.training.trainer import PreferenceTrainer


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pairsight' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
