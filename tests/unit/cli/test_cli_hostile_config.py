"""A config file may come with a stranger's data: alone, it sends no key elsewhere and runs no code of a model."""

from pathlib import Path

import pytest
import yaml

from fault_server import RawServer, response
from pairsight.cli.main import main
from pairsight.tiny.world.world_files import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world") / "world", scenes=2)


def options(world: Path, run: Path, **more: object) -> dict[str, object]:
    return {
        "prompts": str(world / "prompts.json"),
        "images": str(world / "images"),
        "out": str(run),
        "limit": 1,
        **more,
    }


def written(path: Path, values: object) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


KEY_ENV = [
    {"collector.example": "AWS_SECRET_ACCESS_KEY"},
    {"api.openai.com": "OPENAI_API_KEY", "collector.example": "AWS_SECRET_ACCESS_KEY"},
    "AWS_SECRET_ACCESS_KEY",
]


@pytest.mark.parametrize("key_env", KEY_ENV)
def test_a_config_file_alone_sends_no_variable_of_its_choice(
    key_env: object, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    model = "endpoint:m@https://collector.example/v1"
    values = options(world, tmp_path / "run", model=model, calls={"key_env": key_env})
    config = written(tmp_path / "config.yaml", values)
    whole = {"out": str(tmp_path / "run"), "model": model, "build": {"recipe": "seva", **values}}
    for words in (
        ["build", "seva", "--config", config, "--quiet"],
        ["build", "seva", "--config", config, "--quiet", "--set", "calls.key_env.localhost=MINE"],
        ["run", written(tmp_path / "run.yaml", whole), "--dry-run"],
    ):
        if words[-1].endswith("MINE") and isinstance(key_env, str):
            continue
        assert main(words) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "AWS_SECRET_ACCESS_KEY" in said and "config" in said and "--set" in said
        assert not (tmp_path / "run").exists()


def test_the_key_goes_where_this_call_says_so_too(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "a-key-of-my-own")
    with RawServer(lambda asked: response(b"{}", "401 Unauthorized")) as server:
        values = options(world, tmp_path / "run", model=f"endpoint:m@{server.url}", calls={"key_env": "MINE"})
        config = written(tmp_path / "config.yaml", values)
        assert main(["build", "seva", "--config", config, "--set", "calls.key_env=MINE", "--quiet"]) == 1
    assert {asked.key for asked in server.requests} == {"a-key-of-my-own"}


def test_a_file_that_only_repeats_the_rule_needs_no_setting(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "a-key-of-my-own")
    with RawServer(lambda asked: response(b"{}", "401 Unauthorized")) as server:
        key_env = {"127.0.0.1": "MINE", "api.openai.com": "OPENAI_API_KEY"}
        values = options(world, tmp_path / "run", model=f"endpoint:m@{server.url}", calls={"key_env": key_env})
        assert main(["build", "seva", "--config", written(tmp_path / "config.yaml", values), "--quiet"]) == 1
    assert {asked.key for asked in server.requests} == {"a-key-of-my-own"}


def test_a_config_file_alone_runs_no_code_of_a_model(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = options(world, tmp_path / "run", model=str(world / "model"), trust_remote_code=True)
    config = written(tmp_path / "config.yaml", values)
    whole = {"out": str(tmp_path / "run"), "model": str(world / "model"), "build": {"recipe": "seva", **values}}
    for words in (["build", "seva", "--config", config], ["run", written(tmp_path / "all.yaml", whole), "--dry-run"]):
        assert main([*words, "--quiet"]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "trust_remote_code=true" in said and "--set" in said
    assert main(["run", str(tmp_path / "all.yaml"), "--dry-run", "--set", "build.trust_remote_code=true"]) == 0


def test_a_config_file_alone_sends_no_calls_of_an_endpoint_that_this_call_names_elsewhere(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "endpoint:m@https://api.openai.com/v1"
    elsewhere = ["https://collector.example/v1"]
    for servers in ({"https://api.openai.com/v1/": elsewhere}, elsewhere):
        config = written(tmp_path / "config.yaml", options(world, tmp_path / "run", calls={"servers": servers}))
        for words in (["--model", model], ["--set", f"model={model}"]):
            assert main(["build", "seva", "--config", config, "--quiet", *words]) == 1
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert "collector.example" in said and "add --set 'calls.servers=...'" in said
            assert not (tmp_path / "run").exists()


def test_servers_on_this_machine_or_named_by_this_call_are_used(world: Path, tmp_path: Path) -> None:
    with RawServer(lambda asked: response(b"{}", "401 Unauthorized")) as server:
        name = "https://models.example/v1"
        values = options(world, tmp_path / "run", calls={"servers": {name: [server.url]}})
        config = written(tmp_path / "config.yaml", values)
        call = ["build", "seva", "--config", config, "--model", f"endpoint:m@{name}", "--quiet"]
        assert main(call) == 1
        num_asked = len(server.requests)
        assert num_asked > 0
        values = options(world, tmp_path / "run", calls={"servers": {name: ["https://collector.example/v1"]}})
        written(tmp_path / "config.yaml", values)
        assert main([*call, "--set", f"calls.servers=[{server.url}]"]) == 1
        assert len(server.requests) > num_asked


def test_servers_of_an_endpoint_that_is_not_called_are_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = options(world, tmp_path / "run", model="endpoint:m@http://127.0.0.1:9/v1")
    config = written(tmp_path / "config.yaml", values)
    servers = "calls.servers={http://127.0.0.1:8/v1: [http://127.0.0.1:7/v1]}"
    assert main(["build", "seva", "--config", config, "--quiet", "--set", servers]) == 1
    said = capsys.readouterr().err
    assert "names servers for http://127.0.0.1:8/v1, which is not called" in said
    assert "endpoints of this call: http://127.0.0.1:9/v1" in said
