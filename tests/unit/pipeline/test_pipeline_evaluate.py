"""What `evaluate RUN` makes of a run's trainings and of several test sets, with the shipped tiny models."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pairsight.benchmarks.results_file import read_results
from pairsight.cli.main import main
from pairsight.config import option_facts
from pairsight.errors import RunError
from pairsight.models.folders import fingerprint
from pairsight.models.profiles.choice import read_profile
from pairsight.options import EvaluateOptions
from pairsight.pipeline.evaluate import EvaluateSpec, evaluate_run
from pairsight.registry import plugins
from pairsight.reporting.report import report_html
from pairsight.store.run_folder import RunFolder
from pairsight.tiny.models.shipped import shipped_model
from pairsight.tiny.world.world_files import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    world = write_world(tmp_path_factory.mktemp("files") / "world", scenes=5, prompt_scenes=0, seed=3, model=None)
    rows = (world / "pope.jsonl").read_text().splitlines(keepends=True)
    (world / "random.jsonl").write_text("".join(rows[:8]))
    (world / "popular.jsonl").write_text("".join(rows[8:14]))
    return world


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one finished training, called dpo."""
    run = RunFolder.create(tmp_path / "run", {"recipe": "seva", "num_prompts": 9})
    train(run.path, "dpo")
    return run.path


def train(run: Path, name: str, shipped: str = "terse") -> Path:
    return Path(shutil.copytree(shipped_model(shipped), run / "align" / name, dirs_exist_ok=True))


def evaluate(run: object, world: Path, file: str = "random", *more: object, benchmark: str = "pope") -> int:
    given = ["evaluate", run, "--model", shipped_model(), "--benchmark", f"{benchmark}={world / file}.jsonl"]
    given += ["--images", world / "images", "--quiet", *more]
    return main([str(one) for one in given])


def plain(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def rows(table: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in pq.read_table(table).column("benchmark").to_pylist():
        counts[name] = counts.get(name, 0) + 1
    return counts


def test_two_test_sets_of_one_benchmark_stand_side_by_side(run, world, capsys):
    assert evaluate(run, world, "random") == 0
    first = plain(run)["systems"]["seva"]["benchmarks"]["held-out/pope"]
    assert evaluate(run, world, "popular", "--name", "popular") == 0
    whole = plain(run)
    assert whole["schema"] == 2
    benchmarks = whole["systems"]["seva"]["benchmarks"]
    assert list(benchmarks) == ["held-out/pope", "popular/pope"]
    assert benchmarks["held-out/pope"] == first
    assert [one["rows"] for one in benchmarks.values()] == [8, 6]
    assert [Path(one["file"]).name for one in benchmarks.values()] == ["random.jsonl", "popular.jsonl"]
    assert whole["metrics"] == whole["systems"]["seva"]["metrics"] == first["metrics"]
    printed = capsys.readouterr().out
    page = report_html(run)
    for title in ("pope (held-out, random.jsonl)", "pope (popular, popular.jsonl)"):
        assert title in printed
        assert title in page
    assert "measures of pope (held-out, random.jsonl)" in page
    assert "The same measures" not in page  # neither test set is folded away


def test_a_further_benchmark_joins_an_evaluation_and_its_tables(run, world):
    assert evaluate(run, world) == 0
    before = pq.read_table(run / "evaluate" / "held-out" / "answers-dpo.parquet")
    assert evaluate(run, world, "truth", benchmark="tiny") == 0
    assert list(plain(run)["systems"]["seva"]["benchmarks"]) == ["held-out/pope", "held-out/tiny"]
    answers = pq.read_table(run / "evaluate" / "held-out" / "answers-dpo.parquet")
    assert answers.slice(0, 8).equals(before)
    assert rows(run / "evaluate" / "held-out" / "scores-base.parquet").keys() == {"pope", "tiny"}
    names = json.loads(
        pq.read_schema(run / "evaluate" / "held-out" / "scores-base.parquet").metadata[b"pairsight.columns"]
    )
    assert names.keys() == {"pope", "tiny"}
    assert evaluate(run, world) == 0  # and the first alone again leaves the second
    assert rows(run / "evaluate" / "held-out" / "answers-dpo.parquet").keys() == {"pope", "tiny"}
    assert list(plain(run)["systems"]["seva"]["benchmarks"]) == ["held-out/pope", "held-out/tiny"]


def test_another_limit_or_file_is_refused_with_the_words_that_help(run, world, capsys):
    assert evaluate(run, world) == 0
    before = plain(run)
    assert evaluate(run, world, "random", "--limit", 3) == 1
    error = capsys.readouterr().err
    assert "limit None there, 3 here" in error
    assert "choose another --name or --out" in error
    assert evaluate(run, world, "popular") == 1
    error = capsys.readouterr().err
    assert "path of pope" in error
    assert "popular.jsonl' here" in error
    assert "--name" in error
    assert plain(run) == before
    assert evaluate(run, world, "random", "--limit", 3, "--name", "few") == 0
    assert [one["limit"] for one in plain(run)["systems"]["seva"]["benchmarks"].values()] == [None, 3]


OTHER: dict[str, tuple[bool, object]] = {
    "run": (False, None),
    "model": (True, "another/model"),
    "adapters": (False, {"second": "."}),
    "benchmarks": (True, {}),
    "images": (False, "."),
    "out": (False, None),
    "name": (False, None),
    "benchmark_options": (True, {}),
    "export_official": (False, "official"),
    "parser": (False, "robust"),
    "temperature": (True, 0.5),
    "batch_size": (False, 2),
    "limit": (True, 3),
    "seed": (True, 5),
    "profile": (True, "llava_v1"),
    "chat_template": (False, None),
    "load_in_4bit": (True, True),
    "judge": (False, "."),
    "second_judge": (False, "another"),
    "engine": (False, "processes"),
    "workers": (False, 2),
    "on_error": (False, "skip"),
    "calls": (False, {"max_attempts": 2}),
    "endpoint": (False, {"max_image_side": 512}),
    "trust_remote_code": (False, True),
}
"""Every option of `evaluate`: whether an evaluation refuses to be continued with another value, and such a value."""


class PassedError(Exception):
    """The request was accepted as the same evaluation."""


def test_an_evaluation_is_continued_only_with_what_its_options_say_and_this_for_every_option(run, world, monkeypatch):
    own = run.parent / "own.py"
    own.write_text("from pairsight.benchmarks.suites.pope import Pope\nclass Own(Pope):\n    shade: int = 0\n")
    pope = f"{own}:Own"
    assert evaluate(run, world, benchmark=pope) == 0
    noted = (run / "evaluate" / "held-out" / "run.yaml").read_bytes()
    assert list(yaml.safe_load(noted)) == [
        "kind", "model", "benchmarks", "images", "limit", "seed", "profile", "load_in_4bit",
    ]  # fmt: skip

    def passed(*args: object, **options: object) -> None:
        raise PassedError

    monkeypatch.setattr("pairsight.benchmarks.evaluate.read_tasks", passed)
    monkeypatch.setattr("pairsight.benchmarks.evaluate.check_judge", lambda *args: None)
    monkeypatch.setattr("pairsight.pipeline.evaluate.check_model_name", lambda *args, **options: None)
    monkeypatch.setattr(
        "pairsight.pipeline.evaluate.find_profile", lambda asked, *_, **__: asked and read_profile(asked)
    )
    assert OTHER.keys() == EvaluateOptions.model_fields.keys()
    facts = option_facts(EvaluateOptions)
    for name, (refused, value) in OTHER.items():
        given = {"run": str(run), "model": str(shipped_model()), "benchmarks": {pope: str(world / "random.jsonl")}}
        given |= {"images": str(world / "images"), "adapters": {"dpo": str(run / "align" / "dpo")}}
        given |= {} if value is None else {name: value}
        if name == "workers":
            given["engine"] = "processes"
        if name == "second_judge":
            given["judge"] = "."
        if name == "benchmarks":
            given[name] = {pope: str(world / "popular.jsonl")}
        if name == "benchmark_options":
            given[name] = {pope: {"shade": 1}}
        with plugins(own):
            spec = EvaluateSpec.parse(given)
        with pytest.raises(RunError if refused else PassedError, match="holds another evaluation" if refused else None):
            evaluate_run(spec, quiet=True)
        assert facts[name].compared == refused, name
    assert (run / "evaluate" / "held-out" / "run.yaml").read_bytes() == noted


def test_an_adapter_is_one_system_however_many_there_are(run, world):
    assert evaluate(run, world) == 0
    assert list(plain(run)["systems"]) == ["seva"]
    train(run, "careful", "careful")
    assert evaluate(run, world) == 0
    whole = plain(run)
    assert {name: system["models"]["aligned"] for name, system in whole["systems"].items()} == {
        "seva:dpo": "align/dpo",
        "seva:careful": "align/careful",
    }
    assert whole["primary"] == "seva:dpo"
    assert evaluate(run, world, "popular", "--name", "popular", "--adapter", f"dpo={run / 'align' / 'dpo'}") == 0
    sections = {name: list(system["benchmarks"]) for name, system in plain(run)["systems"].items()}
    assert sections == {"seva:dpo": ["held-out/pope", "popular/pope"], "seva:careful": ["held-out/pope"]}
    assert evaluate(run, world, "random", "--adapter", f"mine={run / 'align' / 'dpo'}") == 0
    assert plain(run)["systems"].keys() == {"seva:mine", "seva:careful"}  # the same adapter, renamed


def test_two_adapters_are_never_one_system(run, world, caplog, capsys):
    assert evaluate(run, world, "random", "--adapter", f"a={shipped_model('terse')}") == 0
    assert evaluate(run, world, "popular", "--name", "p", "--adapter", f"b={shipped_model('careful')}") == 0
    assert list(plain(run)["systems"]) == ["seva:a", "seva:b"]
    assert "seva:b: pope (p, popular.jsonl)" in capsys.readouterr().out  # not an emoji
    assert evaluate(run, world, "popular", "--name", "q", "--adapter", f"a={shipped_model('careful')}") == 0
    whole = plain(run)
    assert {name: list(system["benchmarks"]) for name, system in whole["systems"].items()} == {
        "seva": ["p/pope", "q/pope"]
    }
    assert whole["systems"]["seva"]["models"]["aligned"] == str(shipped_model("careful").resolve())
    assert "seva:a: pope (held-out, random.jsonl) is removed, it was measured with another adapter" in caplog.text


def test_retraining_leaves_nothing_of_the_old_weights(run, world, caplog):
    assert evaluate(run, world, "random") == 0
    assert evaluate(run, world, "popular", "--name", "popular") == 0
    weights = run / "align" / "dpo" / "adapter_model.safetensors"
    save_file({name: tensor * 0.5 for name, tensor in load_file(weights).items()}, weights)
    assert evaluate(run, world, "random") == 0
    benchmarks = plain(run)["systems"]["seva"]["benchmarks"]
    assert list(benchmarks) == ["held-out/pope"]
    now = fingerprint(shipped_model(), run / "align" / "dpo")
    assert benchmarks["held-out/pope"]["models"] == {"base": fingerprint(shipped_model()), "aligned": now}
    assert "pope (popular, popular.jsonl) is removed, it was measured with other weights under that name" in caplog.text


def test_another_content_of_a_file_leaves_no_system_measured_on_the_old(run, world, tmp_path, caplog):
    shutil.copytree(world, tmp_path / "world")
    train(run, "careful", "careful")
    assert evaluate(run, tmp_path / "world") == 0
    (tmp_path / "world" / "random.jsonl").write_text((world / "popular.jsonl").read_text())
    assert evaluate(run, tmp_path / "world", "random", "--adapter", f"dpo={run / 'align' / 'dpo'}") == 0
    whole = plain(run)
    assert list(whole["systems"]) == ["seva"]
    assert whole["metrics"]["accuracy"]["num_items"] == 6
    assert "seva:careful: pope (held-out, random.jsonl) is removed, it was measured with another version" in caplog.text


def test_what_cannot_be_evaluated_is_skipped_with_a_line(run, world, caplog):
    foreign = train(run, "foreign", "careful")
    (foreign / "pairsight.json").write_text(json.dumps({"base_fingerprint": "sha256:another"}))
    (run / "align" / "begun").mkdir()
    (run / "align" / ".locks").mkdir()
    train(run, "an odd name", "careful")
    assert evaluate(run, world) == 0
    assert list(plain(run)["systems"]) == ["seva"]
    assert f"{foreign} is left out: adapter {foreign} was trained on another model" in caplog.text
    assert "begun is left out: it is not finished" in caplog.text
    assert "an odd name is left out: a name" in caplog.text
    assert caplog.text.count("is left out") == 3
    assert evaluate(run, world, "random", "--adapter", f"foreign={foreign}") == 1, "asked for by name it is an error"


def test_a_training_that_an_earlier_version_named_by_its_file_is_told_of_and_can_be_given(run, world, caplog):
    old = train(run, "losses/x.py:f", "careful")
    assert evaluate(run, world) == 0
    assert f"{run}/align/losses is left out: the training inside, {old}, is named after a file" in caplog.text
    assert "give it as --adapter NAME=DIR" in caplog.text
    assert evaluate(run, world, "random", "--adapter", f"f={old}") == 0
    assert set(plain(run)["systems"]) == {"seva:dpo", "seva:f"}


def test_without_one_that_can_be_evaluated_it_is_an_error_before_anything_is_written(run, world, capsys):
    (run / "align" / "dpo" / "pairsight.json").write_text(json.dumps({"base_fingerprint": "sha256:another"}))
    assert evaluate(run, world) == 1
    error = capsys.readouterr().err
    assert "has no adapter that can be evaluated" in error
    assert not (run / "evaluate").exists()


def test_a_mistyped_base_is_named_not_the_adapters(run, world, capsys, caplog):
    given = ["evaluate", str(run), "--model", str(world / "nowhere"), "--benchmark", f"pope={world / 'random.jsonl'}"]
    assert main(given) == 1
    assert "nowhere" in capsys.readouterr().err
    assert "left out" not in caplog.text


def test_a_full_model_is_a_system(run, world):
    full = run / "align" / "full"
    shutil.copytree(shipped_model(), full)
    base = fingerprint(shipped_model())
    (full / "pairsight.json").write_text(json.dumps({"kind": "model", "base_fingerprint": base}))
    weights = full / "model.safetensors"
    save_file({name: tensor * 0.97 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    assert evaluate(run, world) == 0
    systems = plain(run)["systems"]
    assert systems.keys() == {"seva:dpo", "seva:full"}
    assert systems["seva:full"]["models"]["aligned"] == "align/full"
    assert systems["seva:full"]["benchmarks"]["held-out/pope"]["models"]["aligned"] == fingerprint(full)


@pytest.mark.parametrize("wrong", ["nowhere", "images", "broken"])
def test_a_mistyped_benchmark_claims_no_folder(world, tmp_path, wrong):
    (tmp_path / "broken.jsonl").write_text('{"question_id": 1}\n')
    paths = {"nowhere": world / "nowhere.jsonl", "images": world / "images", "broken": tmp_path / "broken.jsonl"}
    given = ["evaluate", "--model", shipped_model(), "--images", world / "images", "--out", tmp_path / "out", "--quiet"]
    assert main([str(one) for one in [*given, "--benchmark", f"pope={paths[wrong]}"]]) == 1
    assert not (tmp_path / "out").exists()
    assert main([str(one) for one in [*given, "--benchmark", f"pope={world / 'random.jsonl'}"]]) == 0


def test_a_mistyped_images_folder_claims_none_either(world, tmp_path):
    given = ["evaluate", "--model", shipped_model(), "--out", tmp_path / "out", "--quiet"]
    given += ["--benchmark", f"pope={world / 'random.jsonl'}", "--images"]
    for wrong in (world / "imaegs", tmp_path):
        assert main([str(one) for one in [*given, wrong]]) == 1
        assert not (tmp_path / "out").exists()


def test_an_evaluation_elsewhere_is_called_after_its_folder(run, world, tmp_path):
    assert evaluate(run, world) == 0
    assert evaluate(run, world, "popular", "--out", tmp_path / "there") == 0
    benchmarks = plain(run)["systems"]["seva"]["benchmarks"]
    assert list(benchmarks) == ["held-out/pope", f"{tmp_path / 'there'}/pope"]
    alone = json.loads((tmp_path / "there" / "results.json").read_text())
    assert list(alone["systems"]["dpo"]["benchmarks"]) == ["pope"]


def test_one_folder_has_one_name_in_a_call(run, world, capsys):
    adapter = run / "align" / "dpo"
    assert evaluate(run, world, "random", "--adapter", f"a={adapter}", "--adapter", f"b={adapter}") == 1
    assert "adapters 'a' and 'b' are the same folder" in capsys.readouterr().err
    assert not (run / "evaluate").exists()


def test_results_that_cannot_be_read_are_said_before_anything_is_answered(run, world, capsys):
    (run / "results.json").write_text('{"schema": 9}')
    assert evaluate(run, world) == 1
    assert "schema 9, this Pairsight reads 1 and 2; move the file away and evaluate again" in capsys.readouterr().err
    assert not (run / "evaluate").exists()


def test_results_of_schema_1_are_taken_over(run, world, caplog):
    assert evaluate(run, world, "random") == 0
    whole = plain(run)
    section = whole["systems"]["seva"]["benchmarks"].pop("held-out/pope")
    for name in ("evaluation", "benchmark", "file", "models"):
        del section[name]
    system = {
        "models": {"base": "sha256:1", "aligned": str(run / "align" / "dpo")},
        "data": {"prompts": 9, "pairs": 0},
        "metrics": section["metrics"],
        "benchmarks": {"pope": section, "mme": {**section, "sha256": "1" * 64}},
    }
    old = {"schema": 1, "run": "run", "primary": "seva", "metrics": section["metrics"], "systems": {"seva": system}}
    (run / "results.json").write_text(json.dumps(old))
    assert "pope" in report_html(run)
    assert evaluate(run, world, "random") == 0
    system = read_results(run / "results.json").systems["seva"]
    assert [(one.name, one.evaluation) for one in system.sections] == [("pope", "held-out"), ("mme", "")]
    assert system.sections[1].settings["sha256"] == "1" * 64
