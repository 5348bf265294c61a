"""What is allowed: the gate before one server (calls at once, pauses, a circuit breaker), rates, and the budget."""

import asyncio
import time
from typing import Protocol

from pairsight.engine.calls.options import CallOptions
from pairsight.errors import BudgetError, EndpointError
from pairsight.store.attempts import Attempts


class Clock(Protocol):
    """Seconds that only go forward, and waiting for them."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class RealClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


BURST_S = 5.0
"""A bucket holds what is allowed in this many seconds (ours: a minute's worth at once would meet the limit twice)."""


class TokenBucket:
    """At most `per_minute` units a minute, whoever asks first served first.

    Args:
        per_minute: units allowed in a minute; None for no limit.
        clock: time.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._rate = None if per_minute is None else per_minute / 60.0
        self._clock = clock
        self._capacity = max(1.0, (self._rate or 0.0) * BURST_S)
        self._level = self._capacity
        self._filled_at = clock.now()

    async def take(self, units: float) -> None:
        """Take `units`, waiting until they are there. More than the bucket holds is allowed, and waited for after."""
        if self._rate is None:
            return
        self._fill()
        self._level -= units
        missing = min(units, self._capacity) - units - self._level
        if missing > 0:
            await self._clock.sleep(missing / self._rate)

    def give_back(self, units: float) -> None:
        """Return what was taken and not used; negative when more was used."""
        if self._rate is not None:
            self._fill()
            self._level = min(self._capacity, self._level + units)

    def _fill(self) -> None:
        now = self._clock.now()
        self._level = min(self._capacity, self._level + (now - self._filled_at) * (self._rate or 0.0))
        self._filled_at = now


FIRST_CONCURRENCY = 4
FAILURES_TO_OPEN = 5
OPEN_S = (5.0, 15.0, 45.0)
"""How long the circuit stays open each time; one that never answered is given up after the second."""
OPENINGS_AT_THE_START = 2
REFUSALS_TO_GIVE_UP = 20
LONGEST_BACKOFF_S = 60.0
LONGEST_PAUSE_S = 900.0
"""An endpoint that asks for a longer pause has spent a quota of hours: the run ends, to be continued later."""


class Gate:
    """All calls to one server and model pass here.

    Concurrency adapts (ours: additive increase, multiplicative decrease): one more after as many answers as are
    allowed at once, half after a refusal. After 5 failures in a row the circuit opens for 5, 15 and 45 s, with one call
    trying after each; the last of them gives the server up, and so do 20 refusals in a row.

    Args:
        url: where calls are posted to.
        options: limits.
        clock: time.
    """

    def __init__(self, url: str, options: CallOptions, clock: Clock) -> None:
        self.url = url
        self.under_way = 0
        self.ever_answered = False
        self._clock = clock
        self._most = float(options.max_concurrency)
        self._limit = min(float(FIRST_CONCURRENCY), self._most)
        self._requests = TokenBucket(options.requests_per_minute, clock)
        self._tokens = TokenBucket(options.tokens_per_minute, clock)
        self._paused_until = clock.now()
        self._decreased_at = self._opened_at = float("-inf")
        self._refusals = self._failures = self._openings = 0

    @property
    def limit(self) -> int:
        """Calls that may be under way now."""
        return 1 if self._openings else int(self._limit)

    @property
    def pause_s(self) -> float:
        """Seconds until the next call may be sent; 0 when it may be now."""
        return max(0.0, self._paused_until - self._clock.now())

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open, or a call tries whether it can be closed."""
        return self._openings > 0

    @property
    def in_doubt(self) -> bool:
        """Whether the circuit opened before any answer came: it may be the request that is wrong, not the server."""
        return self._openings == 1 and not self.ever_answered

    async def enter(self, tokens: int) -> bool:
        """Take room that is there for a call of about `tokens` tokens, and wait for the rates.

        False, with nothing taken, when the server asked for a pause meanwhile.
        """
        self.under_way += 1
        try:
            await self._requests.take(1)
            await self._tokens.take(tokens)
        except BaseException:
            self.under_way -= 1
            raise
        if self.pause_s == 0:
            return True
        self.under_way -= 1
        self._requests.give_back(1)
        self._tokens.give_back(tokens)
        return False

    def answered(self, estimated_tokens: int, tokens: int | None) -> None:
        """A good answer came: room for more, and unused tokens go back."""
        self._refusals = self._failures = self._openings = 0
        self.ever_answered = True
        self._limit = min(self._most, self._limit + 1.0 / self._limit)
        if tokens is not None:
            self._tokens.give_back(estimated_tokens - tokens)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def refused(self, sent_at: float, pause_s: float | None) -> None:
        """The server has too much to do: fewer calls at once, after a pause.

        Args:
            sent_at: when the refused call was sent; refusals of calls sent before the last one came say nothing new.
            pause_s: seconds it asked to wait; None when it did not say, then twice as long each time.

        Raises:
            EndpointError: it asked for a longer pause than a run should sit out, or refuses all the time.
        """
        if pause_s is not None and pause_s > LONGEST_PAUSE_S:
            self.pause(pause_s)
            raise EndpointError(
                f"{self.url} asks to wait {pause_s / 60:.0f} minutes, its quota is spent; run again after that"
            )
        if self._decrease(sent_at):
            self._refusals += 1
            if self._refusals >= REFUSALS_TO_GIVE_UP:
                self.pause(LONGEST_BACKOFF_S if pause_s is None else pause_s)
                raise EndpointError(
                    f"{self.url} refused {self._refusals} times in a row (too many requests); lower "
                    f"requests_per_minute, or run again later"
                )
        self.pause(min(LONGEST_BACKOFF_S, 2.0 ** (self._refusals - 1)) if pause_s is None else pause_s)

    def failed(self, sent_at: float, detail: str) -> None:
        """The server is broken or away.

        Raises:
            EndpointError: the circuit opened once too often.
        """
        self._decrease(sent_at)
        if sent_at < self._opened_at:
            return
        self._failures += 1
        if self._openings or self._failures >= FAILURES_TO_OPEN:
            self._opened_at = self._clock.now()
            if self._openings >= (len(OPEN_S) if self.ever_answered else OPENINGS_AT_THE_START):
                self.pause(OPEN_S[-1])
                raise EndpointError(
                    f"{self.url} does not answer ({detail}); what was answered is kept, run again when it is back"
                )
            self.pause(OPEN_S[self._openings])
            self._openings += 1

    def _decrease(self, sent_at: float) -> bool:
        if sent_at < self._decreased_at:
            return False
        self._decreased_at = self._clock.now()
        self._limit = max(1.0, self._limit / 2)
        return True


class Budget:
    """What is left, from the ledger at the start and kept up to date in memory."""

    def __init__(self, options: CallOptions, attempts: Attempts) -> None:
        spent = attempts.spent()
        self._options = options
        self.calls = spent.calls
        self.cost = spent.cost

    def reserve(self, cost: float | None) -> None:
        """Count a call that is about to be sent, at its estimated cost.

        Raises:
            BudgetError: it could go beyond the budget; nothing was sent.
        """
        most, budget = self._options.max_calls, self._options.budget
        if most is not None and self.calls >= most:
            raise BudgetError(
                f"all {most} calls of max_calls are made; raise it and run the same command again to continue"
            )
        if budget is not None and self.cost + (cost or 0.0) > budget:
            raise BudgetError(
                f"the next call (about {cost or 0.0:.4f}) could go beyond the budget of {budget:g}, "
                f"{self.cost:.4f} is spent; raise it and run the same command again to continue"
            )
        self.calls += 1
        self.cost += cost or 0.0

    def settle(self, estimated: float | None, actual: float | None) -> None:
        """Replace a call's estimate by what it cost; unknown costs stay as estimated."""
        if actual is not None:
            self.cost += actual - (estimated or 0.0)
