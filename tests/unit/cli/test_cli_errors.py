"""What a user sees when something is wrong: one line, the right name, no traceback, and before any model loads."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from pairsight.cli.main import main
from pairsight.tiny.models.shipped import shipped_model


def run(capsys, *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err


def one_line(error: str) -> bool:
    return error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error


@pytest.fixture
def world(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    rows = [{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}]}]
    (tmp_path / "prompts.json").write_text(json.dumps(rows))
    return tmp_path


def build_arguments(world: Path) -> list[object]:
    return ["build", "seva", "--prompts", world / "prompts.json", "--images", world, "--out", world / "run", "--quiet"]


def test_an_unknown_flag_names_the_right_one(capsys):
    status, error = run(capsys, "build", "seva", "--promts", "x")
    assert status == 2
    assert one_line(error)
    assert "--prompts" in error


def test_an_unknown_verb_names_the_right_one(capsys):
    status, error = run(capsys, "biuld")
    assert status == 2
    assert one_line(error)


def test_an_unknown_recipe_names_the_right_one(capsys, world):
    status, error = run(capsys, "build", "seav", "--out", world / "run")
    assert status == 1
    assert one_line(error)
    assert "did you mean 'seva'" in error


def test_an_unknown_setting_names_the_right_one(capsys, world):
    status, error = run(capsys, *build_arguments(world), "--model", world, "--set", "noise_stpe=3")
    assert status == 1
    assert one_line(error)
    assert "noise_step" in error


def test_a_missing_model_is_said_before_anything_is_written(capsys, world):
    status, error = run(capsys, *build_arguments(world), "--model", world / "nowhere")
    assert status == 1
    assert one_line(error)
    assert "nowhere" in error
    assert not (world / "run").exists()


def test_a_model_folder_without_a_config_is_refused(capsys, world):
    (world / "empty").mkdir()
    status, error = run(capsys, *build_arguments(world), "--model", world / "empty")
    assert status == 1
    assert one_line(error)
    assert "config.json" in error


def test_bad_json_names_file_and_line(capsys, world):
    (world / "prompts.json").write_text('[{"id": "1",\n "image": }]')
    status, error = run(capsys, *build_arguments(world), "--model", shipped_model())
    assert status == 1
    assert one_line(error)
    assert "prompts.json" in error
    assert "2" in error


@pytest.mark.parametrize("given", [["--per-source", 3], ["--question", "What?"], ["--set", "dataset_answers=true"]])
def test_what_chooses_among_prompts_is_refused_where_completions_are_given(capsys, world, given):
    arguments = ["build", "feedback", "--completions", world / "c.jsonl", "--out", world / "run", "--model", "org/name"]
    status, error = run(capsys, *arguments, "--annotator", "org/other", *given)
    assert status == 1
    assert one_line(error)
    assert "choose among prompts: give --prompts FILE as well" in error


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("seva", "--annotator", "recipe 'seva' uses no annotator; leave --annotator out"),
        ("seva", "--writer", "recipe 'seva' uses no writer"),
        ("feedback", "--writer", "recipe 'feedback' uses no writer"),
        ("synthetic", "--completions", "recipe 'synthetic' makes its own completions; --completions is for feedback"),
        ("seva", "--completions", "model changes nothing, the completions are given; leave model out"),
    ],
)
def test_a_model_or_completions_that_the_recipe_leaves_aside_are_refused(capsys, world, recipe, given, message):
    status, error = run(capsys, "build", recipe, "--out", world / "run", "--model", "org/name", given, "org/x")
    assert status == 1
    assert one_line(error)
    assert message in error
    assert not (world / "run").exists()


@pytest.mark.parametrize("verb", ["build", "evaluate"])
def test_a_missing_image_says_how_to_continue_without_it(capsys, world, verb):
    (world / "a.png").unlink()
    (world / "pope.jsonl").write_text('{"question_id": 1, "image": "a.png", "text": "Is it red?", "label": "yes"}')
    evaluate = ["evaluate", "--benchmark", f"pope={world / 'pope.jsonl'}", "--images", world, "--out", world / "e"]
    arguments = build_arguments(world) if verb == "build" else [*evaluate, "--quiet"]
    status, error = run(capsys, *arguments, "--model", shipped_model())
    assert status == 1
    assert one_line(error)
    assert "a.png does not exist" in error
    assert "--on-error skip" in error


def test_a_disk_that_cannot_be_written_gives_no_traceback(capsys, world, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path / "report.html"))

    monkeypatch.setattr("pairsight.reporting.report.write_report", refuse)
    status, error = run(capsys, "report", world)
    assert (status, error) == (1, f"error: {world / 'report.html'}: Permission denied\n")


def test_wrong_benchmark_syntax_is_explained(capsys, world):
    status, error = run(capsys, "evaluate", "--model", world, "--benchmark", "pope", "--out", world / "e")
    assert status == 1
    assert one_line(error)
    assert "NAME=PATH" in error


def test_a_folder_that_is_not_a_run_is_refused_by_every_verb_that_reads_runs(capsys, world):
    for verb in ("report", "status"):
        status, error = run(capsys, verb, world)
        assert status == 1, verb
        assert one_line(error), error


@pytest.mark.parametrize(
    "verb", ["build", "align", "evaluate", "run", "report", "inspect", "status", "retry", "tiny", "demo"]
)
def test_every_verb_has_help_that_loads_nothing_heavy(capsys, verb):
    before = set(sys.modules)
    assert main([verb, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out
    assert not {"torch", "transformers", "pyarrow", "kornia"} & (set(sys.modules) - before)


@pytest.mark.parametrize("words", ["build seva --out o\udcff", "align run --model m\udcff", "status o\udcff"])
def test_a_name_that_is_not_utf8_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "is not UTF-8" in line
