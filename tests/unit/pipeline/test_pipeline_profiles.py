"""A profile from the command line, through build, align and evaluate; completions and answers in 4 bits."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import llava15
from pairsight.cli.main import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    numbers = np.random.default_rng(2)
    (folder / "images").mkdir()
    for name, size in (("a.png", (30, 50, 3)), ("b.png", (44, 28, 3))):
        Image.fromarray(numbers.integers(0, 256, size, dtype=np.uint8)).save(folder / "images" / name)
    rows = [
        {"id": name, "image": f"{name}.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}]}
        for name in ("a", "b")
    ]
    (folder / "prompts.json").write_text(json.dumps(rows))
    pope = [
        {"question_id": 1, "image": "a.png", "text": "Is it red?", "label": "yes"},
        {"question_id": 2, "image": "b.png", "text": "Is it red?", "label": "no"},
    ]
    (folder / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pope))
    llava15.build(folder / "model")
    return folder


def build(files: Path, out: str, *more: str) -> int:
    given = ["--model", files / "model", "--prompts", files / "prompts.json", "--images", files / "images"]
    sizes = ["--set", "max_new_tokens=4", "--set", "noise_step=999"]
    return main(["build", "seva", *map(str, given), "--out", str(files / out), *sizes, *more, "--quiet"])


def evaluate(files: Path, *more: str) -> int:
    pope, images = f"pope={files / 'pope.jsonl'}", str(files / "images")
    return main(
        ["evaluate", *more, "--model", str(files / "model"), "--benchmark", pope, "--images", images, "--quiet"]
    )


def run_yaml(files: Path, out: str) -> Any:
    return yaml.safe_load((files / out / "run.yaml").read_text())


def test_a_build_in_4_bits_and_with_a_profile_is_another_build(files: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert build(files, "plain") == 0
        assert "--profile llava-1.5" in caplog.text
        caplog.clear()
        assert build(files, "padded", "--profile", "llava-1.5") == 0
        assert build(files, "small", "--profile", "none", "--set", "load_in_4bit=true") == 0
        assert "--profile" not in caplog.text
    found = {name: run_yaml(files, name) for name in ("plain", "padded", "small")}
    assert len({one["model_fingerprint"] for one in found.values()}) == 3
    assert found["padded"]["profile_options"]["name"] == "llava-1.5"
    assert "profile" not in found["plain"] and "profile_options" not in found["small"]
    assert found["small"]["load_in_4bit"] is True and "load_in_4bit" not in found["plain"]
    assert build(files, "padded", "--profile", "llava-1.5") == 0, "it is resumed"
    assert build(files, "padded") == 1, "another profile is another run"


def test_an_endpoint_is_not_asked_in_4_bits_or_with_turns(files: Path, capsys: pytest.CaptureFixture[str]):
    for more, words in (
        (["--set", "load_in_4bit=true"], "load_in_4bit is for models on this machine"),
        (["--profile", "llava-1.5"], "which a server does itself"),
    ):
        given = ["--model", "endpoint:m@http://127.0.0.1:1/v1", "--prompts", str(files / "prompts.json")]
        given += ["--images", str(files / "images"), "--out", str(files / "never"), *more]
        assert main(["build", "feedback", "--annotator", "endpoint:m@http://127.0.0.1:1/v1", *given]) == 1
        assert words in capsys.readouterr().err
        assert not (files / "never").exists()


@pytest.mark.long
def test_an_adapter_is_trained_and_evaluated_as_its_run_was_built(files: Path, capsys: pytest.CaptureFixture[str]):
    assert build(files, "run", "--profile", "llava-1.5", "--set", "strategy=clean_over_distorted") == 0
    run, model = str(files / "run"), str(files / "model")
    options = ["--set", "max_steps=1", "--set", "lora_r=2", "--set", "report_to=[]", "--quiet"]
    assert main(["align", run, "--model", model, *options]) == 0
    assert json.loads((files / "run/align/dpo/inference.json").read_text())["profile"]["name"] == "llava-1.5"
    assert yaml.safe_load((files / "run/align/dpo/align.yaml").read_text())["profile"]["name"] == "llava-1.5"
    assert main(["align", run, "--model", model, "--profile", "llava_v1", *options]) == 1
    assert "another profile" in capsys.readouterr().err
    own = ["--set", "benchmark_options.pope.prompt_suffix=", "--set", "benchmark_options.pope.max_new_tokens=3"]
    assert evaluate(files, run, *own, "--set", "load_in_4bit=true") == 0
    results = json.loads((files / "run/evaluate/held-out/results.json").read_text())
    (system,) = results["systems"].values()
    noted = system["benchmarks"]["pope"]
    assert [noted[name] for name in ("prompt_suffix", "max_new_tokens", "temperature", "profile", "load_in_4bit")] == [
        "", 3, 0.0, "llava-1.5", True,
    ]  # fmt: skip
    capsys.readouterr()
    assert evaluate(files, run, "--profile", "none", "--name", "other") == 1
    assert "was trained with profile 'llava-1.5', and --profile asks for no profile" in capsys.readouterr().err
    assert evaluate(files, run, *own) == 1, "without 4 bits it is another evaluation"
    assert "load_in_4bit True there, None here" in capsys.readouterr().err
