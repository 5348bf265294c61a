"""Runs stages so that nothing is lost or done twice: plan (keys − ledger), execute, commit; and the local engine."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pairsight.engine.progress import Progress, Task
from pairsight.engine.stage import Call, Engine, Finished, MayBeCall, Stage
from pairsight.errors import ConfigError, RunError, did_you_mean, one_line
from pairsight.records import ItemError, paused_collection
from pairsight.store.attempts import Attempts
from pairsight.store.encoding import encode, item_key, paired_text
from pairsight.store.ledger import Entry, Ledger, Outcome, Planned, Results

if TYPE_CHECKING:
    from pairsight.engine.calls.calls import Caller


In = TypeVar("In")
Out = TypeVar("Out")
ITEMS_PER_PLANNING_STEP = 2048
_LOG = logging.getLogger("pairsight.engine")
_LOG.addHandler(logging.NullHandler())  # without a run.log, failures are read in the ledger


class Runner:
    """Gives stages their items and keeps what they make. One runner a ledger; stages must come in the same order.

    Args:
        ledger: where results are kept, open for writing.
        engine: where batches of local stages run.
        progress: what shows how far it is; nothing when left out.
        caller: what sends paid calls, with their limits and budget.
        refuse_all_failed: whether a stage of which every item failed ends the work.
    """

    def __init__(
        self,
        ledger: Ledger,
        engine: Engine | None = None,
        progress: Progress | None = None,
        caller: "Caller | None" = None,
        *,
        refuse_all_failed: bool = False,
    ) -> None:
        self._ledger = ledger
        self._engine = engine or LocalEngine()
        self._progress = progress or Progress("quiet")
        self._caller = caller
        self._refuse_all_failed = refuse_all_failed
        self._calls: Counter[str] = Counter()
        self.plans: list[int] = []
        """The plans of the stages that were run, in their order."""
        self.failed: dict[str, Counter[str]] = {}
        """Stage -> reason -> how many of its items failed, now or at an earlier start."""

    def __call__(self, stage: Stage[In, Out] | Call[In, Out], items: Iterable[In]) -> Results[Out]:
        """The results of a stage for `items`, one per item and in their order; only what is missing is worked on.

        Args:
            stage: the work; set up only when something is missing. An item that fails is kept as failed, and the
                others are worked on; `Ledger.retry` forgets failures.
            items: read once, a few thousand at a time; may be longer than memory.

        Raises:
            RunError: the ledger cannot be written, or all items failed where that ends the work. Running again
                continues.
            EndpointError, BudgetError: a call's endpoint or budget ended the work.
        """
        if isinstance(stage, MayBeCall):
            stage = stage.as_call() or stage
        total = len(items) if isinstance(items, Sized) else None
        plan = self._ledger.open_plan(stage.name, self._calls[stage.name], total)
        self._calls[stage.name] += 1
        self.plans.append(plan)
        with self._progress.task(stage.name, total) as task:
            work = StageRun(stage, plan, self._ledger, task)
            if isinstance(stage, Call):
                work.call(stage, items, self._sender())
            else:
                work.run(stage, items, self._engine)
            _LOG.info("%s: %d done, %d reused, %d failed", stage.name, task.done, task.reused, task.failed)
        results = Results(self._ledger, plan, stage.output)
        if task.failed:
            self._note_failures(stage.name, results)
        return results

    def _note_failures(self, stage: str, results: Results[Any]) -> None:
        """Count what failed; that nothing was done is an error where it ends the work."""
        reasons = results.failures()
        self.failed.setdefault(stage, Counter()).update(reasons)
        if self._refuse_all_failed and reasons.total() == len(results):
            ((reason, count),) = reasons.most_common(1)
            first, folder = next(iter(results)), self._ledger.path.parent
            detail = f"; the first: {one_line(first.detail, 160)}" if isinstance(first, ItemError) else ""
            raise RunError(
                f"stage '{stage}' failed for every item ({count} of {len(results)} for '{reason}'{detail}); fix the "
                f"cause, then `pairsight retry {folder}` and the same command try them again"
            )

    def _sender(self) -> "Caller":
        if self._caller is None:
            from pairsight.engine.calls.calls import Caller

            self._caller = Caller()
        return self._caller


class StageRun(Generic[In]):
    """One stage at work on one list of items."""

    def __init__(
        self,
        stage: Stage[In, Any] | Call[In, Any],
        plan: int,
        ledger: Ledger,
        task: Task,
    ) -> None:
        self._stage = stage
        self._parser_version = stage.parser_version if isinstance(stage, Call) else 0
        self._plan = plan
        self._ledger = ledger
        self._attempts = Attempts(ledger)
        self._task = task
        self._planned: set[int] = set()

    def run(self, stage: Stage[In, Any], items: Iterable[In], engine: Engine) -> None:
        """Plan, execute and commit batch by batch; workers are opened only if something is missing."""
        batches = _batched(self._pending(items), stage.batch_size)
        first = next(batches, None)
        if first is None:
            return
        sent: dict[int, Sequence[tuple[int, In]]] = {}
        with engine.open(stage) as workers:
            for ticket, batch in enumerate(chain([first], batches)):
                while len(sent) >= workers.capacity:
                    self._keep_batch(workers.take(), sent)
                workers.submit(ticket, [item for _, item in batch])
                sent[ticket] = batch
            while sent:
                self._keep_batch(workers.take(), sent)

    def call(self, call: Call[In, Any], items: Iterable[In], caller: "Caller") -> None:
        """Plan, call and commit answer by answer."""
        pending = self._pending(items)
        first = next(pending, None)
        if first is not None:
            keep = lambda row, item, result: self._keep([(row, item, result)])  # noqa: E731
            caller.work(call, chain([first], pending), self._attempts, keep, self._task.describe)

    def _pending(self, items: Iterable[In]) -> Iterator[tuple[int, In]]:
        """(ledger row, item) of what has no result; plans as it goes. An item given twice is worked on once."""
        source, position = iter(items), 0
        while step := self._planning_step(source, position):
            yield from self._unfinished(step)
            position += len(step)
        self._ledger.finish_plan(self._plan, position)
        self._task.total = position

    def _unfinished(self, step: Sequence[tuple[In, Planned]]) -> list[tuple[int, In]]:
        """What is neither done nor failed nor under way; the others are counted."""
        pending, failed = list[tuple[int, In]](), 0
        for item, planned in step:
            if planned.status == "done" and planned.parser_version >= self._parser_version:
                continue
            status = "pending" if self._can_parse_again(planned) else planned.status
            if status == "failed":
                failed += 1
            elif status == "pending" and planned.item not in self._planned:
                self._planned.add(planned.item)
                pending.append((planned.item, item))
        self._task.advance(0, failed=failed, reused=len(step) - len(pending) - failed)
        return pending

    def _planning_step(self, source: Iterator[In], position: int) -> list[tuple[In, Planned]]:
        """The next few thousand items and the status of each."""
        stage = self._stage
        with paused_collection():
            items = list(islice(source, ITEMS_PER_PLANNING_STEP))
            keys = (item_key(stage.name, stage.version, stage.key(item)) for item in items)
            entries = [Entry(key, self._name(item)) for key, item in zip(keys, items, strict=True)]
            return list(zip(items, self._ledger.plan(self._plan, position, entries), strict=True))

    def _can_parse_again(self, planned: Planned) -> bool:
        """Whether a result was made by an older parser from a raw answer that is kept."""
        older = planned.status != "pending" and planned.parser_version < self._parser_version
        return older and self._attempts.raw_answer(planned.item) is not None

    def _keep_batch(self, finished: Finished, sent: dict[int, Sequence[tuple[int, In]]]) -> None:
        """Keep what a batch made, then raise what cut it short."""
        batch = sent.pop(finished.ticket)
        if len(finished.results) > len(batch) or (finished.error is None and len(finished.results) < len(batch)):
            raise RunError(
                f"stage '{self._stage.name}' gave {len(finished.results)} results for {len(batch)} items; "
                f"its process() must give one result or ItemError per item"
            )
        made = [(row, item, result) for (row, item), result in zip(batch, finished.results, strict=False)]
        try:
            self._keep(made)
        finally:
            if finished.error is not None:
                raise finished.error

    def _keep(self, made: Sequence[tuple[int, In, object]]) -> None:
        """Commit results, and count and log failures."""
        try:
            self._commit(made)
        except ValueError:  # a text that no table can hold
            made = [(row, item, _storable(result)) for row, item, result in made]
            self._commit(made)
        self._planned.difference_update(row for row, _, _ in made)
        errors = [(item, result) for _, item, result in made if isinstance(result, ItemError)]
        self._task.advance(len(made) - len(errors), failed=len(errors))
        for item, error in errors:
            name = self._name(item)
            detail = " ".join(error.detail.split())
            _LOG.warning("%s: item '%s' failed (%s): %.300s", self._stage.name, name, error.reason, detail)

    def _name(self, item: In) -> str:
        """What a person calls the item."""
        return paired_text(self._stage.item_id(item))

    def _commit(self, made: Sequence[tuple[int, In, object]]) -> None:
        from_answers = isinstance(self._stage, Call) and not any(isinstance(result, ItemError) for _, _, result in made)
        outcomes = [Outcome(row, result, self._parser_version) for row, _, result in made]
        self._ledger.commit(outcomes, synced=not from_answers)  # the raw answers are on disk already


def _storable(result: object) -> object:
    """The result, or an error if it holds half a surrogate pair, which neither UTF-8 nor a table can hold."""
    if isinstance(result, ItemError):
        return replace(result, reason=paired_text(result.reason), detail=paired_text(result.detail))
    try:
        encode(result)
    except ValueError as error:
        return ItemError("bad_text", f"the result cannot be kept: {one_line(str(error))}", retryable=False)
    return result


def _batched(items: Iterator[In], size: int) -> Iterator[list[In]]:
    while batch := list(islice(items, size)):
        yield batch


class LocalEngine:
    """Runs every batch in the calling process, when it is asked for."""

    @contextmanager
    def open(self, stage: Stage[Any, Any]) -> Iterator["LocalWorkers"]:
        """Set the stage up, and close it at the end."""
        stage.setup()
        try:
            yield LocalWorkers(stage)
        finally:
            stage.close()


class LocalWorkers:
    """The one worker of this process."""

    capacity = 1

    def __init__(self, stage: Stage[Any, Any]) -> None:
        self._stage = stage
        self._waiting: list[tuple[int, Sequence[Any]]] = []

    def submit(self, ticket: int, batch: Sequence[Any]) -> None:
        """Keep the batch until `take`."""
        self._waiting.append((ticket, batch))

    def take(self) -> Finished:
        """Work on the oldest batch; what was made before an interruption comes back with it."""
        ticket, batch = self._waiting.pop(0)
        results: list[object | ItemError] = []
        try:
            for result in self._stage.process(batch):
                results.append(result)
        except BaseException as error:  # noqa: BLE001 - handed to the runner, which raises it
            return Finished(ticket, results, error)
        return Finished(ticket, results)


ENGINES = ("local", "processes", "ray")


@contextmanager
def open_engine(name: str, workers: int = 1) -> Iterator[Engine]:
    """The engine called `name`, ended at the end.

    Args:
        name: "local" (this process), "processes" (this machine), or "ray" (this machine or a cluster).
        workers: number of workers a stage; "local" has one.

    Raises:
        ConfigError: an unknown name, or workers where there is one.
    """
    if name == "local":
        if workers != 1:
            raise ConfigError(f"--engine local has 1 worker, found --workers {workers}; use --engine processes or ray")
        yield LocalEngine()
    elif name == "processes":
        from pairsight.engine.processes import ProcessEngine

        with ProcessEngine(workers) as engine:
            yield engine
    elif name == "ray":
        from pairsight.engine.ray import RayEngine

        with RayEngine(workers) as cluster:
            yield cluster
    else:
        raise ConfigError(f"unknown engine '{name}'{did_you_mean(name, ENGINES)}")
