"""The stage that every engine is tried with: deterministic results, failures, deaths and bugs on demand."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pairsight.engine.stage import Resources
from pairsight.errors import ModelError
from pairsight.records import Completion, ItemError


def note(folder: Path, line: str) -> None:
    """Append a line with one system call, so that processes do not mix theirs."""
    descriptor = os.open(folder / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (line + "\n").encode())
    os.close(descriptor)


@dataclass(frozen=True)
class Echo:
    """Says a word back; 'fail…' fails, 'die-once…' kills the worker once, 'die-always…' each time, 'bug' raises."""

    folder: Path
    batch_size: int = 4
    setup_error: bool = False
    setup_death: bool = False
    name: str = "echo"
    version: int = 1
    output: type[Completion] = Completion
    resources: Resources = field(default_factory=lambda: Resources(num_cpus=0.5, num_gpus=1.0))

    def key(self, item: str) -> dict[str, str]:
        return {"word": item}

    def item_id(self, item: str) -> str:
        return item

    def setup(self) -> None:
        note(self.folder, f"setup {os.getpid()}")
        note(self.folder, f"sees {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        if self.setup_error:
            raise ModelError("model folder 'm' has no processor")
        if self.setup_death:
            os.kill(os.getpid(), signal.SIGKILL)

    def process(self, items: Sequence[str]) -> Iterator[Completion | ItemError]:
        for item in items:
            note(self.folder, f"made {item}")
            if item.startswith("die-once") and not (self.folder / item).exists():
                (self.folder / item).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item.startswith("die-always"):
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "bug":
                raise ZeroDivisionError("a bug\nin two lines")
            if item.startswith("fail"):
                yield ItemError("failed", item)
            else:
                yield Completion(f"{item}:0", item, item.upper(), "stop", "echo", 0, 0)

    def close(self) -> None:
        note(self.folder, f"close {os.getpid()}")
