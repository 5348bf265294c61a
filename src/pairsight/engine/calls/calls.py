"""Paid calls: attempts, limits, retries and budgets, all here and nowhere else. Nothing is bought twice.

One asyncio loop in the driver, so that limits are global. Per call: the attempt's row is committed, the request sent,
the raw answer committed, and only then parsed. A call that was sent and not answered is kept as of unknown outcome.
"""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import httpx

from pairsight.engine.calls.answers import (
    Verdict,
    finish_reason_of,
    is_nested_deeper,
    is_replaced,
    judge_answer,
    listed_models,
    usage_of,
)
from pairsight.engine.calls.first_answers import FirstAnswers
from pairsight.engine.calls.limits import FIRST_CONCURRENCY, LONGEST_BACKOFF_S, Budget, Clock, Gate, RealClock
from pairsight.engine.calls.options import ApiKeys, CallOptions
from pairsight.engine.calls.receive import ACCEPTED, Received, UnusableAnswerError, open_client, receive
from pairsight.engine.calls.servers import Lister, Servers
from pairsight.engine.stage import Call, Request
from pairsight.errors import BudgetError, DataError, EndpointError, one_line
from pairsight.records import ItemError
from pairsight.store.attempts import REPLACED_TEXT, Attempts, Usage

In = TypeVar("In")
Keep = Callable[[int, Any, object], None]
GRACE_S = 10.0
"""How long answers under way are waited for after Ctrl-C; a second Ctrl-C waits no longer."""
ECHOED_KEY = (
    "sent the key back in an answer, which is not kept (what it used is counted); no more calls are sent there: see "
    "whether it is the service that you mean, then run the same command again"
)
_LOG = logging.getLogger("pairsight.engine")


class Caller:
    """Sends calls. One for a run, as budgets and limits hold for all its stages.

    Args:
        options: rates, patience, money.
        clock: time, for limits and pauses.
        transport: what carries HTTP; httpx's own when left out.
    """

    def __init__(
        self,
        options: CallOptions | None = None,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.options = options or CallOptions()
        self.api_keys = ApiKeys(self.options)
        self._clock = clock or RealClock()
        self._transport = transport
        self._servers: dict[tuple[str, str], Servers] = {}

    def servers(self, url: str, model: str) -> Servers:
        """The servers that answer for an endpoint and model."""
        if (url, model) not in self._servers:
            self._servers[url, model] = Servers(url, self.options, self._clock)
        return self._servers[url, model]

    def work(
        self,
        call: Call[In, Any],
        items: Iterator[tuple[int, In]],
        attempts: Attempts,
        keep: Keep,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Get the result of every item and hand it to `keep`, as answers come.

        Args:
            call: builds requests, and parses raw answers.
            items: (ledger row, item), read as there is room for more calls.
            attempts: where calls are kept.
            keep: takes (ledger row, item, result) and commits it; what it raises ends the work.
            note: takes a short remark on what is spent, for people who watch.

        Raises:
            EndpointError: the endpoint refuses the key, the model or all calls, or is away for long.
            BudgetError: the next call could go beyond the budget.
        """
        work = CallRun(self, call, attempts, keep=keep, note=note, clock=self._clock)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(work.run(items, self._transport))
        else:
            _in_thread(work.run(items, self._transport))


class CallRun:
    """One `Call` at work on its items."""

    def __init__(
        self,
        caller: Caller,
        call: Call[Any, Any],
        attempts: Attempts,
        *,
        keep: Keep,
        note: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._caller = caller
        self._options = caller.options
        self._api_keys = caller.api_keys
        self._call = call
        self._attempts = attempts
        self._budget = Budget(caller.options, attempts)
        self._keep = keep
        self._note = note
        self._clock = clock
        self._servers: set[Servers] = set()
        self._comparing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._first = FirstAnswers()
        self._settled = asyncio.Event()
        self._stopping = False

    async def run(self, items: Iterator[tuple[int, Any]], transport: httpx.AsyncBaseTransport | None) -> None:
        """Keep as many calls under way as the gates allow, until there are no items or something ends the work."""
        with self._api_keys.hidden_in_logs():
            async with open_client(transport) as client:
                try:
                    await self._all(client, items)
                except BaseException as error:
                    await self._finish(error)
                    raise

    async def _all(self, client: httpx.AsyncClient, items: Iterator[tuple[int, Any]]) -> None:
        more = True
        while more or self._tasks:
            while more and len(self._tasks) < self._room():
                pair = next(items, None)
                more = pair is not None
                if pair is not None:
                    self._tasks.add(asyncio.create_task(self._one(client, *pair)))
            if self._tasks:
                done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                errors = [error for task in done if (error := task.exception()) is not None]
                if errors:
                    raise errors[0]

    def _room(self) -> int:
        at_first = min(FIRST_CONCURRENCY, self._options.max_concurrency)
        return max((servers.limit for servers in self._servers), default=at_first)

    async def _finish(self, error: BaseException) -> None:
        """Send nothing more, but wait for the answers that are already paid for."""
        self._stopping = True
        for task in self._tasks - self._sending:
            task.cancel()
        under_way = self._tasks & self._sending
        if under_way:
            _LOG.info("finishing %d calls under way", len(under_way))
            stopped_by_user = isinstance(error, asyncio.CancelledError)
            await asyncio.wait(under_way, timeout=GRACE_S if stopped_by_user else self._options.timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, client: httpx.AsyncClient, row: int, item: Any) -> None:
        """One item: a kept answer is parsed for free; else the call is sent until it is answered or given up."""
        kept = self._attempts.raw_answer(row)
        if kept is not None:
            result = self._parse(item, kept)
            self._first.kept(result)
            self._keep(row, item, result)
            return
        try:
            request = await asyncio.to_thread(self._call.request, item)
        except DataError as error:
            self._keep(row, item, ItemError(error.reason, str(error), retryable=False))
            return
        servers = await self._servers_for(client, request)
        num_failures, failed = 0, set[Gate]()
        while not self._stopping:
            verdict, raw, gate = await self._attempt(client, row, request, servers, failed)
            if verdict.kind == "answer":
                result = self._parse(item, raw)
                self._keep(row, item, result)
                self._first.read(gate.url, result)
                return
            if verdict.kind == "refused":
                self._keep(row, item, ItemError(verdict.reason, verdict.detail, retryable=False))
                self._first.refused(gate.url, verdict.detail)
                return
            if verdict.kind == "unusable":
                result = ItemError(verdict.reason, verdict.detail)
                self._keep(row, item, result)
                self._first.read(gate.url, result)
                return
            if verdict.kind == "broken":
                failed.add(gate)
                # where others may answer, a server that was never reached does not count as an attempt
                num_failures += verdict.reason != "unreachable" or len(servers.gates) == 1
                if num_failures >= self._options.max_attempts:
                    self._keep(row, item, ItemError(verdict.reason, f"{verdict.detail} ({num_failures} times)"))
                    return
                if not servers.others(failed):
                    await self._clock.sleep(min(LONGEST_BACKOFF_S, 2.0**num_failures) * random.uniform(0.5, 1.0))

    def _parse(self, item: Any, raw: str) -> object:
        """What is read in a raw answer; of one nested too deeply nothing is."""
        most = self._options.max_answer_nesting
        if is_nested_deeper(raw, most):
            return ItemError("too_nested", f"the answer's JSON is nested deeper than max_answer_nesting ({most})")
        return self._call.parse(item, raw)

    async def _servers_for(self, client: httpx.AsyncClient, request: Request) -> Servers:
        """The servers of a request's endpoint; where there are several, nothing is bought before they are compared."""
        servers = self._caller.servers(request.url, request.model)
        self._servers.add(servers)
        async with self._comparing:
            if not servers.is_compared:
                for gate in servers.gates:
                    self._api_keys.headers(gate.url)  # what is wrong with any key is said before anything is sent
                await servers.compare(request.model, self._lister(client))
        return servers

    def _lister(self, client: httpx.AsyncClient) -> Lister:
        """What asks a server for its models list."""
        keys = self._api_keys
        return lambda gate, times: listed_models(client, gate.url, keys.headers(gate.url), keys.hide, times)

    async def _attempt(
        self, client: httpx.AsyncClient, row: int, request: Request, servers: Servers, failed: Collection[Gate]
    ) -> tuple[Verdict, str, Gate]:
        """Send a call once; returns what is to be done, the raw answer, and the gate of the server that was asked."""
        price = self._options.price_of(request.model)
        cost = price.cost(request.prompt_tokens, request.completion_tokens) if price else None
        tokens = request.prompt_tokens + request.completion_tokens
        gate = await servers.enter(tokens, failed)
        try:
            key = self._api_keys.headers(gate.url)
            await self._reserve(cost)
            attempt = self._attempts.begin(row, gate.url, request.model, tokens, cost)
            sent_at = self._clock.now()
            verdict, raw, usage = await self._send(client, replace(request, url=gate.url), key, attempt, cost)
            used = None if usage.prompt_tokens is None else usage.prompt_tokens + (usage.completion_tokens or 0)
            if verdict.kind == "answer":
                self._first.came()
                servers.answered(gate, tokens, used)
                self._tell(servers)
            elif verdict.kind == "busy":
                servers.refused(gate, sent_at, verdict.pause_s)
                self._tell(servers, verdict.reason)
            elif verdict.kind == "broken":
                servers.failed(gate, sent_at, verdict.detail)
                self._tell(servers, verdict.reason)
                if gate.in_doubt and verdict.reason == "http_500":
                    await servers.look_up(gate, request.model, self._lister(client))
            elif verdict.kind == "fatal":
                error = self._fatal(gate.url, request.model, verdict)
                if verdict.reason == "echoed_key":
                    raise error
                servers.ended(gate, error)
                verdict = replace(verdict, kind="broken")
        finally:
            servers.leave(gate)
        return verdict, raw, gate

    def _tell(self, servers: Servers, trouble: str = "") -> None:
        """Say what is spent, and what is being waited for."""
        costs = f", cost {self._budget.cost:.4f}" if self._options.prices else ""
        trouble = f", last: {trouble}" if trouble else ""
        self._note(f"{self._budget.calls} calls{costs}{servers.describe()}{trouble}")

    async def _reserve(self, cost: float | None) -> None:
        """Count a call against the budget; where calls under way may cost less than feared, wait for them first."""
        while True:
            try:
                return self._budget.reserve(cost)
            except BudgetError:
                if not self._sending:
                    raise
            self._settled.clear()
            await self._settled.wait()

    async def _send(
        self, client: httpx.AsyncClient, request: Request, key: Mapping[str, str], attempt: int, cost: float | None
    ) -> tuple[Verdict, str, Usage]:
        """Post a request and keep whatever comes back before anything else is done with it."""
        task = asyncio.current_task()
        body = json.dumps(request.body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        headers = {"Content-Type": "application/json", **ACCEPTED, **key}
        assert task is not None
        self._sending.add(task)
        try:
            async with asyncio.timeout(self._options.timeout_s):
                post = client.build_request("POST", request.url, content=body, headers=headers)
                received = await receive(client, post, self._options.max_answer_bytes, self._api_keys.hide)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            detail = f"cannot be reached: {self._said(error)}"
            self._attempts.refused(attempt, None, detail)
            self._budget.settle(cost, 0.0)
            return Verdict("broken", "unreachable", detail), "", Usage()
        except UnusableAnswerError as error:
            detail = self._said(error)
            self._attempts.lost(attempt, detail)
            return Verdict("unusable", error.reason, detail), "", Usage()
        except (TimeoutError, httpx.HTTPError) as error:
            late = isinstance(error, TimeoutError | httpx.TimeoutException)
            detail = f"no answer in {self._options.timeout_s:g} s" if late else f"connection lost: {self._said(error)}"
            self._attempts.lost(attempt, detail)
            return Verdict("broken", "timeout" if late else "disconnected", detail), "", Usage()
        finally:
            self._sending.discard(task)
            self._settled.set()
        return self._received(received, attempt, request.model, cost)

    def _received(self, received: Received, attempt: int, model: str, cost: float | None) -> tuple[Verdict, str, Usage]:
        """Keep an answer that came: its body as it is, or, of an error, what it says with keys masked."""
        status, text = received.status, received.text
        usage = usage_of(text, self._options.price_of(model))
        holds_key = self._api_keys.are_in(text)
        verdict = judge_answer(status, received.headers, self._api_keys.hide(text) if holds_key else text)
        verdict = replace(verdict, detail=self._api_keys.hide(verdict.detail))
        if verdict.kind != "answer":
            self._attempts.refused(attempt, status, verdict.detail)
            self._budget.settle(cost, 0.0)
            return verdict, "", usage
        if holds_key:
            self._attempts.echoed_key(attempt, status, usage, "the answer held the key and is not kept")
            verdict, text = Verdict("fatal", "echoed_key", ECHOED_KEY), ""
        else:
            mark = REPLACED_TEXT if is_replaced(received.raw, text) else ""
            self._attempts.answered(attempt, received.raw, status, finish_reason_of(text), usage, mark=mark)
        self._budget.settle(cost, usage.cost)
        return verdict, text, usage

    def _said(self, error: BaseException) -> str:
        """An error's message, masked, on one line; its name when it has none."""
        return one_line(self._api_keys.hide(str(error))) or type(error).__name__

    def _fatal(self, url: str, model: str, verdict: Verdict) -> EndpointError:
        hint = f"; {self._api_keys.hint(url)}" if verdict.reason == "http_401" else ""
        return EndpointError(f"{url} (model {model}) {verdict.detail}{hint}")


def _in_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a thread of its own and wait, as in a notebook, whose own loop is busy with the cell."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def main() -> None:
        task = asyncio.ensure_future(work)
        started.set_result((asyncio.get_running_loop(), task))
        await task

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(asyncio.run, main())
        try:
            ended.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
            with suppress(CancelledError):
                ended.result()
            raise
