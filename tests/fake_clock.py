"""A clock for tests: time passes only when everything waits, and then at once."""

import asyncio
import heapq
from collections.abc import Awaitable
from itertools import count
from typing import TypeVar

T = TypeVar("T")


class FakeClock:
    """Seconds since the test began; `run` lets them pass."""

    def __init__(self) -> None:
        self.time = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + max(0.0, seconds), next(self._order), future))
        await future

    async def drive(self) -> None:
        """Wake the next sleeper whenever nothing else has happened for a few turns of the loop."""
        while True:
            for _ in range(50):
                await asyncio.sleep(0)
            if self._sleepers:
                when, _, future = heapq.heappop(self._sleepers)
                if not future.done():  # nobody waits for what was cancelled
                    self.time = max(self.time, when)
                    future.set_result(None)

    def run(self, work: Awaitable[T]) -> T:
        """The result of `work`, with time passing."""

        async def main() -> T:
            driver = asyncio.ensure_future(self.drive())
            try:
                return await work
            finally:
                driver.cancel()

        return asyncio.run(main())


class InstantClock(FakeClock):
    """A clock on which every wait is over at once, and counted."""

    async def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)
        await asyncio.sleep(0)
