"""The phases of a run that have a ledger: building, and each evaluation, with the lock that its writer holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pairsight.store.lock import Holder, exclusive_lock, lock_holder
from pairsight.store.run_folder import RunFolder
from pairsight.store.schema import traces


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: its name, its ledger, and the lock file of whoever writes it."""

    name: str
    ledger: Path
    lock_file: Path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the phase, or fail at once (LockedError) while a process is at it."""
        with exclusive_lock(self.lock_file, f"{self.name} of {self.ledger.parent}"):
            yield

    def holder(self) -> Holder | None:
        """The process that is at it; None when none is."""
        return lock_holder(self.lock_file)


def phases(run: RunFolder) -> list[Phase]:
    """The phases of a run that have begun, their ledgers lost or not; what `evaluate --out` wrote is one evaluation."""
    own = "evaluate" if run.config.get("kind") == "evaluate" else "build"
    found = [_phase(own, run.path, own)]
    found += [_phase(f"evaluate-{folder.name}", folder, "evaluate") for folder in run.path.glob("evaluate/*/")]
    begun = (phase for phase in found if phase.ledger.is_file() or traces(phase.ledger))
    return sorted(begun, key=lambda phase: phase.name)


def _phase(name: str, folder: Path, lock: str) -> Phase:
    return Phase(name, folder / "ledger.sqlite", folder / ".locks" / lock)
