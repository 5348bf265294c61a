"""Batches on several workers that may die: a lost worker is replaced and its batch redone. No ledger, no transport.

Which of a dead worker's jobs killed it is not known for sure when it had several; such suspects are tried again one by
one, each alone on a worker. A batch that kills its worker alone is cut into single items; an item that does so twice is
given up as `worker_died`, so that one bad item neither ends the run nor takes its neighbours with it (ours).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Protocol

from pairsight.engine.stage import Finished
from pairsight.records import ItemError

BATCHES_PER_WORKER = 2
"""One under way and one waiting, so that a worker need not wait for the driver's commit."""
LOSSES_TO_GIVE_UP = 2
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker sent back; `lost` when it died instead, with how in `detail`."""

    worker: int
    job: int = -1
    results: Sequence[object | ItemError] = ()
    error: BaseException | None = None
    lost: bool = False
    detail: str = ""


class Pool(Protocol):
    """Workers by number, each with the stage set up."""

    @property
    def size(self) -> int:
        """How many workers there are."""
        ...

    def send(self, worker: int, job: int, items: Sequence[Any]) -> None:
        """Give a worker a job; it works on its jobs in the order they came."""
        ...

    def wait(self) -> Reply:
        """The next reply of any worker. A worker that cannot set its stage up raises here."""
        ...

    def restart(self, worker: int) -> None:
        """Replace a dead worker by a new one; the caller sends its jobs again."""
        ...


@dataclass(slots=True)
class _Job:
    ticket: int
    start: int
    items: Sequence[Any]
    alone: bool = False
    losses: int = 0


@dataclass(slots=True)
class _Batch:
    results: list[Any]
    missing: int
    error: BaseException | None = None


class PoolWorkers:
    """The workers of one stage as the runner sees them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._backlog: deque[_Job] = deque()
        self._jobs: dict[int, _Job] = {}
        self._queues: list[list[int]] = [[] for _ in range(pool.size)]
        self._batches: dict[int, _Batch] = {}
        self._next_job = 0

    @property
    def capacity(self) -> int:
        """Batches that may be under way: a bound on memory."""
        return self._pool.size * BATCHES_PER_WORKER

    def submit(self, ticket: int, batch: Sequence[Any]) -> None:
        """Give a batch to the worker with the shortest queue."""
        self._batches[ticket] = _Batch([_MISSING] * len(batch), len(batch))
        self._backlog.append(_Job(ticket, 0, batch))
        self._dispatch()

    def take(self) -> Finished:
        """Wait for a batch to come back complete, or cut short by an error."""
        while True:
            reply = self._pool.wait()
            done = self._replace(reply) if reply.lost else self._receive(reply)
            self._dispatch()
            if done is not None:
                batch = self._batches.pop(done)
                intact = takewhile(lambda result: result is not _MISSING, batch.results)
                return Finished(done, list(intact), batch.error)

    def _dispatch(self) -> None:
        """Send jobs in order as there is room for them; a suspect waits for an idle worker, the others behind it."""
        while self._backlog:
            job = self._backlog[0]
            worker, queue = min(enumerate(self._queues), key=lambda one: (len(one[1]), self._is_alone(one[1])))
            if len(queue) >= (1 if job.alone or self._is_alone(queue) else BATCHES_PER_WORKER):
                return
            self._backlog.popleft()
            self._jobs[self._next_job] = job
            queue.append(self._next_job)
            self._pool.send(worker, self._next_job, job.items)
            self._next_job += 1

    def _is_alone(self, queue: Sequence[int]) -> bool:
        return any(self._jobs[number].alone for number in queue)

    def _receive(self, reply: Reply) -> int | None:
        if reply.job not in self._queues[reply.worker]:
            return None  # a late answer of a worker that counted as lost: its job was sent again
        self._queues[reply.worker].remove(reply.job)
        return self._fill(self._jobs.pop(reply.job), reply.results, reply.error)

    def _fill(self, job: _Job, results: Sequence[Any], error: BaseException | None) -> int | None:
        """Put a job's results into its batch; the batch's ticket when that ends it."""
        batch = self._batches[job.ticket]
        if error is None and len(results) != len(job.items):
            batch.results, batch.missing = list(results), 0  # the runner says that the stage lost results
            return job.ticket
        batch.results[job.start : job.start + len(results)] = results
        batch.missing -= len(results)
        batch.error = error
        return job.ticket if error is not None or batch.missing == 0 else None

    def _replace(self, reply: Reply) -> int | None:
        """Restart a dead worker and try its jobs again; the ticket of a batch that ends by giving up an item."""
        jobs = [self._jobs.pop(number) for number in self._queues[reply.worker]]
        self._queues[reply.worker].clear()
        self._pool.restart(reply.worker)
        if len(jobs) != 1:
            self._backlog.extendleft(replace(job, alone=True) for job in reversed(jobs))
            return None
        job = replace(jobs[0], alone=True, losses=jobs[0].losses + 1)
        if len(job.items) > 1:
            singles = [_Job(job.ticket, job.start + n, [item], alone=True) for n, item in enumerate(job.items)]
            self._backlog.extendleft(reversed(singles))
        elif job.losses < LOSSES_TO_GIVE_UP:
            self._backlog.appendleft(job)
        else:
            given_up = ItemError("worker_died", f"its worker ended each time ({reply.detail})")
            return self._fill(job, [given_up], None)
        return None
