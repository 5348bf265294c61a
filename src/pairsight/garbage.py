"""Python's search for reference cycles, paused while millions of records without cycles are made."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """No search for cycles inside: its cost grows with what is alive, two fifths of reading a large file of prompts.

    Source: ours, measured.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
