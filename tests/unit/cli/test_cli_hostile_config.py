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
