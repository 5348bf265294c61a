"""Silence: the libraries' progress bars, warnings and log lines while a model loads or runs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers to errors and without bars inside the block; what was set before comes back after it.

    Inside another such block it costs nothing: setting a level empties the caches of Python's logging, 2 ms.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    changes = verbosity != logging.ERROR
    if changes:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if changes:
            logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
