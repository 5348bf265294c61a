"""When the first answers show that the request, or one server, is wrong: then no more are bought."""

from collections import Counter

from pairsight.engine.calls.receive import NOT_HELD
from pairsight.errors import EndpointError, one_line
from pairsight.records import ItemError

REFUSALS_TO_STOP = 5
"""When this many first items are all refused, the request is wrong, not the items."""
UNUSABLE_TO_STOP = 20
"""When this many answers came and none could be read, no more are bought; nor of one server of several, when as many of
the others' could be read."""


class FirstAnswers:
    """The answers of one stage's calls, by the URL of the server that gave them."""

    def __init__(self) -> None:
        self._num_answers = self._num_refusals = 0
        self._usable: Counter[str] = Counter()
        self._unusable: Counter[str] = Counter()

    def kept(self, result: object) -> None:
        """An answer that an earlier start kept was read."""
        self._usable[""] += not isinstance(result, ItemError)

    def came(self) -> None:
        """An answer came that is not a refusal."""
        self._num_answers += 1

    def refused(self, url: str, detail: str) -> None:
        """A server refused an item.

        Raises:
            EndpointError: it is the request that is wrong.
        """
        self._num_refusals += 1
        if self._num_answers == 0 and self._num_refusals >= REFUSALS_TO_STOP:
            raise EndpointError(
                f"{url} refused the first {REFUSALS_TO_STOP} items ({detail}); correct the request "
                f"(model, options), then `pairsight retry RUN`"
            )

    def read(self, url: str, result: object) -> None:
        """An answer was read; `result` is what was made of it.

        Raises:
            EndpointError: none could be used, or none of this server's.
        """
        if not isinstance(result, ItemError):
            self._usable[url] += 1
            return
        self._unusable[url] += 1
        because = one_line(f"{result.reason}: {result.detail}", 200)
        kept = "" if result.reason in NOT_HELD else "they are kept: "
        if self._usable.total() == 0 and self._unusable.total() == UNUSABLE_TO_STOP:
            raise EndpointError(
                f"none of {UNUSABLE_TO_STOP} answers of {url} could be used ({because}); "
                f"{kept}see what it says, correct the model or its options, then `pairsight retry RUN`"
            )
        others = self._usable.total() - self._usable[""]
        if self._usable[url] == 0 and self._unusable[url] >= UNUSABLE_TO_STOP <= others:
            raise EndpointError(
                f"none of {self._unusable[url]} answers of {url} could be used ({because}), of other servers {others}; "
                f"{kept}correct that server or leave it out of calls.servers, then `pairsight retry RUN`"
            )
