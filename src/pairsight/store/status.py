"""How far a run is, per stage; read beside a running process without disturbing it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pairsight.store.attempts import Attempts, ServerCalls, Spent, UnknownOutcome
from pairsight.store.ledger import Ledger
from pairsight.store.lock import Holder, exclusive_lock, lock_holder
from pairsight.store.run_folder import RunFolder
from pairsight.store.schema import traces
from pairsight.store.sealed import table_rows


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: its name, its ledger, and the lock file of whoever writes it."""

    name: str
    ledger: Path
    lock_file: Path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the phase, or fail at once (LockedError) while another process holds it."""
        with exclusive_lock(self.lock_file, f"{self.name} of {self.ledger.parent}"):
            yield

    def holder(self) -> Holder | None:
        """The process that holds it; None when none does."""
        return lock_holder(self.lock_file)


def phases(run: RunFolder) -> list[Phase]:
    """The phases of a run that have started, also with a lost ledger; what `evaluate --out` wrote is one evaluation."""
    own = "evaluate" if run.config.get("kind") == "evaluate" else "build"
    found = [_phase(own, run.path, own)]
    found += [_phase(f"evaluate-{folder.name}", folder, "evaluate") for folder in run.path.glob("evaluate/*/")]
    started = (phase for phase in found if phase.ledger.is_file() or traces(phase.ledger))
    return sorted(started, key=lambda phase: phase.name)


def _phase(name: str, folder: Path, lock: str) -> Phase:
    return Phase(name, folder / "ledger.sqlite", folder / ".locks" / lock)


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage. `total` is None while not all its items are known; `spent` is None unless it makes paid calls, and
    `servers` says how many calls each server was sent, where there is more than one.

    Speed and time left are those of the process at work; None when none is.
    """

    phase: str
    stage: str
    total: int | None
    done: int
    failed: Mapping[str, int]
    items_per_s: float | None
    seconds_left: float | None
    spent: Spent | None = None
    servers: tuple[ServerCalls, ...] = ()

    @property
    def pending(self) -> int | None:
        """Items without a result; None while not all items are known."""
        return None if self.total is None else self.total - self.done - sum(self.failed.values())


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run: its stages, the processes at work by phase, and its finished tables with their rows."""

    path: Path
    stages: tuple[StageStatus, ...]
    running: Mapping[str, int]
    tables: Mapping[str, int]


def run_status(path: str | Path) -> RunStatus:
    """How far the run in a folder is; works while it is going.

    Raises:
        RunError: no run there, or one that cannot be read.
    """
    run = RunFolder.open(path)
    locks = run.path / ".locks"
    named = sorted(entry.name for entry in locks.iterdir()) if locks.is_dir() else []
    running = {name: pid for name in named if (pid := run.locked_by(name)) is not None}
    running |= {phase.name: holder.pid for phase in phases(run) if (holder := phase.holder()) is not None}
    stages = tuple(stage for phase in phases(run) for stage in _stages(phase))
    return RunStatus(run.path, stages, running, dict(sorted(table_rows(run.data).items())))


def unknown_outcomes(path: str | Path) -> list[UnknownOutcome]:
    """Calls of a run that may have been charged without an answer that we hold, from all its ledgers."""
    found = []
    for phase in phases(RunFolder.open(path)):
        with Ledger(phase.ledger, read_only=True) as ledger:
            found += Attempts(ledger).unknown_outcomes()
    return found


def _stages(phase: Phase) -> Iterator[StageStatus]:
    holder = phase.holder()
    with Ledger(phase.ledger, read_only=True) as ledger:
        attempts = Attempts(ledger)
        paid = attempts.spent_by_stage()
        servers = {name: attempts.by_server(name) for name in paid}
        servers = {name: found for name, found in servers.items() if len(found) > 1}
        by_stage: dict[str, list[tuple[int, int | None]]] = {}
        for plan, stage, expected, _ in ledger.plans():
            by_stage.setdefault(stage, []).append((plan, expected))
        for stage, plans in by_stage.items():
            done, planned, failed = 0, 0, Counter[str]()
            for plan, _ in plans:
                for (status, reason), count in ledger.counts(plan).items():
                    planned += count
                    done += count if status == "done" else 0
                    if status == "failed":
                        failed[reason] += count
            known = [expected for _, expected in plans if expected is not None]
            total = sum(known) if len(known) == len(plans) else None
            pending = None if total is None else total - done - failed.total()
            speed = ledger.items_per_s(stage, holder.since_s) if pending and holder is not None else None
            left = pending / speed if pending and speed else None
            spent = paid.pop(stage, None)
            yield StageStatus(phase.name, stage, total, done, dict(failed), speed, left, spent, servers.get(stage, ()))
        for stage, spent in paid.items():  # a salvaged ledger has no plans until the next run
            yield StageStatus(phase.name, stage, None, 0, {}, None, None, spent, servers.get(stage, ()))
