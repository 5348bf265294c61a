"""One suite for every engine: the same ledgers, weights loaded once a worker, lost workers' batches redone."""

import importlib.util
import ipaddress
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conformance_stage import Echo

from pairsight.engine.processes import visible_gpus
from pairsight.engine.ray import _share
from pairsight.engine.runner import Runner, open_engine
from pairsight.engine.stage import Engine, Resources
from pairsight.errors import ConfigError, ModelError, RunError
from pairsight.records import Completion, ItemError
from pairsight.registry import load_file
from pairsight.store.ledger import Ledger

WORDS = [f"fail{i}" if i % 7 == 3 else f"word{i}" for i in range(50)]


@pytest.fixture(scope="module", params=["local", "processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("pip install 'pairsight[ray]'")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    made_up = {"CUDA_VISIBLE_DEVICES": "4,6", "RAY_OVERRIDE_RESOURCES": '{"GPU": 2}'}  # this machine has no GPU
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"PYTHONPATH": path, **made_up}.items():
            environment.setenv(name, value)
        with open_engine(request.param, 1 if request.param == "local" else 2) as engine:
            yield engine


@pytest.fixture
def workers_die(engine: Engine) -> None:
    if type(engine).__name__ == "LocalEngine":
        pytest.skip("its worker is the test itself")


def run(engine: Engine, stage: Echo, words: list[str]) -> list[str]:
    with Ledger(stage.folder / "ledger.sqlite") as ledger:
        results = Runner(ledger, engine)(stage, words)
        return [r.text if isinstance(r, Completion) else r.reason for r in results]


def notes(folder: Path, what: str) -> list[str]:
    lines = (folder / "notes").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith(what + " ")]


def test_the_ledger_is_the_one_of_the_local_engine(engine: Engine, tmp_path: Path) -> None:
    expected = [word if word.startswith("fail") else word.upper() for word in WORDS]
    assert run(engine, Echo(tmp_path), WORDS) == ["failed" if w.startswith("fail") else w for w in expected]
    other = tmp_path / "local"
    other.mkdir()
    with open_engine("local") as local:
        run(local, Echo(other), WORDS)
    pages = []
    for folder in (tmp_path, other):
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            pages.append(ledger.page(1, 0, 100))
    assert pages[0] == pages[1]


def test_each_item_is_made_once_and_each_worker_set_up_once(engine: Engine, tmp_path: Path) -> None:
    run(engine, Echo(tmp_path), WORDS)
    assert sorted(notes(tmp_path, "made")) == sorted(WORDS)
    assert len(set(notes(tmp_path, "setup"))) == len(notes(tmp_path, "setup")) <= 2


def test_each_worker_sees_one_of_the_visible_devices_also_one_that_replaces_another(
    engine: Engine, tmp_path: Path
) -> None:
    alone = type(engine).__name__ == "LocalEngine"
    run(engine, Echo(tmp_path), [*WORDS[:30], *([] if alone else ["die-once"]), *WORDS[30:]])
    seen = sorted(notes(tmp_path, "sees"))
    assert seen in ([["4,6"]] if alone else [["4", "4", "6"], ["4", "6", "6"]])


def test_another_batch_size_recomputes_nothing(engine: Engine, tmp_path: Path) -> None:
    first = run(engine, Echo(tmp_path), WORDS[:20])
    assert run(engine, Echo(tmp_path, batch_size=7), WORDS[:20]) == first
    assert len(notes(tmp_path, "made")) == 20


def test_a_bug_ends_the_run_in_one_line_and_what_is_there_is_kept(engine: Engine, tmp_path: Path) -> None:
    words = [*WORDS[:12], "bug", *WORDS[12:20]]
    with pytest.raises((ZeroDivisionError, RunError), match="a bug"):
        run(engine, Echo(tmp_path), words)
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.page(1, 12, 1)[0].status == "pending"
    words[12] = "no-bug"
    assert "NO-BUG" in run(engine, Echo(tmp_path), words)


def test_a_model_that_cannot_be_loaded_is_the_same_error_everywhere(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model folder 'm' has no processor"):
        run(engine, Echo(tmp_path, setup_error=True), WORDS)


def test_a_lost_workers_batches_are_redone(engine: Engine, tmp_path: Path, workers_die: None) -> None:
    words = [*WORDS[:10], "die-once-a", *WORDS[10:30], "die-once-b"]
    texts = run(engine, Echo(tmp_path), words)
    assert texts[10] == "DIE-ONCE-A"
    assert texts[-1] == "DIE-ONCE-B"
    assert len(texts) == len(words)
    assert "failed" in texts


def test_an_item_that_always_ends_its_worker_is_given_up_alone(
    engine: Engine, tmp_path: Path, workers_die: None
) -> None:
    words = [*WORDS[:6], "die-always", *WORDS[6:12]]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        results = list(Runner(ledger, engine)(Echo(tmp_path), words))
    given_up = results.pop(6)
    assert isinstance(given_up, ItemError)
    assert given_up.reason == "worker_died"
    assert given_up.retryable
    said = [r.text if isinstance(r, Completion) else r.reason for r in results]
    assert said == ["failed" if word.startswith("fail") else word.upper() for word in WORDS[:12]]


def test_workers_that_die_while_loading_end_the_run(engine: Engine, tmp_path: Path, workers_die: None) -> None:
    with pytest.raises(RunError, match="a worker of stage 'echo' ended while loading"):
        run(engine, Echo(tmp_path, setup_death=True), WORDS)


PLUGIN = """
from dataclasses import dataclass

from conformance_stage import Echo
from pairsight.records import Completion


@dataclass(frozen=True)
class Loud:
    text: str


@dataclass(frozen=True)
class LoudEcho(Echo):
    output: type = Loud

    def item_id(self, item):
        return item.text

    def key(self, item):
        return {"word": item.text}

    def process(self, items):
        return [Loud(item.text + "!") for item in items]
"""


def test_a_stage_from_a_file_of_ones_own_runs_with_its_own_records(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    mine = load_file(tmp_path / "mine.py")
    stage_type, item_type = mine.LoudEcho, mine.Loud
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        results = list(Runner(ledger, engine)(stage_type(tmp_path), [item_type(word) for word in WORDS[:9]]))
    assert results == [item_type(f"{word}!") for word in WORDS[:9]]


def test_workers_stay_from_stage_to_stage_and_close_each(engine: Engine, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        run(engine, Echo(folder), WORDS[:12])
    workers = [set(notes(folder, "setup")) for folder in folders]
    assert len(workers[0] | workers[1]) <= 2
    assert set(notes(folders[0], "close")) & workers[1]


def test_workers_are_replaced_after_a_run_that_failed(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises((ZeroDivisionError, RunError)):
        run(engine, Echo(tmp_path), ["bug"])
    assert run(engine, Echo(tmp_path), WORDS[:3]) == [word.upper() for word in WORDS[:3]]


def test_nothing_listens_but_on_loopback(engine: Engine, tmp_path: Path) -> None:
    run(engine, Echo(tmp_path), WORDS[:5])
    here = psutil.Process()
    family = {here.pid, *(child.pid for child in here.children(recursive=True))}
    listening = {
        c.laddr.ip for c in psutil.net_connections("tcp") if c.pid in family and c.status == psutil.CONN_LISTEN
    }
    addresses = [ipaddress.ip_address(ip.removeprefix("::ffff:")) for ip in listening]
    assert [address for address in addresses if not address.is_loopback] == []


def test_more_processes_than_devices_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a, 6")
    with caplog.at_level("WARNING", "pairsight.engine"), open_engine("processes", 3) as engine:
        run(engine, Echo(tmp_path), WORDS)
    assert sorted(notes(tmp_path, "sees")) == ["6", "GPU-1a", "GPU-1a"]
    assert "3 workers share 2 GPUs; each loads its own weights" in caplog.text


@pytest.mark.parametrize(
    ("named", "visible"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , GPU-7 ", ["3", "GPU-7"]),
        ("MIG-5/1/0", ["MIG-5/1/0"]),
        ("", []),
        ("-1", []),
        ("2,-1,3", ["2"]),
        ("2,,3", ["2"]),
    ],
)
def test_the_visible_devices_are_those_that_cuda_would_see(
    named: str, visible: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == visible


def test_without_a_choice_all_devices_of_the_driver_are_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(tmp_path) == []
    (tmp_path / "dev").mkdir()
    for name in ("nvidia3", "nvidia4", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    assert visible_gpus(tmp_path) == ["0", "1"]
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert visible_gpus(tmp_path) == ["0"]


def test_unknown_engines_and_needless_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'rey'; did you mean 'ray'"), open_engine("rey"):
        pass
    with pytest.raises(ConfigError, match="--engine local has 1 worker, found --workers 3"), open_engine("local", 3):
        pass


def test_more_workers_than_a_cluster_has_room_for_are_refused() -> None:
    stage = Echo(Path())
    assert _share(stage, 4, {"CPU": 2.0}) == {"num_cpus": 0.5, "num_gpus": 0.0}
    assert _share(stage, 2, {"CPU": 2.0, "GPU": 2.0}) == {"num_cpus": 0.5, "num_gpus": 1.0}
    with pytest.raises(RunError, match=r"5 workers of stage 'echo' need 2\.5 CPUs, Ray has 2; use fewer --workers"):
        _share(stage, 5, {"CPU": 2.0})
    with pytest.raises(RunError, match="need 4 GPUs, Ray has 2"):
        _share(stage, 4, {"CPU": 8.0, "GPU": 2.0})


def test_a_part_of_a_device_is_of_one_device() -> None:
    half, most = (replace(Echo(Path()), resources=Resources(0.5, part)) for part in (0.5, 0.6))
    assert _share(half, 4, {"CPU": 8.0, "GPU": 2.0}) == {"num_cpus": 0.5, "num_gpus": 0.5}
    with pytest.raises(RunError, match=r"need 2\.5 GPUs, Ray has 2, on each of which 2 fit"):
        _share(half, 5, {"CPU": 8.0, "GPU": 2.0})
    assert _share(most, 2, {"CPU": 8.0, "GPU": 2.0})["num_gpus"] == 0.6
    with pytest.raises(
        RunError, match=r"Ray has 2, on each of which 1 fit; use fewer"
    ):  # the third would wait for ever
        _share(most, 3, {"CPU": 8.0, "GPU": 2.0})
