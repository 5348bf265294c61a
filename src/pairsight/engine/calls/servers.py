"""The servers that answer for one endpoint: which of them gets the next call, and what becomes of one that is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from pairsight.engine.calls.answers import TIMES, Listed, find_listed
from pairsight.engine.calls.limits import LONGEST_BACKOFF_S, Clock, Gate
from pairsight.engine.calls.options import CallOptions
from pairsight.errors import EndpointError, did_you_mean, one_line

Lister = Callable[[Gate, int], Awaitable[Sequence[Listed] | None]]
"""Asks a server for its models list, this many times while the connection breaks; None where it gives none."""
_LOG = logging.getLogger("pairsight.engine")


class Servers:
    """All calls to one endpoint and model pass here; each goes to the server that has the fewest under way.

    Concurrency and rates hold for each server. A slow one gets fewer calls, as its calls are under way for longer. A
    call that failed at one server is made again by another; a server that does not answer is tried again after its
    gate's pauses, with one call at a time, and the work ends when none is left.

    Args:
        url: where the endpoint's calls are posted to, as its model's name says.
        options: the servers that answer for it, and their limits.
        clock: time.
    """

    def __init__(self, url: str, options: CallOptions, clock: Clock) -> None:
        self.gates = tuple(Gate(one, options, clock) for one in options.servers_of(url))
        self.is_compared = len(self.gates) == 1
        self._url = url
        self._clock = clock
        self._looked_up: set[Gate] = set()
        self._given_up: dict[Gate, EndpointError] = {}
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def limit(self) -> int:
        """Calls that may be under way now, at all servers together."""
        return sum(gate.limit for gate in self.gates)

    def describe(self) -> str:
        """How many servers there are, and how many of them are away; nothing where there is one."""
        num_away = sum(gate.is_open or gate in self._given_up for gate in self.gates)
        away = f" ({num_away} away)" if num_away else ""
        return f", {len(self.gates)} servers{away}" if len(self.gates) > 1 else ""

    def others(self, failed: Collection[Gate]) -> bool:
        """Whether a server that is not among the failed ones takes calls now."""
        return any(gate.pause_s == 0 for gate in self.gates if gate not in failed)

    async def compare(self, model: str, lister: Lister) -> None:
        """See, before anything is sent, whether the servers agree on what they serve.

        Args:
            model: the model's name.
            lister: asks a server for its models list.

        Raises:
            EndpointError: some list the model, and some do not.
        """
        lists = await asyncio.gather(*(lister(gate, 1) for gate in self.gates))
        given = [(gate, models) for gate, models in zip(self.gates, lists, strict=True) if models is not None]
        having = [(gate, card) for gate, models in given if (card := find_listed(model, models)) is not None]
        lacking = [(gate, models) for gate, models in given if find_listed(model, models) is None]
        if having and lacking:
            gate, models = lacking[0]
            raise EndpointError(
                f"{gate.url} does not list the model '{model}', which {having[0][0].url} lists"
                f"{_known(model, models)}; all servers of an endpoint must serve the same model"
            )
        if len({(card.root, card.max_model_len) for _, card in having}) > 1:
            said = [f"{gate.url}: root {card.root}, max_model_len {card.max_model_len}" for gate, card in having]
            _LOG.warning(
                "the servers differ in what they say of '%s' (%s): make sure that they serve the same weights",
                model, "; ".join(said),
            )  # fmt: skip
        self.is_compared = True

    async def look_up(self, gate: Gate, model: str, lister: Lister) -> None:
        """See, once, whether a server that answers every call with HTTP 500 lists the model: some do so without it.

        Raises:
            EndpointError: it has a list, without the model.
        """
        if gate in self._looked_up:
            return
        self._looked_up.add(gate)
        models = await lister(gate, TIMES)
        if models is not None and find_listed(model, models) is None:
            raise EndpointError(
                f"{gate.url} answers every call with HTTP 500, and its models list does not name '{model}'"
                f"{_known(model, models)}"
            )

    async def enter(self, tokens: int, failed: Collection[Gate] = ()) -> Gate:
        """Wait until one more call may be sent, and take room for it: the gate of the server that it goes to.

        Args:
            tokens: about how many it will use.
            failed: the gates of servers at which this call failed: others come first.
        """
        while True:
            gate = self._next(failed)
            if gate is None:
                await self._change()
            elif await gate.enter(tokens):
                return gate
            else:
                self._tell()

    def leave(self, gate: Gate) -> None:
        """The call is over, whatever came of it."""
        gate.under_way -= 1
        self._tell()

    def answered(self, gate: Gate, estimated_tokens: int, tokens: int | None) -> None:
        """A good answer came."""
        if len(self.gates) > 1 and (gate.is_open or gate in self._given_up):
            _LOG.info("%s answers again", gate.url)
        self._given_up.pop(gate, None)
        gate.answered(estimated_tokens, tokens)
        self._tell()

    def refused(self, gate: Gate, sent_at: float, pause_s: float | None) -> None:
        """A server has too much to do; see `Gate.refused`.

        Raises:
            EndpointError: it is given up, and no other is left.
        """
        try:
            gate.refused(sent_at, pause_s)
        except EndpointError as error:
            self._give_up(gate, error)

    def failed(self, gate: Gate, sent_at: float, detail: str) -> None:
        """A server is broken or away; see `Gate.failed`.

        Raises:
            EndpointError: it is given up, and no other is left.
        """
        was_open = gate.is_open
        try:
            gate.failed(sent_at, detail)
        except EndpointError as error:
            self._give_up(gate, error)
        else:
            if gate.is_open and not was_open and len(self.gates) > 1:
                _LOG.warning("%s does not answer (%s): its calls go to the other servers", gate.url, detail)

    def ended(self, gate: Gate, error: EndpointError) -> None:
        """A server said what no repetition changes: another server may go on for one that answered well before.

        Raises:
            EndpointError: it never did, or no other is left.
        """
        if not gate.ever_answered or len(self.gates) == 1:
            raise error
        gate.pause(LONGEST_BACKOFF_S)
        self._give_up(gate, error)

    def _give_up(self, gate: Gate, error: EndpointError) -> None:
        """Go on without a server, which is still tried after its pauses."""
        is_news = gate not in self._given_up
        self._given_up[gate] = error
        if len(self._given_up) == len(self.gates):
            if len(self.gates) == 1:
                raise error
            said = "; ".join(str(one) for one in self._given_up.values())
            raise EndpointError(f"none of the {len(self.gates)} servers of {self._url} can be used: {said}")
        if is_news:
            _LOG.warning("%s; the other servers go on, and it is tried again in %.0f s", error, gate.pause_s)

    def _next(self, failed: Collection[Gate]) -> Gate | None:
        """The server for the next call: of those with room the one with the fewest calls, the first of several."""
        awake = [gate for gate in self.gates if gate.pause_s == 0]
        wanted = [gate for gate in awake if gate not in failed] or awake
        return min(
            (gate for gate in wanted if gate.under_way < gate.limit), key=lambda gate: gate.under_way, default=None
        )

    async def _change(self) -> None:
        """Wait until a call is over, an answer came or a pause ends."""
        pauses = [gate.pause_s for gate in self.gates if gate.pause_s > 0]
        if len(pauses) == len(self.gates):
            await self._clock.sleep(min(pauses))
            return
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(told)
        if not pauses:
            await told
            return
        slept = asyncio.ensure_future(self._clock.sleep(min(pauses)))
        try:
            await asyncio.wait({told, slept}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            slept.cancel()

    def _tell(self) -> None:
        """Wake all who wait for a change."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


def _known(model: str, models: Sequence[Listed]) -> str:
    return one_line(did_you_mean(model, [one.name for one in models]), 500) if models else "; the list is empty"
