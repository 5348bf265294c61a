"""Paid calls: what is bought, kept, repeated and refused. The server is a function, time is ours."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fake_clock import InstantClock
from fault_server import answer, last_text
from pairsight.engine.calls.calls import Caller
from pairsight.engine.calls.options import CallOptions
from pairsight.engine.runner import Runner
from pairsight.engine.stage import Call, Request
from pairsight.errors import BudgetError, DataError, EndpointError, PairsightError
from pairsight.records import ImageRef, ItemError
from pairsight.store.attempts import Attempts
from pairsight.store.ledger import Ledger

URL = "http://127.0.0.1:9/v1/chat/completions"
PRICES = {"m": {"prompt": 1e6, "completion": 1e6}}
"""A token costs 1; an answer of the fake server 15, a request is estimated at 20."""


@dataclass(frozen=True)
class Shout(Call[str, ImageRef]):
    """Asks for a word, and shouts the answer; 'broken' has no image, 'odd' cannot be parsed by the first parser."""

    parser_version: int = 1
    name: str = "shout"
    version: int = 1
    output: type[ImageRef] = ImageRef

    def key(self, item: str) -> dict[str, str]:
        return {"word": item}

    def item_id(self, item: str) -> str:
        return item

    def request(self, item: str) -> Request:
        if item == "broken":
            raise DataError("no image", reason="missing_image")
        return Request(URL, {"model": "m", "messages": [{"role": "user", "content": item}]}, 10, 10)

    def parse(self, item: str, raw: str) -> ImageRef | ItemError:
        if item == "odd" and self.parser_version == 1:
            return ItemError("unparsed")
        return ImageRef(json.loads(raw)["choices"][0]["message"]["content"].upper())


Respond = Callable[[str, int], httpx.Response]


class Server:
    """A function as a server: (word, how often it was asked before) -> response."""

    def __init__(self, respond: Respond | None = None) -> None:
        self.respond = respond or well
        self.asked: Counter[str] = Counter()
        self.keys: list[str | None] = []
        self.models: list[str] | None = None
        self.num_lists = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            self.num_lists += 1
            listed = {"object": "list", "data": [{"id": name} for name in self.models or ()]}
            body = httpx.ByteStream(json.dumps(listed).encode())
            return httpx.Response(404 if self.models is None else 200, stream=body)
        word = last_text(json.loads(request.content))
        self.asked[word] += 1
        self.keys.append(request.headers.get("Authorization"))
        await asyncio.sleep(0)
        said = self.respond(word, self.asked[word] - 1)
        return httpx.Response(said.status_code, headers=said.headers, stream=httpx.ByteStream(said.content))


def well(word: str, before: int) -> httpx.Response:
    return httpx.Response(200, json=answer(f"{word}!"))


def run(
    path: Path,
    server: Server,
    words: Sequence[str],
    call: Shout | None = None,
    **options: object,
) -> list[str]:
    caller = Caller(CallOptions.parse(options), InstantClock(), httpx.MockTransport(server))
    with Ledger(path / "ledger.sqlite") as ledger:
        results = Runner(ledger, caller=caller)(call or Shout(), words)
        return [r.reason if isinstance(r, ItemError) else r.sha256 for r in results]


def outcomes(path: Path) -> dict[str, int]:
    with Ledger(path / "ledger.sqlite", read_only=True) as ledger:
        return dict(ledger.read("SELECT outcome, count(*) FROM attempts GROUP BY outcome", ()))


WORDS = [f"w{i}" for i in range(30)]


def test_each_item_is_bought_once_and_never_again(tmp_path: Path) -> None:
    server = Server()
    assert run(tmp_path, server, WORDS) == [f"{word.upper()}!" for word in WORDS]
    assert run(tmp_path, server, WORDS) == [f"{word.upper()}!" for word in WORDS]
    assert set(server.asked.values()) == {1}
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        spent = Attempts(ledger).spent("shout")
    assert (spent.calls, spent.prompt_tokens, spent.completion_tokens, spent.unknown_outcomes) == (30, 300, 150, 0)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 408])
def test_passing_faults_are_repeated_until_answered(tmp_path: Path, status: int) -> None:
    def respond(word: str, before: int) -> httpx.Response:
        return httpx.Response(status, headers={"Retry-After": "2"}) if before < 2 else well(word, before)

    server = Server(respond)
    assert run(tmp_path, server, WORDS[:4]) == [f"{word.upper()}!" for word in WORDS[:4]]
    assert outcomes(tmp_path) == {"refused": 8, "answered": 4}


def test_an_item_that_always_fails_is_given_up_and_the_others_are_not(tmp_path: Path) -> None:
    def respond(word: str, before: int) -> httpx.Response:
        return httpx.Response(500, json={"error": {"message": "boom"}}) if word == "w3" else well(word, before)

    server = Server(respond)
    texts = run(tmp_path, server, WORDS, max_attempts=3)
    assert texts[3] == "http_500"
    assert (texts.count("http_500"), server.asked["w3"]) == (1, 3)


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (httpx.Response(401, json={"error": {"message": "bad key"}}), "refuses the key .*PAIRSIGHT_API_KEY"),
        (httpx.Response(404, json={"error": {"message": "no model m"}}), r"does not know this model or .*no model m"),
        (httpx.Response(200, html="<html>hello</html>"), "answers HTML, not JSON"),
        (httpx.Response(302, headers={"Location": "https://x"}), r"points elsewhere \(https://x\)"),
        (httpx.Response(429, json={"error": {"code": "insufficient_quota", "message": "q"}}), "quota is spent"),
        (httpx.Response(429, headers={"Retry-After": "86400"}), "asks to wait 1440 minutes"),
    ],
)
def test_what_cannot_get_better_ends_the_run_at_once_and_leaves_it_to_go_on(
    tmp_path: Path, response: httpx.Response, says: str
) -> None:
    server = Server(lambda word, before: response)
    with pytest.raises(EndpointError, match=says) as error:
        run(tmp_path, server, WORDS)
    assert "\n" not in str(error.value)
    assert server.asked.total() <= 4
    assert len(run(tmp_path, Server(), WORDS)) == 30


def test_a_server_that_is_away_ends_the_run_after_some_patience(tmp_path: Path) -> None:
    def away(word: str, before: int) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(EndpointError, match=r"does not answer .*connection refused"):
        run(tmp_path, Server(away), WORDS)
    assert set(outcomes(tmp_path)) == {"refused"}
    assert len(run(tmp_path, Server(), WORDS)) == 30


def test_refused_items_are_failures_of_their_own(tmp_path: Path) -> None:
    def respond(word: str, before: int) -> httpx.Response:
        if word == "w1":
            return httpx.Response(400, json={"error": {"message": "image too small"}})
        if word == "w2":
            return httpx.Response(400, json={"error": {"code": "content_filter", "message": "no"}})
        return well(word, before)

    server = Server(respond)
    assert run(tmp_path, server, [*WORDS[:4], "broken"]) == ["W0!", "refused", "content_filter", "W3!", "missing_image"]
    assert server.asked == {"w0": 1, "w1": 1, "w2": 1, "w3": 1}


def test_when_all_items_are_refused_it_is_the_request_that_is_wrong(tmp_path: Path) -> None:
    server = Server(lambda word, before: httpx.Response(400, json={"error": {"message": "unknown option top_k"}}))
    with pytest.raises(EndpointError, match=r"refused the first 5 items \(unknown option top_k\); correct the request"):
        run(tmp_path, server, WORDS)
    assert server.asked.total() < 10


def test_a_better_parser_reads_kept_answers_for_free(tmp_path: Path) -> None:
    server = Server()
    assert run(tmp_path, server, ["a", "odd"]) == ["A!", "unparsed"]
    assert run(tmp_path, server, ["a", "odd"]) == ["A!", "unparsed"]
    assert run(tmp_path, server, ["a", "odd"], Shout(parser_version=2)) == ["A!", "ODD!"]
    assert server.asked == {"a": 1, "odd": 1}


def test_retry_asks_again_and_keeps_the_old_answer(tmp_path: Path) -> None:
    server = Server()
    run(tmp_path, server, ["a", "odd"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.retry(reason="unparsed") == 1
    run(tmp_path, server, ["a", "odd"])
    assert server.asked == {"a": 1, "odd": 2}
    assert outcomes(tmp_path) == {"answered": 2, "set_aside": 1}


def test_an_answer_kept_before_a_crash_is_parsed_and_not_bought_again(tmp_path: Path) -> None:
    server = Server()
    run(tmp_path, server, ["a"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger, ledger.transaction() as db:
        db.execute("DELETE FROM results")
        db.execute("DELETE FROM payloads")
    assert run(tmp_path, server, ["a"]) == ["A!"]
    assert server.asked == {"a": 1}


def test_a_budget_of_money_stops_cleanly_and_goes_on_when_raised(tmp_path: Path) -> None:
    server = Server()
    with pytest.raises(BudgetError, match="could go beyond the budget of 100"):
        run(tmp_path, server, WORDS, budget=100, prices=PRICES)
    bought = server.asked.total()
    assert bought == 6  # 90 spent, and another could cost 20
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert Attempts(ledger).spent().cost == bought * 15
        assert ledger.counts(1)["done", ""] == bought
    with pytest.raises(BudgetError):
        run(tmp_path, server, WORDS, budget=100, prices=PRICES)
    assert server.asked.total() == bought
    assert len(run(tmp_path, server, WORDS, budget=455, prices=PRICES)) == 30
    assert set(server.asked.values()) == {1}


def test_a_zero_budget_sends_nothing(tmp_path: Path) -> None:
    server = Server()
    for options in ({"budget": 0, "prices": PRICES}, {"max_calls": 0}):
        with pytest.raises(BudgetError):
            run(tmp_path, server, WORDS, **options)
    assert server.asked.total() == 0


def test_a_number_of_calls_is_kept_to_repeated_ones_included(tmp_path: Path) -> None:
    server = Server(lambda word, before: httpx.Response(500) if before == 0 else well(word, before))
    with pytest.raises(BudgetError, match="all 7 calls"):
        run(tmp_path, server, WORDS, max_calls=7)
    assert server.asked.total() == 7


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["n", "m2"], r"answers every call with HTTP 500, and its models list does not name 'm'; did you mean 'm2'\?"),
        ([], "does not name 'm'; the list is empty"),
        (["models/m"], "does not answer"),
        (None, "does not answer"),
    ],
)
def test_an_endpoint_that_only_fails_is_asked_whether_it_has_the_model(
    tmp_path: Path, models: list[str] | None, message: str
) -> None:
    server = Server(lambda word, before: httpx.Response(500))
    server.models = models
    with pytest.raises(EndpointError, match=message) as error:
        run(tmp_path, server, WORDS)
    assert "\n" not in str(error.value)
    assert server.num_lists == 1
    server.respond = well
    assert run(tmp_path, server, WORDS) == [f"{word.upper()}!" for word in WORDS]


@dataclass(frozen=True)
class Unreadable(Shout):
    """Makes nothing of any answer but one."""

    readable: str = ""

    def parse(self, item: str, raw: str) -> ImageRef | ItemError:
        return ImageRef(item) if item == self.readable else ItemError("unparsed", "no\nscores")


def test_when_no_answer_can_be_read_no_more_are_bought(tmp_path: Path) -> None:
    server, many = Server(), [f"w{i}" for i in range(60)]
    with pytest.raises(
        EndpointError, match=r"none of 20 answers of .* could be used \(unparsed: no scores\); they are"
    ):
        run(tmp_path, server, many, Unreadable())
    bought = server.asked.total()
    assert 20 <= bought < 40
    assert run(tmp_path, server, many, Unreadable(parser_version=2, readable="w1")).count("w1") == 1
    assert server.asked.total() == 60  # those that were kept are read again, for free


def test_the_key_is_sent_and_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRSIGHT_API_KEY", "top-secret")
    server = Server()
    run(tmp_path, server, ["a"])
    assert server.keys == ["Bearer top-secret"]
    server.respond = lambda word, before: httpx.Response(401, json={"error": {"message": "top-secret is no key"}})
    with pytest.raises(EndpointError) as error:
        run(tmp_path, server, ["b"])
    assert "top-secret" not in str(error.value)
    assert b"top-secret" not in (tmp_path / "ledger.sqlite").read_bytes()


def test_a_lost_connection_is_an_unknown_outcome_and_listed(tmp_path: Path) -> None:
    def respond(word: str, before: int) -> httpx.Response:
        if before == 0:
            raise httpx.ReadError("reset by peer")
        return well(word, before)

    run(tmp_path, Server(respond), ["a"], budget=100, prices=PRICES)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        (unknown,) = Attempts(ledger).unknown_outcomes()
        spent = Attempts(ledger).spent()
    assert (unknown.item, unknown.estimated_cost) == ("a", 20.0)
    assert "reset by peer" in unknown.detail
    assert (spent.cost, spent.unknown_cost) == (35.0, 20.0)


def test_items_that_cannot_be_read_end_the_run_after_the_calls_under_way(tmp_path: Path) -> None:
    def words() -> object:
        yield from WORDS[:3]
        raise DataError("prompts.json line 4: no question")

    server = Server()
    with pytest.raises(DataError, match="line 4"):
        run(tmp_path, server, words())  # type: ignore[arg-type]


def test_calls_work_inside_a_running_loop_as_in_a_notebook(tmp_path: Path) -> None:
    async def cell() -> list[str]:
        return run(tmp_path, Server(), WORDS[:3])

    assert asyncio.run(cell()) == ["W0!", "W1!", "W2!"]


def test_all_errors_are_ours() -> None:
    assert issubclass(EndpointError, PairsightError)
    assert issubclass(BudgetError, PairsightError)
