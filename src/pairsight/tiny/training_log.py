"""Progress of a training script: lines with the seconds since it began."""

import time
from collections.abc import Callable

Log = Callable[[str], None]


def start_log() -> Log:
    """A function that prints a line after the seconds since this call."""
    start = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {line}", flush=True)

    return log
