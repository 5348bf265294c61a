"""Which server gets the next call, on a clock of our own."""

import asyncio

import pytest

from fake_clock import FakeClock
from pairsight.engine.calls.limits import LONGEST_BACKOFF_S, OPEN_S, Gate
from pairsight.engine.calls.options import CallOptions
from pairsight.engine.calls.servers import Servers
from pairsight.errors import ConfigError, EndpointError

NAME = "http://127.0.0.1:9/v1"
CHAT = "/chat/completions"
URLS = [f"http://127.0.0.1:{port}/v1" for port in (1, 2, 3)]


def servers(clock: FakeClock, num: int = 2, **options: object) -> Servers:
    return Servers(NAME + CHAT, CallOptions.parse({"servers": {NAME: URLS[:num]}, **options}), clock)


def entered(at: Servers, clock: FakeClock, count: int, failed: tuple[Gate, ...] = ()) -> list[int]:
    """The numbers of the servers that so many calls go to, none of which ends."""

    async def work() -> list[int]:
        return [at.gates.index(await at.enter(0, failed)) for _ in range(count)]

    return clock.run(work())


def test_each_call_goes_to_the_server_with_the_fewest_under_way_and_ties_to_the_first() -> None:
    clock = FakeClock()
    at = servers(clock, 3)
    assert entered(at, clock, 5) == [0, 1, 2, 0, 1]
    at.leave(at.gates[1])
    at.leave(at.gates[1])
    assert entered(at, clock, 3) == [1, 1, 2]
    assert at.limit == 12


def test_a_slow_server_gets_fewer_calls() -> None:
    clock = FakeClock()
    at = servers(clock, max_concurrency=2)
    seconds, asked = (1.0, 4.0), [0, 0]

    async def call() -> None:
        gate = await at.enter(0)
        asked[at.gates.index(gate)] += 1
        await clock.sleep(seconds[at.gates.index(gate)])
        at.leave(gate)

    async def work() -> None:
        await asyncio.gather(*(call() for _ in range(50)))

    clock.run(work())
    assert asked == [40, 10]
    assert clock.now() == 20.0


def test_rates_and_concurrency_are_each_servers_own() -> None:
    clock = FakeClock()
    at = servers(clock, requests_per_minute=12, max_concurrency=8)  # one in five seconds, and one at once

    async def call() -> None:
        at.leave(await at.enter(0))

    async def work() -> None:
        await asyncio.gather(*(call() for _ in range(6)))

    clock.run(work())
    assert clock.now() == pytest.approx(10.0)  # three at each, at 0, 5 and 10 s


def test_a_call_that_failed_at_one_server_goes_to_another_and_waits_for_it() -> None:
    clock = FakeClock()
    at = servers(clock, max_concurrency=1)
    first, second = at.gates
    assert entered(at, clock, 1, failed=(first,)) == [1]
    assert at.others({first}) and not at.others({first, second})

    async def free_the_second() -> None:
        await clock.sleep(3)
        at.leave(second)

    async def work() -> Gate:
        freed = asyncio.ensure_future(free_the_second())
        gate = await at.enter(0, {first})
        await freed
        return gate

    assert clock.run(work()) is second  # the first has room, but failed
    assert clock.now() == 3.0
    at.refused(second, clock.now(), 60.0)
    assert entered(at, clock, 1, failed=(first,)) == [0]  # better than to wait for a minute
    assert clock.now() == 3.0


def test_a_pause_at_one_server_holds_the_others_not_and_ends_in_time() -> None:
    clock = FakeClock()
    at = servers(clock, max_concurrency=1)
    at.refused(at.gates[0], 0.0, 17.0)
    assert entered(at, clock, 1) == [1]
    assert clock.now() == 0.0
    assert entered(at, clock, 1) == [0]
    assert clock.now() == 17.0


def test_a_pause_that_comes_while_a_call_waits_for_its_rate_sends_it_elsewhere() -> None:
    clock = FakeClock()
    at = servers(clock, 2, requests_per_minute=12)
    first, second = at.gates

    async def work() -> Gate:
        for _ in range(2):
            at.leave(await at.enter(0))
        second.pause(2.0)
        waiting = asyncio.ensure_future(at.enter(0))
        await clock.sleep(1)
        at.refused(first, clock.now(), 600.0)
        return await waiting

    assert clock.run(work()) is second
    assert (first.under_way, second.under_way) == (0, 1)


def test_a_server_that_is_away_is_tried_with_one_call_after_each_pause_and_never_ends_the_work() -> None:
    clock = FakeClock()
    at = servers(clock)
    dead, alive = at.gates
    at.answered(alive, 0, None)
    tries = []
    for _ in range(5):
        at.failed(dead, clock.now(), "HTTP 500")
    assert at.describe() == ", 2 servers (1 away)"
    for _ in range(6):
        before = clock.now()
        clock.time += dead.pause_s
        tries.append(clock.now() - before)
        assert entered(at, clock, 2) == [0, 1]
        at.failed(dead, clock.now(), "HTTP 500")
        at.leave(dead)
        at.leave(alive)
    assert tries == [OPEN_S[0], OPEN_S[1], *[OPEN_S[-1]] * 4]  # it never answered: given up after the second
    clock.time += dead.pause_s
    at.answered(dead, 0, None)
    assert at.describe() == ", 2 servers"


def test_when_the_last_server_is_given_up_the_work_ends_and_all_are_named() -> None:
    clock = FakeClock()
    at = servers(clock)
    first, second = at.gates
    at.refused(first, 0.0, 3600.0)  # its quota of an hour is spent
    assert first.pause_s == 3600.0
    with pytest.raises(EndpointError, match=r"none of the 2 servers of .*:9/.* can be used: .*:1/.* asks to wait 60 m"):
        while True:
            at.failed(second, clock.now(), "cannot be reached")
            clock.time += second.pause_s


def test_what_no_repetition_changes_ends_the_work_unless_the_server_answered_before() -> None:
    clock = FakeClock()
    at = servers(clock)
    first, second = at.gates
    gone = EndpointError("http://127.0.0.1:1 does not know this model")
    with pytest.raises(EndpointError, match="does not know this model"):
        at.ended(first, gone)
    at.answered(first, 0, None)
    at.ended(first, gone)
    assert first.pause_s == LONGEST_BACKOFF_S
    at.answered(second, 0, None)
    with pytest.raises(EndpointError, match="none of the 2 servers"):
        at.ended(second, gone)


def test_one_server_is_as_strict_as_ever() -> None:
    clock = FakeClock()
    at = Servers(NAME + CHAT, CallOptions(), clock)
    assert [gate.url for gate in at.gates] == [NAME + CHAT]
    assert at.describe() == ""
    at.answered(at.gates[0], 0, None)
    with pytest.raises(EndpointError, match="gone"):
        at.ended(at.gates[0], EndpointError("gone"))
    with pytest.raises(EndpointError, match="asks to wait 60 minutes"):
        at.refused(at.gates[0], 0.0, 3600.0)


def test_the_next_stage_waits_in_a_loop_of_its_own() -> None:
    at = Servers(NAME + CHAT, CallOptions(max_concurrency=1), FakeClock())

    async def call() -> None:
        gate = await at.enter(0)
        await asyncio.sleep(0)
        at.leave(gate)

    async def stage() -> None:
        await asyncio.gather(call(), call(), call())

    for _ in range(2):
        asyncio.run(stage())
    assert at.gates[0].under_way == 0


def test_servers_are_named_one_way_and_belong_to_an_endpoint() -> None:
    options = CallOptions.parse(
        {"servers": {"HTTP://Gpu1.Example:80/v1/": ["http://gpu1.example/v1/chat/completions", "https://b:443/api/v1"]}}
    )
    assert options.servers == {"http://gpu1.example/v1": ["http://gpu1.example/v1", "https://b/api/v1"]}
    assert options.servers_of("http://gpu1.example:80/v1/chat/completions") == (
        "http://gpu1.example/v1/chat/completions",
        "https://b/api/v1/chat/completions",
    )
    assert options.servers_of("http://other/v1/chat/completions") == ("http://other/v1/chat/completions",)
    assert CallOptions.parse(options.to_plain()) == options


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({NAME: []}, "a list of servers is empty"),
        ([], "a list of servers is empty"),
        ({NAME: ["http://a/v1", "http://A:80/v1/"]}, "http://a/v1 is named twice"),
        ({NAME: ["http://a/v1"], f"{NAME}/": ["http://b/v1"]}, "http://127.0.0.1:9/v1 is named twice"),
        ({NAME: ["http://a/v1,http://b/v1"]}, "is not the URL of a server, such as"),
        ({NAME: ["ftp://a/v1"]}, "is not the URL of a server"),
        ({NAME: ["a:8000"]}, "is not the URL of a server"),
        ({NAME: [""]}, "is not the URL of a server"),
        ({NAME: ["http://"]}, "is not the URL of a server"),
        ({NAME: ["http://a:port/v1"]}, "is not the URL of a server"),
        ({NAME: ["http://a/v 1"]}, "is not the URL of a server"),
        ({"m": ["http://a/v1"]}, "is not the URL of a server"),
        ({NAME: ["https://user:secret@a/v1"]}, "the URL of server a must hold no key"),
        ({NAME: ["https://a/v1?key=secret"]}, "must hold no key"),
        ({NAME: ["https://a/v1#secret"]}, "must hold no key"),
        ({NAME: ["https://a/v1?"]}, "must hold no key"),
        ({NAME: "http://a/v1"}, "servers"),
        ("http://a/v1", "servers"),
        ({NAME: [3]}, "servers"),
    ],
)
def test_what_is_no_list_of_servers_is_one_clear_error(given: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        CallOptions.parse({"servers": given})
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_servers_of_an_endpoint_that_is_not_called_are_refused() -> None:
    options = CallOptions.parse({"servers": {NAME: URLS}})
    options.check_servers([NAME + CHAT, "https://other/v1"])
    with pytest.raises(ConfigError, match=r":9/v1, which is not called; endpoints of this call: https://other/v1$"):
        options.check_servers(["https://other/v1/chat/completions"])
    alone = CallOptions.parse({"servers": URLS})
    alone.check_servers([NAME, NAME])
    assert alone.servers_of(NAME + CHAT) == tuple(url + CHAT for url in URLS)
    for called in ([], [NAME, "https://other/v1"]):
        with pytest.raises(ConfigError, match=r"calls\.servers is a list, which is for one endpoint"):
            alone.check_servers(called)
