"""Several servers of one model, on loopback: the faster answers more, the dead ones' calls go to the others, nothing is
bought twice, the budget holds for all of them, and each host gets its own key."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from small_calls import build

from fault_server import Fault, FaultServer, answer
from pairsight.cli.main import main
from pairsight.engine.calls import limits
from pairsight.errors import BudgetError, ConfigError, EndpointError
from pairsight.store.attempts import Attempts
from pairsight.store.ledger import Ledger
from pairsight.store.status import run_status
from pairsight.tiny.world.world_files import write_world

PROGRAM = Path(__file__).parent / "server_process.py"
NAME = "http://127.0.0.1:9/v1"
"""The URL in the model's name: nothing listens there."""
QUESTIONS = tuple(f"question {i}" for i in range(60))
WELL = [f"you asked: {question}" for question in QUESTIONS]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPEN_S", (0.1, 0.1, 0.1))
    monkeypatch.setattr("pairsight.engine.calls.calls.LONGEST_BACKOFF_S", 0.05)


def ask(folder: Path, *servers: FaultServer | str, **more: object) -> list[str]:
    """What the servers answer, under a name that none of them has."""
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return build(folder, NAME, QUESTIONS, **{"servers": {NAME: urls}, "timeout_s": 60.0, **more})


def attempts(folder: Path) -> Counter[tuple[str, str]]:
    """(server's URL, outcome) -> how many calls."""
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        rows = ledger.read("SELECT endpoint, outcome, count(*) FROM attempts GROUP BY endpoint, outcome", ())
    return Counter({(url.removesuffix("/chat/completions"), outcome): count for url, outcome, count in rows})


def test_all_servers_are_used_and_the_slower_one_answers_less(tmp_path: Path) -> None:
    def until_the_other_answered_most(question: str, n: int) -> Fault:
        while fast.answered.total() < 40:
            time.sleep(0.01)
        return ""

    with FaultServer() as fast, FaultServer(until_the_other_answered_most) as slow:
        assert ask(tmp_path / "run", fast, slow) == WELL
        asked = [server.asked.total() for server in (fast, slow)]
        assert asked[0] >= 40 and asked[1] > 0
        assert Counter(fast.asked + slow.asked) == Counter(QUESTIONS)
        assert max(fast.most_under_way, slow.most_under_way) <= 3  # `max_concurrency` of each
        (stage,) = run_status(tmp_path / "run").stages
        assert [(server.calls, server.answered) for server in stage.servers] == [(n, n) for n in asked]
        assert [server.url for server in stage.servers] == [f"{s.url}/chat/completions" for s in (fast, slow)]


def test_the_calls_of_a_server_that_is_killed_go_to_the_other(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    path = os.pathsep.join([str(PROGRAM.parents[1]), *sys.path])
    command = [sys.executable, str(PROGRAM), str(notes), "10"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as dying,
        FaultServer(delay_s=0.01) as other,
    ):
        assert dying.stdout is not None
        url = dying.stdout.readline().strip()
        assert ask(tmp_path / "run", url, other) == WELL
        assert dying.wait() == -signal.SIGKILL
    bought = Counter(notes.read_text().splitlines()) + other.asked
    assert set(bought) == set(QUESTIONS)
    assert sum(count - 1 for count in bought.values()) <= 3  # those that were in flight there
    counts = attempts(tmp_path / "run")
    assert 1 <= counts[url, "lost"] <= 3
    assert counts[other.url, "answered"] + counts[url, "answered"] == len(QUESTIONS)
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        unknown = {call.item.removesuffix(":0") for call in Attempts(ledger).unknown_outcomes()}
    assert {question for question, count in bought.items() if count > 1} <= unknown


def test_a_budget_holds_for_all_servers_together_and_goes_on_when_raised(tmp_path: Path) -> None:
    with FaultServer(delay_s=0.01) as first, FaultServer(delay_s=0.01) as second:
        with pytest.raises(BudgetError):
            ask(tmp_path / "run", first, second, budget=300)
        bought = first.asked + second.asked
        with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
            spent = Attempts(ledger).spent().cost
        assert spent == bought.total() * 15 <= 300  # an answer is 15 tokens, a token costs 1
        assert min(first.asked.total(), second.asked.total()) > 0
        assert ask(tmp_path / "run", first, second, budget=3000) == WELL
        assert set((first.asked + second.asked).values()) == {1}


def test_each_host_gets_its_own_key_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "SECOND"):
        monkeypatch.setenv(name, f"the-key-in-{name}")
    models = [{"id": "m"}]
    with FaultServer(models=models) as first, FaultServer(models=models) as second:
        elsewhere = second.url.replace("127.0.0.1", "localhost")
        with pytest.raises(ConfigError, match="key_env names FIRST for all hosts, but this run calls"):
            ask(tmp_path / "run", first, elsewhere, key_env="FIRST")
        with pytest.raises(ConfigError, match="localhost needs a key: set the environment variable MISSING"):
            ask(tmp_path / "run", first, elsewhere, key_env={"127.0.0.1": "FIRST", "localhost": "MISSING"})
        assert (first.num_lists, second.num_lists) == (0, 0)
        keys = {"127.0.0.1": "FIRST", "localhost": "SECOND"}
        assert ask(tmp_path / "run", first, elsewhere, key_env=keys) == WELL
        assert (first.keys, second.keys) == ({"Bearer the-key-in-FIRST"}, {"Bearer the-key-in-SECOND"})
        assert min(first.asked.total(), second.asked.total()) > 0


def test_another_list_of_servers_buys_nothing_twice(tmp_path: Path) -> None:
    with FaultServer() as first, FaultServer() as second, FaultServer() as third:
        with pytest.raises(BudgetError):
            ask(tmp_path / "run", first, max_calls=20)
        with pytest.raises(BudgetError):
            ask(tmp_path / "run", third, second, max_calls=40)
        assert ask(tmp_path / "run", second, third, first) == WELL
        bought = first.asked + second.asked + third.asked
        assert bought == Counter(QUESTIONS)
        assert min(second.asked.total(), third.asked.total()) > 0
        # without any servers, by the name alone: all is there
        assert build(tmp_path / "run", NAME, QUESTIONS) == WELL
        assert first.asked + second.asked + third.asked == bought


def test_servers_that_do_not_list_the_same_model_are_refused_before_anything_is_bought(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultServer(models=[{"id": "m"}]) as first, FaultServer(models=[{"id": "m2"}]) as second:
        says = rf"^{second.url}/chat/completions does not list the model 'm', which {first.url}.* did you mean 'm2'"
        with pytest.raises(EndpointError, match=says):
            ask(tmp_path / "run", first, second)
        second.models = []
        with pytest.raises(EndpointError, match=r"lists; the list is empty; all servers .* must serve the same model$"):
            ask(tmp_path / "run", first, second)
        assert first.asked.total() == second.asked.total() == 0
        second.models = None  # no list, no verdict
        assert ask(tmp_path / "run", first, second) == WELL
    weights = [{"id": "m", "root": f"/models/{name}", "max_model_len": 4096} for name in ("base", "aligned")]
    with (
        FaultServer(models=weights[:1]) as first,
        FaultServer(models=weights[1:]) as second,
        caplog.at_level(logging.WARNING, "pairsight.engine"),
    ):
        assert ask(tmp_path / "other", first, second) == WELL
        assert "root /models/base" in caplog.text and "root /models/aligned" in caplog.text


def test_the_others_go_on_while_one_server_asks_for_a_pause(tmp_path: Path) -> None:
    with FaultServer(lambda question, n: "429-minute") as busy, FaultServer() as free:
        assert ask(tmp_path / "run", busy, free) == WELL
        assert 0 < busy.asked.total() <= 3
        assert free.asked == Counter(QUESTIONS)


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    seen = 0

    def away_for_a_while(question: str, n: int) -> Fault:
        nonlocal seen
        seen += 1
        return "500" if seen <= 6 else ""

    with FaultServer(away_for_a_while, delay_s=0.01) as first, FaultServer(delay_s=0.05) as second:
        assert ask(tmp_path / "run", first, second) == WELL
        counts = attempts(tmp_path / "run")
        assert counts[first.url, "refused"] == 6
        assert counts[first.url, "answered"] > 0
        assert counts[first.url, "answered"] + counts[second.url, "answered"] == len(QUESTIONS)


def test_a_server_that_serves_another_model_after_a_while_is_left_out(tmp_path: Path) -> None:
    with FaultServer(lambda question, n: "404" if first.asked.total() > 10 else "") as first, FaultServer() as second:
        assert ask(tmp_path / "run", first, second) == WELL
        assert 11 < first.asked.total() <= 11 + 3  # those that were in flight when it began


def test_when_all_servers_are_away_the_run_ends_and_names_them(tmp_path: Path) -> None:
    with FaultServer() as first, FaultServer() as second:
        urls = (first.url, second.url)
    with pytest.raises(EndpointError, match=rf"none of the 2 servers of {NAME}/.* {urls[0]}.* {urls[1]}") as error:
        ask(tmp_path / "run", *urls)
    assert "\n" not in str(error.value)
    with FaultServer() as first:
        assert ask(tmp_path / "run", first) == WELL


def test_servers_that_are_never_reached_are_no_attempts_of_a_call(tmp_path: Path) -> None:
    with FaultServer() as alive:
        nowhere = [f"http://127.0.0.1:{port}/v1" for port in range(1, 8)]
        assert ask(tmp_path / "run", *nowhere, alive, max_attempts=1) == WELL


def test_a_server_whose_answers_alone_cannot_be_read_ends_the_run(tmp_path: Path) -> None:
    with FaultServer(lambda question, n: "not-json") as odd, FaultServer() as well:
        with pytest.raises(
            EndpointError, match=rf"^none of 2\d answers of {odd.url}/.*, of other servers [2-9]\d; .* retry"
        ):
            ask(tmp_path / "run", odd, well)
        texts = ask(tmp_path / "run", well)
        assert texts.count("not_json") == odd.asked.total() < 30
        assert len(set(texts) - {"not_json"}) == well.asked.total() == len(QUESTIONS) - odd.asked.total()


def test_no_key_travels_in_clear_text_or_is_kept_when_the_other_host_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST", "SECOND"):
        monkeypatch.setenv(name, f"the-key-in-{name}")
    with FaultServer() as first, FaultServer(respond=lambda body: answer("is it the-key-in-FIRST?")) as second:
        keys = {"127.0.0.1": "FIRST", "models.example": "SECOND"}
        with pytest.raises(ConfigError, match=r"the key in SECOND would travel to models\.example in clear text"):
            ask(tmp_path / "run", first, "http://models.example/v1", key_env=keys)
        assert first.asked.total() == 0
        elsewhere = second.url.replace("127.0.0.1", "localhost")
        with pytest.raises(EndpointError, match=r"localhost.* sent the key back"):
            ask(tmp_path / "run", first, elsewhere, key_env={"127.0.0.1": "FIRST", "localhost": "SECOND"})
    assert b"the-key-in" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_run_of_the_command_line_goes_on_with_other_servers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_world(tmp_path / "world", scenes=2, seed=6)
    with FaultServer(delay_s=0.01) as first, FaultServer(delay_s=0.01) as second:

        def built(*servers: str) -> int:
            given = ["build", "seva", "--model", f"endpoint:m@{NAME}", "--prompts", str(world / "prompts.json")]
            given += ["--images", str(world / "images"), "--limit", "3", "--out", str(tmp_path / "run"), "--quiet"]
            named = [f"calls.servers=[{', '.join(servers)}]"] if servers else []
            return main([*given, *(word for one in [*named, "distortion=small_crop"] for word in ("--set", one))])

        assert built(first.url, second.url) == 0
        asked = [server.asked.total() for server in (first, second)]
        assert sum(asked) == 6 and min(asked) > 0
        capsys.readouterr()
        assert main(["status", str(tmp_path / "run")]) == 0
        said = capsys.readouterr().out
        for server, count in zip((first, second), asked, strict=True):
            assert f"  {server.url}/chat/completions: {count} calls, {count} answered\n" in said
        assert built(second.url) == built() == 0
        assert [server.asked.total() for server in (first, second)] == asked
