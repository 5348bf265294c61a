"""The folder of one run: what it is (`run.yaml`), what made it (`versions.json`), its log and its locks."""

import json
import logging
import os
import platform
import sqlite3
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import yaml

from pairsight.bounded import as_object, read_json
from pairsight.config import read_yaml
from pairsight.errors import RunError, one_line
from pairsight.store.blobs import BlobStore
from pairsight.store.durable import write_file
from pairsight.store.ledger import Ledger
from pairsight.store.lock import exclusive_lock, folder_lock, lock_holder
from pairsight.version import __version__

RUN_SCHEMA = 1
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "pyarrow", "numpy", "pillow", "kornia")
_LOG = logging.getLogger("pairsight.run")


class RunFolder:
    """One run: a frozen config and everything that came of it. Make it with `create`, look at it with `open`."""

    def __init__(self, path: Path, config: Mapping[str, object]) -> None:
        self.path = path
        self.config = dict(config)
        self.blobs = BlobStore(path)

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, object], free: Collection[str] = (), *, update: bool = False
    ) -> Self:
        """A new run, or the existing one if it has the same config.

        Args:
            path: the run's folder.
            config: the complete resolved config, as plain values.
            free: names of options that may differ on resuming (engine, workers, batch sizes, limits on time);
                one inside another is `outer.inner`.
            update: take the new config instead of refusing one that differs; what it shares with the old is reused.

        Raises:
            RunError: the folder holds another run (the message says what differs), something else, or a newer run.
        """
        folder = Path(path)
        if not _is_utf8(folder):
            raise RunError(f"{one_line(folder)} is not UTF-8, as the name of a run must be; choose another --out")
        wanted: dict[str, object] = yaml.safe_load(yaml.safe_dump(_plain(config), sort_keys=False))
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; a run needs a folder: choose another --out")
        with folder_lock(folder):
            check_links(folder)
            if (folder / "run.yaml").exists():
                run = cls.open(folder)
                differences = _differences(run.config, wanted, free)
                if not differences:
                    return run
                if not update:
                    raise RunError(
                        f"{folder} belongs to another run ({'; '.join(differences)}); choose another --out, "
                        f"the same options to continue it, or --update to change it"
                    )
                with run.lock("build"):
                    _LOG.info("run changed: %s", "; ".join(differences))
                    changed = cls(folder, wanted)
                    changed._write_config()
                return changed
            # these alone are a run whose creation was cut short
            names = sorted(entry.name for entry in folder.iterdir())
            others = [name for name in names if not name.startswith((".", "ledger.sqlite")) and name != "versions.json"]
            if others:
                raise RunError(
                    f"{folder} is not empty ({', '.join(others[:3])}) and holds no run (run.yaml); choose another --out"
                )
            write_file(folder / "versions.json", _versions().encode())
            Ledger(folder / "ledger.sqlite").close()  # before run.yaml, beside which a missing ledger is a lost one
            cls(folder, wanted)._write_config()
        return cls(folder, wanted)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The run in a folder.

        Raises:
            RunError: there is none, it is damaged, a link in it leads out of it, or a newer Pairsight made it.
        """
        folder = Path(path)
        check_links(folder)
        if not (folder / "run.yaml").is_file():
            raise RunError(f"{folder} is not a run: it has no run.yaml; name the folder given as --out to build or run")
        try:
            made_with = read_json(folder / "versions.json")
            schema, packages = int(made_with["schema"]), as_object(made_with["packages"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            raise RunError(f"{folder / 'versions.json'} is missing or damaged; restore it from a backup") from None
        if schema > RUN_SCHEMA:
            by = str(packages.get("pairsight", "a newer version"))
            raise RunError(f"{folder} was made by Pairsight {by}, newer than {__version__}: upgrade")
        return cls(folder, read_yaml(folder / "run.yaml"))

    @property
    def data(self) -> Path:
        """The folder of sealed tables."""
        return self.path / "data"

    @property
    def references(self) -> Path:
        """The folder of reference log-probabilities."""
        return self.path / "references"

    @property
    def selections(self) -> Path:
        """The folder of what strategies chose for trainings."""
        return self.path / "selections"

    def align(self, name: str) -> Path:
        """The folder of one training."""
        return self.path / "align" / name

    def evaluate(self, name: str) -> Path:
        """The folder of one evaluation, which has its own ledger."""
        return self.path / "evaluate" / name

    def ledger(self) -> Ledger:
        """The ledger of building, to be written; hold `lock("build")`."""
        return Ledger(self.path / "ledger.sqlite")

    @contextmanager
    def lock(self, phase: str) -> Iterator[None]:
        """Hold one phase of the run ("build", "align-NAME", "evaluate-NAME", "review"), or fail at once.

        Raises:
            LockedError: another process holds it.
        """
        with exclusive_lock(self._lock_path(phase), f"{phase} of {self.path}"):
            yield

    def locked_by(self, phase: str) -> int | None:
        """The pid of the process that runs a phase; None when none does."""
        holder = lock_holder(self._lock_path(phase))
        return None if holder is None else holder.pid

    @contextmanager
    def log(self) -> Iterator[None]:
        """Write what the loggers below "pairsight" say to `run.log`, with times, while inside."""
        logger = logging.getLogger("pairsight")
        level = logger.level
        try:
            handler = _RunLog(self.path / "run.log", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'run.log'}: {error.strerror}") from None
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            self._log_versions()
            yield
        except BaseException as error:
            _LOG.error("stopped by %s: %s", type(error).__name__, one_line(error, 2_000))
            raise
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()

    def _write_config(self) -> None:
        text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
        write_file(self.path / "run.yaml", text.encode())

    def _lock_path(self, phase: str) -> Path:
        return self.path / ".locks" / phase

    def _log_versions(self) -> None:
        made_with = read_json(self.path / "versions.json")["packages"]
        here = json.loads(_versions())["packages"]
        changed = [
            f"{name} {made_with.get(name)} → {here.get(name)}"
            for name in sorted({*made_with, *here})
            if made_with.get(name) != here.get(name)
        ]
        if changed:
            _LOG.warning("this run was started with other versions: %s", ", ".join(changed))


class _RunLog(logging.FileHandler):
    """A full disk loses log lines only: the work's own writes report the error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _is_utf8(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def check_links(folder: Path) -> None:
    """Refuse a run folder with a link that leads out of it, or with a pipe: what is written to a run, or shown of it,
    is the run's own.

    Raises:
        RunError: the link and where it leads, or the pipe, socket or device.
    """
    root, waiting = folder.resolve(), [str(folder)] if folder.is_dir() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if Path(entry.path).parent.parent.name != "sha256":  # blobs: many, and verified when they are read
                        waiting.append(entry.path)
                elif entry.is_symlink():
                    if root not in Path(entry.path).resolve().parents:
                        target = str(Path(entry.path).readlink())
                        raise RunError(
                            f"{entry.path} is a link that leads out of the run, to {target!r:.200}; put the file there"
                        )
                elif not entry.is_file(follow_symlinks=False):
                    raise RunError(f"{entry.path} is not a file but a pipe, a socket or a device; remove it")


def _versions() -> str:
    packages = {"pairsight": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    packages["sqlite"] = sqlite3.sqlite_version
    return json.dumps({"schema": RUN_SCHEMA, "packages": packages, "platform": platform.platform()}, indent=2) + "\n"


def _plain(value: Any) -> Any:
    """Tuples as lists and paths as text, all the way down, so that YAML gives back what was put in."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _differences(there: Mapping[str, object], here: Mapping[str, object], free: Collection[str]) -> list[str]:
    """At most three options that differ, as "name: 1 there, 2 here"; the number of the others."""
    found = []
    for name in {**there, **here}:
        if name not in free and there.get(name) != here.get(name):
            inner_there, inner_here = there.get(name), here.get(name)
            if isinstance(inner_there, Mapping) and isinstance(inner_here, Mapping):
                inner_free = {one.partition(".")[2] for one in free if one.startswith(f"{name}.")}
                found += [f"{name}.{line}" for line in _differences(inner_there, inner_here, inner_free)]
            else:
                found.append(f"{name}: {inner_there!r} there, {inner_here!r} here")
    return found if len(found) <= 3 else [*found[:3], f"{len(found) - 3} more"]
