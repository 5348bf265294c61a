"""A small build with every kind of durable write: blobs, two stages, a failure, tables sealed together, one removed.

Run as a program it kills itself at every point it is asked for, resumes, and prints what it found as JSON lines; it
forks after its imports, so that a kill costs milliseconds.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from crash_points import crash_at

from pairsight.engine.runner import Runner
from pairsight.engine.stage import Resources
from pairsight.records import ImageRef, ItemError
from pairsight.store.ledger import Ledger, Outcome
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import Sealing

WORDS = tuple(f"word{i}" for i in range(11))
SCHEMA = pa.schema({"text": pa.string()})


def note(file: Path, line: str) -> None:
    """Append a line with one system call, so that it stays however the process ends."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (line + "\n").encode())
    os.close(descriptor)


@dataclass(frozen=True)
class Shout:
    """Adds a mark to a word and notes that it did; word3 fails."""

    mark: str
    name: str
    notes: Path
    version: int = 1
    output: type[ImageRef] = ImageRef
    resources: Resources = field(default_factory=Resources)
    batch_size: int = 3

    def key(self, item: str) -> dict[str, str]:
        return {"word": item, "mark": self.mark}

    def item_id(self, item: str) -> str:
        return item

    def setup(self) -> None:
        pass

    def process(self, items: Sequence[str]) -> Iterator[ImageRef | ItemError]:
        for item in items:
            note(self.notes, f"made {self.name} {item}")
            yield ItemError("three") if item == "word3" else ImageRef(item + self.mark)

    def close(self) -> None:
        pass


class NotingLedger(Ledger):
    """Notes what it acknowledged: whoever reads the note may rely on it."""

    notes: Path

    def commit(self, outcomes: Sequence[Outcome], *, synced: bool = True) -> None:
        super().commit(outcomes, synced=synced)
        for outcome in outcomes:
            note(self.notes, f"kept {outcome.item}")


def build(path: Path, notes: Path) -> None:
    """The whole build, from wherever it was left."""
    run = RunFolder.create(path, {"words": len(WORDS)})
    with run.lock("build"):
        if not (run.data / "manifest.json").exists():
            with Sealing(run.data) as sealing:
                sealing.table("earlier", SCHEMA)
        for word in WORDS[:3]:
            run.blobs.add_bytes(word.encode(), ".png")
        with NotingLedger(run.path / "ledger.sqlite") as ledger:
            ledger.notes = notes
            runner = Runner(ledger)
            first = runner(Shout("!", "shout", notes), WORDS)
            louder = runner(Shout("?", "ask", notes), (r.sha256 for r in first if isinstance(r, ImageRef)))
            texts = [r.sha256 for r in louder if isinstance(r, ImageRef)]
            with Sealing(run.data) as sealing:
                sealing.table("words", SCHEMA, rows_per_shard=4).write(pa.record_batch([texts], schema=SCHEMA))
                sealing.table("short", SCHEMA).write(pa.record_batch([texts[:2]], schema=SCHEMA))
                sealing.remove("earlier")


def fingerprint(path: Path) -> dict[str, object]:
    """What must be equal after any crash: sealed bytes, blobs, configuration, and each stage's results."""
    files = {str(p.relative_to(path)): p.read_bytes().hex() for p in sorted(path.glob("data/*"))}
    with Ledger(path / "ledger.sqlite", read_only=True) as ledger:
        rows = [
            [(row.name, row.status, row.payload, row.reason) for row in ledger.page(plan, 0, 1000)]
            for plan, *_ in ledger.plans()
        ]
    blobs = [(p.name, p.read_bytes().hex()) for p in RunFolder.open(path).blobs.files()]
    return {"files": files, "rows": rows, "blobs": blobs, "config": (path / "run.yaml").read_text()}


def forked(path: Path, notes: Path, point: int | None) -> int:
    """Build in a child that dies at `point`; returns the signal that ended it (0: none)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with crash_at(point):
                build(path, notes)
            code = 0
        except BaseException:  # noqa: BLE001 - a child must not return into its parent's program
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the build failed at point {point}")
    return os.WTERMSIG(status)


def main(folder: Path, step: int) -> None:
    """Kill at every `step`-th point and resume; one JSON line a point."""
    names: list[str] = []
    with crash_at(None, names):
        build(folder / "whole", folder / "whole.notes")
    wanted = json.dumps(fingerprint(folder / "whole"))
    print(json.dumps({"points": names}), flush=True)
    for point in range(0, len(names), step):
        path, notes = folder / f"at{point}", folder / f"at{point}.notes"
        signal_number = forked(path, notes, point)
        before = notes.read_text().splitlines() if notes.exists() else []
        forked(path, notes, None)
        after = notes.read_text().splitlines()[len(before) :]
        print(json.dumps({
            "point": point, "signal": signal_number, "equal": json.dumps(fingerprint(path)) == wanted,
            "kept": sum(line.startswith("kept") for line in before),
            "made_before": [line for line in before if line.startswith("made")],
            "made_after": [line for line in after if line.startswith("made")],
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
