"""Many records are tokenised in parts, by several processes, and the parts are joined into one table.

Which records are a part depends on their number alone, so the table is the same, byte by byte, whatever the number of
processes. A part that is finished is a file until all are: a later start makes the others.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from pairsight.errors import ConfigError
from pairsight.store.durable import make_folder
from pairsight.store.tensors import read_tensors, write_columns
from pairsight.training.data.joined import JoinedParts, Part
from pairsight.training.data.workers import Block, tokenise, write_part
from pairsight.training.examples import RECORDS_OF_A_PART, Advance, Ingredients, Record, Tokeniser

_LOG = logging.getLogger("pairsight.training")
MOST_PROCESSES = 8
_PARTS_A_PROCESS = 3
"""With fewer parts for each, a process takes longer to start than it saves (ours)."""


@dataclass(frozen=True, slots=True)
class InParts:
    """Tokenises many records into a table's file: what `prepared` is given for them.

    Args:
        processes: at most this many, and at most one for each part; None: by cores and records.
    """

    processes: int | None

    def __call__(  # noqa: PLR0917
        self,
        file: Path,
        records: Iterable[Record],
        count: int,
        tokeniser: Tokeniser,
        made_from: Ingredients,
        advance: Advance,
    ) -> None:
        """See `examples.Many`."""
        folder = file.with_name(f"{file.stem}.parts")
        make_folder(folder)
        parts = [folder / f"{number:06}.safetensors" for number in range(-(-count // RECORDS_OF_A_PART))]
        missing = [number for number, part in enumerate(parts) if not _is_complete(part)]
        left = sum(min(RECORDS_OF_A_PART, count - number * RECORDS_OF_A_PART) for number in missing)
        advance(0, count - left)
        blocks = _blocks(records, set(missing))
        workers = _workers(self.processes, len(missing), made_from)
        if workers == 1:
            for number, first, block in blocks:
                write_part(parts[number], first, block, tokeniser, made_from, lambda: advance(1, 0))
        else:
            _LOG.info("%d processes tokenise %d examples", workers, left)
            tokenise(parts, blocks, made_from, workers, lambda done: advance(done, 0))
        join(parts, file)
        shutil.rmtree(folder, ignore_errors=True)


def join(parts: Sequence[Path], file: Path) -> None:
    """Write a table of all parts.

    Raises:
        RunError: the disk is full or failed.
    """
    joined = JoinedParts([Part.read(part) for part in parts])
    write_columns(file, joined.columns, joined.notes)


def _is_complete(part: Path) -> bool:
    try:
        read_tensors(part)
    except (OSError, ValueError):
        return False
    return True


def _blocks(records: Iterable[Record], wanted: set[int]) -> Iterator[Block]:
    """The records of the parts that are wanted; all are read, in order."""
    waiting, number = iter(records), 0
    while block := list(islice(waiting, RECORDS_OF_A_PART)):
        if number in wanted:
            yield number, number * RECORDS_OF_A_PART, block
        number += 1


def _workers(asked: int | None, parts: int, made_from: Ingredients) -> int:
    """How many processes tokenise some parts; 1: this one."""
    if asked is not None:
        count = min(asked, parts)
    else:
        count = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, parts // _PARTS_A_PROCESS)
    if count > 1 and (why := _cannot_travel(made_from)):
        if asked is not None:
            raise ConfigError(f"dataset_num_proc is {asked}, and {why}; set dataset_num_proc=1")
        _LOG.warning("one process tokenises: %s", why)
        return 1
    return max(1, count)


def _cannot_travel(made_from: Ingredients) -> str:
    """Why another process cannot be given what tokens are made from; "" if it can."""
    cls = type(made_from.images)
    if cls.__module__ == "__main__":
        return f"other processes cannot have images of {cls.__name__}, a class of the program itself"
    try:
        ForkingPickler.dumps(made_from)
    except Exception as error:  # noqa: BLE001 - what cannot be sent fails in as many ways as there are classes
        return f"other processes cannot have its images ({type(error).__name__}: {error!s:.80})"
    return ""
