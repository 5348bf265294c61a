"""No option vanishes: a flag given twice, a name set twice, a required one left out, and several losses."""

import json
from pathlib import Path

import pytest
import typer
import yaml

from pairsight.cli import flags
from pairsight.cli.main import app, main
from pairsight.config import with_settings
from pairsight.errors import ConfigError
from pairsight.pipeline.run import RunConfig

REPEATABLE = {
    "--set", "--loss", "--sources", "evaluate --adapter", "--benchmark", "--benchmark-images", "--plugin",
    "build --model", "build --prompts", "build --images", "build --completions", "--distorted", "--distortion",
}  # fmt: skip


def run(capsys, *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err


def commands() -> dict[str, object]:
    """Every verb by what a user types, with its parameters; a group is a verb too."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        found[name] = command
        found |= {f"{name} {sub}": inner for sub, inner in getattr(command, "commands", {}).items()}
    return found


def test_every_flag_that_takes_one_value_refuses_a_second(capsys):
    checked = 0
    for verb, command in commands().items():
        for option in command.params:
            if option.param_type_name != "option" or "--help" in option.opts:
                continue
            flag = option.opts[-1]
            given = [flag] if option.is_flag else [flag, "1"]
            status, error = run(capsys, *verb.split(), *given, *given)
            twice = f"error: {flag} is given 2 times; it takes one value\n"
            if {flag, f"{verb} {flag}"} & REPEATABLE:
                assert twice not in error, (verb, flag)
            else:
                assert (status, error) == (2, twice), (verb, flag)
                checked += 1
    assert checked > 60


def test_a_second_value_behind_an_equals_sign_or_other_arguments_is_refused_too(capsys):
    status, error = run(capsys, "evaluate", "--model=A", "runs/x", "--images", "i", "--model", "B")
    assert (status, error) == (2, "error: --model is given 2 times; it takes one value\n")


@pytest.mark.parametrize(
    "settings", [["beta=1", "beta=2"], ["calls={budget: 1}", "calls.budget=2"], ["a.b=1", "a=3"], ["a.b=1", "a.b.c=1"]]
)
def test_a_name_that_is_set_twice_is_refused(settings):
    with pytest.raises(ConfigError, match="is set twice"):
        with_settings({}, settings)


def test_a_setting_goes_into_the_files_mapping_and_leaves_its_other_names(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("calls: {budget: 2, max_attempts: 3}\nbeta: 0.1\nloss_options:\n")
    values = flags.merge(file, ["calls.budget=5", "loss_options.gamma=1", "benchmark_options.chair.x=y"], {"beta": 0.3})
    assert values == {
        "calls": {"budget": 5, "max_attempts": 3},
        "beta": 0.3,
        "loss_options": {"gamma": 1},
        "benchmark_options": {"chair": {"x": "y"}},
    }


def test_a_setting_inside_a_plain_value_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'beta' is 0\.1 and has no parts"):
        with_settings({"beta": 0.1}, ["beta.x=1"])


def test_the_settings_of_run_change_only_what_they_name(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("out: o\nmodel: m\nbuild: {recipe: seva, seed: 3}\nalign:\n")
    config = RunConfig.read(file, ["build.noise_step=300", "align.max_steps=1"])
    assert config.build == {"recipe": "seva", "seed": 3, "noise_step": 300}
    assert config.align == {"max_steps": 1}


@pytest.mark.parametrize("text", ["beta: 0.1\nbeta: 0.2\n", "a:\n  - {b: 1}\n  - {beta: 1,\n     beta: 2}\n"])
def test_a_config_with_a_name_twice_is_refused_with_its_line(tmp_path: Path, text: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    line = 2 if text.startswith("beta") else 4
    with pytest.raises(ConfigError, match=f"has 'beta' twice, again in line {line}"):
        flags.merge(file, [], {})


def test_one_mapping_may_name_what_another_names_and_merge_keys_are_no_repetition(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("base: &b {x: 1}\nother: {<<: *b, x: 2}\n")
    assert flags.merge(file, [], {}) == {"base": {"x": 1}, "other": {"x": 2}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["align", "d.parquet", "--out", "o"],
         "align: option 'model' is missing (the model to align: a folder or a hub name): give --model MODEL"),
        (["evaluate", "--benchmark", "pope=x", "--out", "o"], "evaluate: option 'model' is missing"),
        (["evaluate", "--model", "m", "--out", "o"], "give --benchmark NAME=PATH, or it in a config file"),
        (["build", "seva", "--model", "m"], "build needs --out"),
        (["score", "--answers", "a", "--out", "o"], "score: option 'benchmarks' is missing"),
    ],
)  # fmt: skip
def test_a_missing_option_is_named_with_its_flag_and_what_it_is(capsys, arguments, message):
    status, error = run(capsys, *arguments)
    assert status == 1
    assert message in error
    assert "Field required" not in error
    assert error.count("\n") == 1


def test_a_part_missing_from_a_runs_config_is_named(capsys, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"out": "o", "build": {"recipe": "seva"}}))
    status, error = run(capsys, "run", tmp_path / "run.yaml", "--dry-run")
    assert status == 1
    assert "option 'model' is missing (the model of all parts: a folder or a hub name)" in error


@pytest.mark.parametrize(
    "given", [["--loss", "dpo", "--loss", "sft"], ["--loss", "dpo,sft"], ["--set", "loss=dpo,sft"]]
)
def test_several_losses_are_all_trained(monkeypatch, tmp_path: Path, given):
    seen = []
    monkeypatch.setattr("pairsight.pipeline.align.align_run", lambda spec, quiet, say: seen.append(spec))
    monkeypatch.setattr("pairsight.cli.show.print_align", lambda aligned: None)
    assert main(["align", "d.parquet", "--model", "m", "--out", str(tmp_path), *given]) == 0
    assert seen[0].training.loss_names == ("dpo", "sft")


def test_one_loss_is_noted_as_before(monkeypatch):
    from pairsight.pipeline.align import AlignSpec

    training = AlignSpec.parse({"data": "d", "model": "m", "loss": "ipo"}).training
    assert json.dumps(training.to_plain()["loss"]) == '"ipo"'
