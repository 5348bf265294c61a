"""Rates, gates and budgets of calls, on a clock of our own."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_clock import FakeClock
from pairsight.engine.calls.limits import (
    BURST_S,
    LONGEST_PAUSE_S,
    OPEN_S,
    REFUSALS_TO_GIVE_UP,
    Budget,
    Gate,
    TokenBucket,
)
from pairsight.engine.calls.options import ApiKeys, CallOptions, Price, key_for
from pairsight.engine.calls.servers import Servers
from pairsight.errors import BudgetError, ConfigError, EndpointError
from pairsight.store.attempts import Attempts, Usage
from pairsight.store.ledger import Entry, Ledger

URL = "http://127.0.0.1:1/v1/chat/completions"


async def take_all(bucket: TokenBucket, sizes: list[float], clock: FakeClock) -> list[float]:
    times = []
    for size in sizes:
        await bucket.take(size)
        times.append(clock.now())
    return times


def test_requests_are_spread_over_the_minute() -> None:
    clock = FakeClock()
    # 12 a minute: one at once (5 s worth), then one every 5 s
    assert clock.run(take_all(TokenBucket(12, clock), [1] * 4, clock)) == pytest.approx([0, 5, 10, 15])


def test_more_than_the_bucket_holds_is_allowed_and_waited_for_after() -> None:
    clock = FakeClock()
    # 60 a minute: the bucket holds 5; 20 units may go at once when it is full, the next waits until they are earned
    assert clock.run(take_all(TokenBucket(60, clock), [20, 5], clock)) == pytest.approx([0, 20])


def test_unused_units_go_back() -> None:
    clock = FakeClock()
    bucket = TokenBucket(60, clock)

    async def work() -> float:
        await bucket.take(20)
        bucket.give_back(15)
        await bucket.take(5)
        return clock.now()

    assert clock.run(work()) == pytest.approx(5)


def test_no_limit_never_waits() -> None:
    clock = FakeClock()
    assert clock.run(take_all(TokenBucket(None, clock), [1e9] * 3, clock)) == [0, 0, 0]


@given(st.floats(1, 1e5), st.lists(st.floats(0.1, 1e4), min_size=1, max_size=20))
def test_no_window_sees_more_than_the_rate_and_a_burst(per_minute: float, sizes: list[float]) -> None:
    clock = FakeClock()
    bucket = TokenBucket(per_minute, clock)
    times = asyncio.run(_virtual(bucket, sizes, clock))
    capacity = max(1.0, per_minute / 60 * BURST_S)
    for i, start in enumerate(times):
        for j in range(i, len(times)):
            earned = (times[j] - start) * per_minute / 60
            # what one window sees: what was earned in it, a full bucket, and the last request's own size
            assert sum(sizes[i:j]) <= earned + capacity + max(sizes[i : j + 1]) + 1e-6


async def _virtual(bucket: TokenBucket, sizes: list[float], clock: FakeClock) -> list[float]:
    async def sleep(seconds: float) -> None:
        clock.time += seconds

    clock.sleep = sleep  # type: ignore[method-assign]
    return await take_all(bucket, sizes, clock)


def gate(clock: FakeClock, **options: object) -> Gate:
    return Gate(URL, CallOptions.parse(options), clock)


def alone(clock: FakeClock, **options: object) -> tuple[Servers, Gate]:
    """A server alone, and its gate."""
    servers = Servers(URL, CallOptions.parse(options), clock)
    return servers, servers.gates[0]


def test_concurrency_grows_with_answers_and_halves_on_refusals() -> None:
    clock = FakeClock()
    at = gate(clock, max_concurrency=6)
    assert at.limit == 4
    for _ in range(4 + 5 + 6 + 7):
        at.answered(0, None)
    assert at.limit == 6
    at.refused(sent_at=0.0, pause_s=1.0)
    assert at.limit == 3
    clock.time = 1.0
    at.refused(sent_at=-1.0, pause_s=1.0)  # sent before the last decrease: no news
    assert at.limit == 3


def test_calls_wait_for_room() -> None:
    clock = FakeClock()
    servers, _ = alone(clock, max_concurrency=2)
    entered: list[tuple[int, float]] = []

    async def call(number: int) -> None:
        at = await servers.enter(0)
        entered.append((number, clock.now()))
        await clock.sleep(10)
        servers.leave(at)

    async def work() -> None:
        await asyncio.gather(*(call(n) for n in range(5)))

    clock.run(work())
    assert entered == [(0, 0), (1, 0), (2, 10), (3, 10), (4, 20)]


def test_a_pause_that_is_asked_for_holds_everyone() -> None:
    clock = FakeClock()
    servers, at = alone(clock)
    at.refused(sent_at=0.0, pause_s=17.0)
    clock.run(servers.enter(0))
    assert clock.now() == 17.0


def test_refusals_without_a_pause_back_off_twice_as_long_each_time_and_end_the_run_at_last() -> None:
    clock = FakeClock()
    servers, at = alone(clock)
    waits = []
    with pytest.raises(EndpointError, match=f"refused {REFUSALS_TO_GIVE_UP} times in a row"):
        while True:
            before = clock.now()
            at.refused(sent_at=before, pause_s=None)
            clock.run(servers.enter(0))
            servers.leave(at)
            waits.append(clock.now() - before)
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_quota_of_hours_ends_the_run() -> None:
    with pytest.raises(EndpointError, match="asks to wait 16 minutes"):
        gate(FakeClock()).refused(sent_at=0.0, pause_s=LONGEST_PAUSE_S + 60)


def test_the_circuit_opens_lets_one_try_closes_on_an_answer_and_gives_up_at_last() -> None:
    clock = FakeClock()
    servers, at = alone(clock)
    for _ in range(5):
        at.failed(clock.now(), "HTTP 500")
    assert at.limit == 1
    clock.run(servers.enter(0))
    assert clock.now() == OPEN_S[0]
    at.answered(0, None)
    servers.leave(at)
    for _ in range(5):
        at.failed(clock.now(), "HTTP 500")
    times = []
    with pytest.raises(EndpointError, match=r"does not answer \(HTTP 500\); what was answered is kept"):
        while True:
            before = clock.now()
            clock.run(servers.enter(0))
            servers.leave(at)
            times.append(clock.now() - before)
            at.failed(clock.now(), "HTTP 500")
    assert times == list(OPEN_S)


def test_an_endpoint_that_never_answered_is_given_up_sooner() -> None:
    clock = FakeClock()
    servers, at = alone(clock)
    with pytest.raises(EndpointError, match="cannot be reached"):
        while True:
            clock.run(servers.enter(0))
            servers.leave(at)
            at.failed(clock.now(), "cannot be reached")
    assert clock.now() == OPEN_S[0] + OPEN_S[1]


def test_old_news_does_not_open_the_circuit_again() -> None:
    clock = FakeClock()
    servers, at = alone(clock)
    clock.time = 10.0
    for _ in range(30):
        at.failed(sent_at=5.0, detail="HTTP 500")
    clock.run(servers.enter(0))
    assert clock.now() == 10.0 + OPEN_S[0]


def test_money_is_reserved_before_and_settled_after(tmp_path: Path) -> None:
    price = Price(prompt=1.0, completion=10.0)
    assert price.cost(1_000_000, 500_000) == 6.0
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        budget = Budget(CallOptions(budget=10.0, prices={"m": price}), Attempts(ledger))
        budget.reserve(6.0)
        with pytest.raises(BudgetError, match=r"about 6\.0000\) could go beyond the budget of 10, 6\.0000 is spent"):
            budget.reserve(6.0)
        budget.settle(6.0, 1.0)
        budget.reserve(6.0)
        budget.settle(6.0, None)
        assert (budget.calls, budget.cost) == (2, 7.0)


def test_what_was_spent_before_counts(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        attempts = Attempts(ledger)
        (item,) = ledger.plan(ledger.open_plan("s", 0, 1), 0, [Entry(b"k", "k")])
        attempts.answered(attempts.begin(item.item, URL, "m", 10, 3.0), b"{}", 200, "stop", Usage(5, 5, 2.0))
        attempts.begin(item.item, URL, "m", 10, 3.0)
        attempts.refused(attempts.begin(item.item, URL, "m", 10, 3.0), 500, "no")
        budget = Budget(CallOptions(max_calls=3), attempts)
        assert (budget.calls, budget.cost) == (3, 5.0)
        with pytest.raises(BudgetError, match="all 3 calls of max_calls are made"):
            budget.reserve(None)
        spent = attempts.spent()
        assert (spent.prompt_tokens, spent.completion_tokens, spent.unknown_outcomes, spent.unknown_cost) == (
            5,
            5,
            1,
            3,
        )
        (unknown,) = attempts.unknown_outcomes()
        assert (unknown.stage, unknown.item, unknown.estimated_cost) == ("s", "k", 3.0)


def test_a_budget_needs_prices_of_the_models_used() -> None:
    with pytest.raises(ConfigError, match=r"a budget needs the price of 'other': .* prices names: none"):
        CallOptions(budget=1.0).price_of("other")
    with pytest.raises(ConfigError, match="prices names: m"):
        CallOptions(budget=1.0, prices={"m": Price(prompt=1, completion=1)}).price_of("other")
    assert CallOptions().price_of("other") is None


SERVICE = "https://api.openai.com/v1/chat/completions"
OTHER = "https://models.example.org/v1/chat/completions"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "PAIRSIGHT_API_KEY", "MY_KEY"):
        monkeypatch.setenv(name, f"the-key-in-{name}")
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("url", "key_env", "variable"),
    [
        (SERVICE, None, "OPENAI_API_KEY"),
        (SERVICE.replace("api", "API"), None, "OPENAI_API_KEY"),
        (URL, None, "PAIRSIGHT_API_KEY"),
        ("http://localhost:8000/v1/chat/completions", None, "PAIRSIGHT_API_KEY"),
        ("http://[::1]:8000/v1/chat/completions", None, "PAIRSIGHT_API_KEY"),
        (OTHER, None, None),
        ("http://10.0.0.1:8000/v1/chat/completions", None, None),
        ("http://127.0.0.1.example.org/v1/chat/completions", None, None),
        ("https://api.openai.com.example.org/v1/chat/completions", None, None),
        (OTHER, {"models.example.org": "MY_KEY"}, "MY_KEY"),
        (OTHER, {"MODELS.example.org": "PAIRSIGHT_API_KEY"}, "PAIRSIGHT_API_KEY"),
        (OTHER, {"other.example.org": "MY_KEY"}, None),
        (OTHER, "MY_KEY", "MY_KEY"),
        (SERVICE, {"models.example.org": "MY_KEY"}, "OPENAI_API_KEY"),
        (SERVICE, {"api.openai.com": "MY_KEY"}, "MY_KEY"),
        (SERVICE.replace("api", "eu.api"), {"eu.api.openai.com": "OPENAI_API_KEY"}, "OPENAI_API_KEY"),
        (URL, {"127.0.0.1": "OPENAI_API_KEY"}, "OPENAI_API_KEY"),
    ],
)
def test_a_key_goes_only_to_the_host_it_belongs_to(url: str, key_env: object, variable: str | None) -> None:
    key = key_for(url, CallOptions.parse({"key_env": key_env}))
    assert (key and key.value) == (variable and f"the-key-in-{variable}")
    assert "the-key" not in repr(key)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("url", "key_env", "says"),
    [
        (SERVICE.replace("https", "http"), None, "would travel to api.openai.com in clear text: name it as https://"),
        (OTHER.replace("https", "http"), "MY_KEY", "in clear text"),
        ("http://10.0.0.1/v1/chat/completions", {"10.0.0.1": "MY_KEY"}, "in clear text"),
        (OTHER, "OPENAI_API_KEY", "is the key of api.openai.com and goes to no other host"),
        (OTHER, {"models.example.org": "GEMINI_API_KEY"}, "is the key of generativelanguage.googleapis.com"),
        (URL, "NO_SUCH_KEY", "needs a key: set the environment variable NO_SUCH_KEY"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/chat/completions", None, "variable GEMINI_API_KEY"),
        ("https://xn--/v1/chat/completions", None, "is not the URL of a server"),
    ],
)
def test_a_key_that_would_go_elsewhere_or_is_not_there_is_one_clear_error(url: str, key_env: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        key_for(url, CallOptions.parse({"key_env": key_env}))


@pytest.mark.usefixtures("keys")
def test_one_variable_for_all_hosts_is_for_one_host() -> None:
    keys = ApiKeys(CallOptions(key_env="MY_KEY"))
    assert keys.headers(OTHER) == keys.headers(OTHER + "2") == {"Authorization": "Bearer the-key-in-MY_KEY"}
    with pytest.raises(
        ConfigError, match=r"this run calls models\.example\.org and api\.openai\.com; name each host's own"
    ):
        keys.headers(SERVICE)
    keys = ApiKeys(CallOptions(key_env={"models.example.org": "MY_KEY"}))
    assert keys.headers(OTHER) == {"Authorization": "Bearer the-key-in-MY_KEY"}
    assert keys.headers(SERVICE) == {"Authorization": "Bearer the-key-in-OPENAI_API_KEY"}
    assert keys.hide("the-key-in-MY_KEY, the-key-in-OPENAI_API_KEY") == "***, ***"


@pytest.mark.parametrize("key_env", ["sk-abc", {"h": "sk-abc"}, {"https://h/v1": "MY_KEY"}, {"": "MY_KEY"}, {"h": 3}])
def test_what_names_no_host_or_variable_is_refused_when_it_is_read(key_env: object) -> None:
    with pytest.raises(ConfigError, match="key_env"):
        CallOptions.parse({"key_env": key_env})
