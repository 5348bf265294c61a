"""Where a conversion goes: written beside it under a hidden name, which becomes its name when all is there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pairsight.errors import RunError
from pairsight.store.durable import cannot_write, publish, publish_folder
from pairsight.store.lock import exclusive_lock


def free_target(name: str) -> Path:
    """The path of that name; RunError where something is there, other than an empty folder."""
    target = Path(name) if Path(name).name else Path(name).resolve()
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise RunError(f"{target} exists, and a conversion overwrites nothing: name another place, or remove it")
    return target


@contextmanager
def drafted(target: Path, *, is_file: bool) -> Iterator[Path]:
    """An empty folder to write to, which then becomes the target; after an error or a kill there is no target.

    What a killed process left is removed by the next one; two at once are refused.

    Args:
        target: the folder's name, or that of the only file in it.
        is_file: whether it is a file.

    Raises:
        LockedError: another process writes the target.
        RunError: the disk is full or may not be written.
    """
    lock, draft = (target.with_name(f".{target.name}.{ending}") for ending in ("lock", "partial"))
    with exclusive_lock(lock, f"conversion to {target}"):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            yield draft
            if is_file:
                publish(draft / target.name, target)
            else:
                publish_folder(draft, target)
        except OSError as error:
            raise cannot_write(target, error) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            lock.unlink(missing_ok=True)
