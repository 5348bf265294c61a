"""Several ranks: what they tell each other, and how an error on one ends all.

Numbers and words go through a group of their own over the network, never through a GPU: they wait for no kernel. An
error is noted in the launcher's store before the process ends; the other ranks find it there when their connection
breaks, or by a thread that looks, and end without a word of their own.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from pairsight.errors import ConfigError, RankError, TrainingError, one_line
from pairsight.training.batch import divide
from pairsight.training.policy import weight_sums
from pairsight.training.ranks.launch import SECONDS_TO_END, Launch
from pairsight.training.ranks.world import Replica, World
from pairsight.training.scorer import PackedPass, SequenceScorer

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another inside a pass or step."""
_ALONE = timedelta(hours=24)
"""How long ranks wait for what the first does alone: tokenising a million pairs takes half an hour."""
_FAILED, _LEFT = "failed", "left"
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
"""Set where the launcher keeps the store; else rank 0 does."""
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_LEAVE = 10.0
_SECONDS_FOR_A_NOTE = 3.0
"""How long a rank whose connection broke looks for the reason, before it says itself that it broke."""


class Joined(World):
    """All ranks as one of several sees them.

    Args:
        launch: which of them this is.
        notes: the launcher's store, for errors.
    """

    def __init__(self, launch: Launch, notes: Store) -> None:
        self.rank, self.size, self._notes = launch.rank, launch.size, notes
        self._group = dist.new_group(backend="gloo", timeout=_ALONE)
        self._ended = threading.Event()
        self._failed: int | None = None

    def all(self, value: T) -> list[T]:
        """The value of each rank, in their order."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def told(self, find: Callable[[], T]) -> T:
        """What the first rank finds; the others wait for it."""
        found: list[Any] = [find() if self.first else None]
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]  # type: ignore[no-any-return]

    def wait(self) -> None:
        """Return when all ranks are here."""
        dist.barrier(group=self._group)

    def most(self, value: int) -> int:
        """The largest of a number."""
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def same(self, what: str, value: object) -> None:
        """Check that all ranks have the same value."""
        values = self.all(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise TrainingError(
                    f"rank {rank} has another {what} than rank 0: every process must see the same files, options and "
                    "versions"
                )

    def share(self, scorer: SequenceScorer, numbers: Sequence[int]) -> Sequence[int]:
        """This rank's part of some examples, about equal in tokens."""
        together = scorer.shares and scorer.scoring.family.bidirectional != "prompt"
        return divide(scorer.examples, numbers, self.size, share=together)[self.rank]

    def replica(self, packed: PackedPass, way: str, max_grad_norm: float) -> Replica:
        """The policy as this rank holds it."""
        self.same("trained weight to start from", weight_sums(Replica(packed, self).trained()))
        if way == "ddp":
            from pairsight.training.ranks.ddp import Ddp

            return Ddp(packed, self)
        if way == "fsdp2":
            from pairsight.training.ranks.fsdp2 import Fsdp2

            return Fsdp2(packed, self)
        from pairsight.training.ranks.zero import Zero

        return Zero(packed, self, int(way[-1]), max_grad_norm)

    def ended_well(self) -> None:
        """End the watch when all ranks are done; none goes before all know it, as that would break a connection."""
        self.wait()
        self._ended.set()
        until = time.monotonic() + _SECONDS_TO_LEAVE
        with suppress(RuntimeError):  # the store is gone: then rank 0, which kept it, saw all ranks leave
            self._notes.add(_LEFT, 1)
            while self._notes.add(_LEFT, 0) < self.size and time.monotonic() < until:
                time.sleep(0.01)

    def note_failure(self, error: BaseException) -> BaseException:
        """Note that this rank failed, for the others.

        Returns:
            What this rank raises: its own error if it was the first to fail.
        """
        until = time.monotonic() + _SECONDS_FOR_A_NOTE
        while _is_of_the_connection(error) and time.monotonic() < until:
            if self._who_failed() is not None:
                break
            time.sleep(0.05)
        first = self._who_failed()
        if first is None:
            with suppress(RuntimeError, ValueError):  # the store may have gone with the rank or launcher that kept it
                first = int(self._notes.compare_set(_FAILED, "", str(self.rank)))
        if first not in (None, self.rank):
            return RankError(f"rank {self.rank} ends because rank {first} failed")
        if _is_of_the_connection(error):
            return TrainingError(
                f"rank {self.rank} of {self.size} lost its connection to another, which was killed, lost its network "
                f"or took over {TIMEOUT.seconds // 60} minutes ({one_line(error, 100)}); the same command resumes from "
                "the newest checkpoint"
            )
        return error

    def watch(self, notes: Store, parent: int) -> None:
        """End this process when another rank failed, or the launcher is gone, and it cannot end by itself."""
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            failed = os.getppid() != parent
            try:
                if notes.check([_FAILED]):
                    failed, self._failed = True, int(notes.get(_FAILED))
            except RuntimeError:
                failed = True
            if failed and not self._ended.wait(SECONDS_TO_END - 5):
                os._exit(1)

    def _who_failed(self) -> int | None:
        """The rank that failed first, as far as this one knows."""
        with suppress(RuntimeError, ValueError):
            return int(self._notes.get(_FAILED)) if self._notes.check([_FAILED]) else None
        return self._failed


_JOINED: list[Joined] = []
"""The ranks that this process belongs to, while it does."""


@contextmanager
def joined(launch: Launch) -> Iterator[World]:
    """Belong to the ranks of a launch while inside; an error of one ends all.

    Raises:
        RankError: another rank failed, and says why.
        TrainingError: another rank was lost without a word.
    """
    if launch.size == 1 or _JOINED:
        yield _JOINED[0] if _JOINED else World()
        return
    on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("true", "1")
    if on_gpu:
        if launch.local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK is {launch.local_rank}, and {torch.cuda.device_count()} GPUs are visible: start as many "
                "processes as there are GPUs"
            )
        torch.cuda.set_device(launch.local_rank)
    device = torch.device("cuda", launch.local_rank) if on_gpu else None
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT, device_id=device)
    world = Joined(launch, _store())
    threading.Thread(target=world.watch, args=(_store(), os.getppid()), daemon=True).start()
    logger, level = logging.getLogger("pairsight"), logging.getLogger("pairsight").level
    if not world.first:
        logger.setLevel(logging.ERROR)
    _JOINED.append(world)
    try:
        yield world
        world.ended_well()
    except BaseException as error:
        raised = world.note_failure(error)
        if world.first and _AGENT not in os.environ:
            time.sleep(2 * _SECONDS_BETWEEN_LOOKS)  # the notes are kept here: let the others read them
        if raised is error:
            raise
        raise raised from error
    finally:
        _JOINED.clear()
        logger.setLevel(level)
        dist.destroy_process_group()


def _store() -> Store:
    """A connection to the launcher's store, for notes of this attempt."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))
    return PrefixStore(f"pairsight/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _is_of_the_connection(error: BaseException) -> bool:
    """Whether an error says that another rank is gone or late."""
    text = str(error)
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text))
