"""NLTK and its data, which nobody downloads here: from a folder the user gives, or where NLTK itself looks."""

import functools
import importlib
from pathlib import Path
from typing import Any

from pairsight.errors import ConfigError


@functools.cache
def nltk_package(folder: str | None) -> Any:
    """The `nltk` package, looking for its data in `folder` first; None where it is not installed.

    Raises:
        ConfigError: a folder is given that is not there, or that nothing can read because NLTK is not installed.
    """
    try:
        nltk = importlib.import_module("nltk")
    except ImportError:
        if folder is not None:
            raise ConfigError(
                f"nltk_data {folder} needs NLTK, which is not installed: pip install 'pairsight[words]'"
            ) from None
        return None
    if folder is not None:
        if not Path(folder).is_dir():
            raise ConfigError(
                f"nltk_data {folder} is no folder: give the one that holds tokenizers/punkt_tab, "
                f"taggers/averaged_perceptron_tagger_eng and corpora/wordnet (github.com/nltk/nltk_data)"
            )
        nltk.data.path.insert(0, str(Path(folder).resolve()))
    return nltk
