"""A slow build on an engine, run as a program: `slow_build.py FOLDER ENGINE [SECONDS]`; notes each worker's pid."""

import os
import signal
import sys
import time
from pathlib import Path

from small_build import WORDS, Shout, note

from pairsight.engine.runner import Runner, open_engine
from pairsight.records import ImageRef
from pairsight.store.run_folder import RunFolder


class Slow(Shout):
    """A `Shout` that takes its time; `mark` is the seconds an item."""

    def setup(self) -> None:
        note(self.notes, f"worker {os.getpid()}")

    def key(self, item: str) -> dict[str, str]:
        return {"word": item}

    def process(self, items):  # type: ignore[no-untyped-def]
        for result in super().process(items):
            time.sleep(float(self.mark))
            yield result


def main(folder: Path, engine: str, seconds: str) -> None:
    """See above."""
    run = RunFolder.create(folder, {"engine": engine})
    with run.lock("build"), run.ledger() as ledger, open_engine(engine, 1 if engine == "local" else 2) as running:
        stage = Slow(seconds, "slow", folder.with_suffix(".notes"), batch_size=1)
        results = list(Runner(ledger, running)(stage, WORDS))
    assert sum(isinstance(result, ImageRef) for result in results) == len(WORDS) - 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without it
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "0")
