"""Every verb on a small world's files, as a user types them; the README's Python lines, unchanged."""

import json
import re
from pathlib import Path

import pytest

from pairsight.cli.main import main
from pairsight.tiny.world.world_files import write_world

ROOT = Path(__file__).parents[3]
SMALL = ["--set", "max_new_tokens=24", "--quiet"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("files") / "world", scenes=8, seed=5)


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    """A run that was built, aligned, evaluated and reported by the command line."""
    run = world.parent / "run"
    model = world / "model"
    assert command("build", "seva", "--model", model, *files(world), "--out", run, *SMALL) == 0
    assert command("align", run, "--model", model, "--merge", "--quiet", "--set", "max_steps=3") == 0
    benchmark = f"pope={world / 'pope.jsonl'}"
    images = world / "images"
    assert command("evaluate", run, "--model", model, "--benchmark", benchmark, "--images", images, "--quiet") == 0
    assert command("report", run) == 0
    return run


def command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def files(world: Path) -> list[object]:
    return ["--prompts", world / "prompts.json", "--images", world / "images"]


def test_a_run_leaves_what_the_readme_says(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    for name in (
        "run.yaml",
        "versions.json",
        "run.log",
        "ledger.sqlite",
        "data/pairs-00000.parquet",
        "data/completions-00000.parquet",
        "data/dropped-00000.parquet",
        "data/manifest.json",
        "align/dpo/align.yaml",
        "align/dpo/adapter_model.safetensors",
        "align/dpo/metrics.jsonl",
        "align/dpo/README.md",
        "align/dpo/merged/config.json",
        "evaluate/held-out/answers-base.parquet",
        "evaluate/held-out/scores-dpo.parquet",
        "results.json",
        "report.html",
    ):
        assert name in names, name


def test_results_compare_base_and_aligned(run):
    results = json.loads((run / "results.json").read_text())
    assert results["primary"] == "seva"
    row = results["systems"]["seva"]["benchmarks"]["held-out/pope"]["metrics"]["accuracy"]
    assert row["difference"] == pytest.approx(row["aligned"] - row["base"])
    assert row["low"] <= row["difference"] <= row["high"]


def test_plain_libraries_load_adapter_and_merged_model_and_agree(run, world):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    base = AutoModelForImageTextToText.from_pretrained(world / "model", dtype=torch.float32)
    ids = torch.arange(5, 13)[None]
    before = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, run / "align" / "dpo").eval()
    merged = AutoModelForImageTextToText.from_pretrained(run / "align" / "dpo" / "merged", dtype=torch.float32)
    AutoProcessor.from_pretrained(run / "align" / "dpo" / "merged")
    after = adapted(input_ids=ids).logits
    assert not torch.allclose(before, after, atol=1e-5), "the weights have moved"
    torch.testing.assert_close(merged(input_ids=ids).logits, after, atol=2e-2, rtol=1e-2)


def test_every_verb_again_changes_nothing(run, world):
    before = {path: path.read_bytes() for path in (run / "data").iterdir()}
    adapter = (run / "align" / "dpo" / "adapter_model.safetensors").read_bytes()
    model = world / "model"
    assert command("build", "seva", "--model", model, *files(world), "--out", run, *SMALL) == 0
    assert command("align", run, "--model", model, "--merge", "--quiet", "--set", "max_steps=3") == 0
    assert {path: path.read_bytes() for path in (run / "data").iterdir()} == before
    assert (run / "align" / "dpo" / "adapter_model.safetensors").read_bytes() == adapter


def test_another_run_in_the_same_folder_is_refused_and_update_changes_it(run, world, tmp_path, capsys):
    model, out = world / "model", tmp_path / "run"
    arguments = ["build", "seva", "--model", model, *files(world), "--out", out, *SMALL]
    assert command(*arguments, "--limit", 4) == 0
    assert command(*arguments, "--limit", 6) == 1
    error = capsys.readouterr().err
    assert "limit: 4 there, 6 here" in error
    assert error.count("\n") == 1
    assert command(*arguments, "--limit", 6, "--update") == 0


def test_status_inspect_and_retry_read_the_run(run, capsys):
    assert command("status", run, "--verify") == 0
    assert "generate" in capsys.readouterr().out
    assert command("inspect", run) == 0
    assert "pairs" in capsys.readouterr().out
    assert command("retry", run) == 0
    assert capsys.readouterr().out.startswith("0 failed items")


def test_feedback_with_a_model_that_cannot_annotate_is_an_error_and_every_failure_is_counted(world, tmp_path, capsys):
    out = tmp_path / "feedback"
    model = world / "model"
    status = command(
        "build", "feedback", "--model", model, "--annotator", model, *files(world), "--limit", 3, "--out", out, *SMALL
    )
    said = capsys.readouterr()
    assert status == 1
    assert said.out == ""
    assert "stage 'annotate' failed for every item (3 of 3 for 'unparsed'" in said.err
    assert "pairsight retry" in said.err
    assert command("status", out) == 0
    assert "3 unparsed" in capsys.readouterr().out


def test_one_config_does_it_all(world, tmp_path, capsys):
    out = tmp_path / "run"
    config = tmp_path / "run.yaml"
    config.write_text(
        json.dumps(
            {
                "out": str(out),
                "model": str(world / "model"),
                "build": {
                    "recipe": "seva",
                    "prompts": str(world / "prompts.json"),
                    "images": str(world / "images"),
                    "max_new_tokens": 24,
                    "limit": 12,
                },
                "align": {"max_steps": 1},
                "evaluate": {"benchmarks": {"tiny": str(world / "truth.jsonl")}, "images": str(world / "images")},
            }
        )
    )
    assert command("run", config, "--dry-run", "--quiet") == 0
    assert not out.exists()
    assert "12 prompts" in capsys.readouterr().out
    assert command("run", config, "--quiet") == 0
    assert (out / "report.html").is_file()
    assert "chair_i" in json.loads((out / "results.json").read_text())["metrics"]


def test_the_lines_of_the_readme_run(world, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world").symlink_to(world)
    names: dict[str, object] = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert (Path(str(names["adapter"])) / "adapter_model.safetensors").is_file()
    assert names["results"]["systems"]
