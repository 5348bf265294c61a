"""Run folders from strangers: nothing in them runs, hangs, fills the memory or is written outside of the run."""

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from strangers import CHEAP, VERBS, call, outside

from pairsight.cli import main
from pairsight.pipeline.select import load_candidates, select

CHEAPEST = [pytest.param("report", marks=pytest.mark.long), *CHEAP[1:]]
"""Making a page takes a second."""


def edit(run: Path, **values: object) -> None:
    file = run / "run.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **values}))


def names_code(run: Path, code: Path) -> None:
    """Everything in a run folder that names a piece names code."""
    edit(
        run,
        recipe_file=f"{code}:Recipe",
        strategy={"name": f"{code}:Strategy"},
        strategy_file=f"{code}:Strategy",
        loss=f"{code}:loss",
        benchmarks={f"{code}:benchmark": "x"},
        format=f"{code}:read",
    )
    for file in ("align.yaml", "selection.yaml"):
        text = yaml.safe_dump(
            {
                "model": "m",
                "strategy": f"{code}:Strategy",
                "strategy_options": {"a": 1},
                "training": {"loss": f"{code}:loss"},
            }
        )
        (run / "align" / "dpo" / file).write_text(text)
    results = json.loads((run / "results.json").read_text())
    system = next(iter(results["systems"].values()))
    system["benchmarks"][f"{code}:benchmark"] = system["benchmarks"]["pope"]
    (run / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_runs_the_code_that_a_run_folder_names(
    verb: str, run: Path, world: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names_code(run, code)
    status = call(verb, run, world)
    errors = capsys.readouterr().err
    assert not code.with_name("ran").exists()
    assert "Traceback" not in errors
    if verb != "status":  # with --verify it says that a finished training's files were changed
        assert (status == 0) == (verb in (*CHEAP, "evaluate"))
    if verb in ("align", "study"):
        assert f"add --plugin {code}" in errors


def test_the_report_shows_what_a_run_names_as_text(run: Path, world: Path, code: Path) -> None:
    names_code(run, code)
    assert call("report", run, world) == 0
    page = (run / "report.html").read_text()
    assert f"pairsight build {code}:Recipe" in page
    assert f"--plugin {code}" in page  # of the align command


def test_named_in_this_call_the_code_runs_and_only_that_file(
    run: Path, world: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, recipe_file=f"{code}:Recipe", strategy={"name": "mine"}, strategy_file=f"{code}:Strategy")
    other = tmp_path / "other.py"
    other.write_text("")
    assert call("align", run, world, "--plugin", str(other)) == 1
    assert f"add --plugin {code}" in capsys.readouterr().err
    (tmp_path / "link.py").symlink_to(code)
    assert call("report", run, world, "--plugin", str(tmp_path / "link.py")) == 0
    assert code.with_name("ran").exists()
    assert call("align", run, world) == 1  # the call before named it, this one does not
    assert call("align", run, world, "--plugin", str(tmp_path / "nothing.py")) == 1
    assert "must be an existing Python file" in capsys.readouterr().err


def test_the_run_of_a_users_own_code_goes_on_when_it_is_named(
    world: Path, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """build from a file (the user's own words), then align with --plugin: the run's own strategy and defaults."""
    out = tmp_path / "own"
    given = f"--prompts {world}/prompts.json --images {world}/images --limit 4 --out {out} --quiet"
    assert (
        main([*f"build {code}:Recipe --model {world}/model {given}".split(), "--set", f"strategy={code}:Strategy"]) == 0
    )
    said = capsys.readouterr().out
    assert f"pairsight align {out} --model {world}/model --plugin {code}" in said
    assert main(f"align {out} --model {world}/model --set max_steps=1 --quiet".split()) == 1
    assert f"add --plugin {code}" in capsys.readouterr().err
    assert main(f"align {out} --model {world}/model --set max_steps=1 --quiet --plugin {code}".split()) == 0
    assert main(f"report {out}".split()) == 0
    page = (out / "report.html").read_text()
    assert re.search(rf"pairsight align own --model \S+ --name dpo .*--plugin {code}", page)


@pytest.mark.parametrize("verb", ["build", "align", "evaluate", "score", "run", "study"])
def test_a_config_file_that_names_code_needs_the_flag(
    verb: str, run: Path, world: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = code.parent
    parts = {
        "build": ({"strategy": f"{code}:Strategy", "seed": 0}, VERBS["build"].replace("{run}", f"{tmp_path}/new")),
        "align": ({"loss": [f"{code}:loss"]}, VERBS["align"]),
        "evaluate": (
            {"benchmarks": {f"{code}:benchmark": f"{world}/pope.jsonl"}},
            "evaluate --model {model} --images {world}/images --out {run}-e --quiet",
        ),
        "score": ({"benchmarks": {f"{code}:benchmark": "x"}}, "score --answers x --out {run}-s"),
        "run": (
            {
                "out": f"{tmp_path}/new",
                "model": f"{world}/model",
                "build": {"recipe": f"{code}:Recipe", "prompts": f"{world}/prompts.json", "images": f"{world}/images"},
            },
            f"run {tmp_path}/config.yaml --dry-run",
        ),
        "study": (
            {"strategies": [f"{code}:Strategy"], "rate_factors": [1.0]},
            VERBS["study"],
        ),
    }
    values, words = parts[verb]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    line = shlex.split(words.format(run=run, model=world / "model", world=world))
    line += [] if verb == "run" else ["--config", str(config)]
    assert main(line) == 1
    assert f"add --plugin {code}" in capsys.readouterr().err
    assert not code.with_name("ran").exists()
    main([*line, "--plugin", str(code)])
    assert code.with_name("ran").exists()


def test_in_python_arguments_are_the_users_word_and_files_are_not(run: Path, code: Path, tmp_path: Path) -> None:
    import pairsight as ps

    edit(run, strategy={"name": "mine"}, strategy_file=f"{code}:Strategy")
    candidates = load_candidates(run)
    with pytest.raises(ps.PairsightError, match="add --plugin"):
        select(candidates)
    assert not code.with_name("ran").exists()
    with ps.plugins(code):
        assert len(select(candidates)[0].items) > 0
    assert len(select(candidates, f"{code}:Strategy")[0].items) > 0
    with pytest.raises(ps.PairsightError, match="add --plugin"):
        select(candidates)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\n"


DEEP_JSON, DEEP_YAML = "[" * 200_000, "a: " + "[" * 5_000 + "]" * 5_000
WRONG = (None, 1, -1.5, "text", [], [1, None, {}], {}, {"name": 3}, {"a": {"b": [[]]}}, True, "2020-99-99", "\ud83d")
"""Values that are something else than what was expected."""


def write_everywhere(run: Path, names: tuple[str, ...], text: str) -> None:
    for pattern in names:
        for file in list(run.rglob(pattern)):
            file.write_text(text)


JSON_FILES = (
    "results.json", "versions.json", "manifest.json", "metrics.jsonl", "pairsight.json", "adapter_config.json",
    "training.json", "complete.json", "trainer_state.json",
)  # fmt: skip
BOMBED = [pytest.param(verb, marks=() if verb in CHEAP[1:] else pytest.mark.long) for verb in VERBS]
"""Every verb; the cheap ones in CI."""


def every_value(plain: object, wrong: object) -> list[object]:
    """Copies of plain values, in each of which one value (at any depth) is the wrong one."""
    parts = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    copies = [wrong]
    for key, part in list(parts)[:12]:
        for changed in every_value(part, wrong):
            copy = dict(plain) if isinstance(plain, dict) else list(plain)  # type: ignore[call-overload]
            copy[key] = changed
            copies.append(copy)
    return copies


@pytest.mark.parametrize("verb", BOMBED)
@pytest.mark.parametrize(
    "text", [bomb(), DEEP_YAML, "a: &a [*a]", "a: " + "1:" * 300_000 + "1", "\x00", "x: 2020-99-99"]
)
def test_yaml_bombs_are_one_line(
    verb: str, text: str, run: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_everywhere(run, ("*.yaml",), text)
    assert call(verb, run, world) == (0 if verb == "report" else 1)
    assert len(capsys.readouterr().err) < 1_000


@pytest.mark.parametrize("verb", BOMBED)
@pytest.mark.parametrize("file", JSON_FILES)
def test_deep_json_is_one_line(
    verb: str, file: str, run: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_everywhere(run, (file,), DEEP_JSON)
    status = call(verb, run, world)
    errors = capsys.readouterr().err.splitlines()
    assert status in (0, 1)
    assert sum(line.startswith("error: ") for line in errors) == status
    assert all(len(line) < 1_000 for line in errors)


FILES = {
    "status": ("run.yaml", "versions.json", "data/manifest.json"),
    "inspect": ("run.yaml", "results.json", "data/manifest.json"),
    "align again": ("run.yaml", "align/dpo/align.yaml", "align/dpo/pairsight.json", "align/dpo/adapter_config.json"),
    "evaluate": ("run.yaml", "results.json", "align/dpo/pairsight.json", "align/dpo/adapter_config.json"),
    "report": ("run.yaml", "align/dpo/align.yaml", "align/dpo/selection.yaml", "results.json", "versions.json"),
    "build": ("run.yaml", "versions.json", "data/manifest.json"),
    "study": ("run.yaml", "results.json"),
    "retry": ("run.yaml", "versions.json"),
    "salvage": ("run.yaml", "data/manifest.json"),
}
"""What each verb reads of a run."""
READ = [
    pytest.param(f"{verb}: {file}", marks=pytest.mark.long if verb in ("report", "inspect", "build", "study") else ())
    for verb, files in FILES.items()
    for file in files
]


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("wrong", [3, pytest.param(WRONG, marks=pytest.mark.long)], ids=["one", "all"])
def test_wrong_types_everywhere_are_no_traceback(
    read: str, wrong: object, run: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, _, file = read.partition(": ")
    monkeypatch.setattr("pairsight.reporting.run_view.draw_curves", lambda trainings: [])  # slow, and reads no file
    path = run / file
    plain = yaml.safe_load(path.read_text())
    for one in wrong if isinstance(wrong, tuple) else (wrong,):
        changed = every_value(plain, one)
        cheap = len(changed) if verb in CHEAP else 8  # a training takes a second
        tried = min(len(changed), 60) if isinstance(wrong, tuple) else cheap
        for copy in changed[:: max(1, len(changed) // max(1, tried))]:
            path.write_text(json.dumps(copy))
            assert call(verb, run, world) in (0, 1), copy


LINKS = (
    "run.log", "report.html", "inspection.html", "results.json", "ledger.sqlite", ".locks/build", ".locks/align-dpo",
    ".locks/align-stranger", ".locks/evaluate", ".locks", "align", "align/dpo", "align/stranger", "evaluate",
    "evaluate/held-out", "data", "data/manifest.json", "references", "blobs", "blobs/sha256", "versions.json",
    "align/dpo/metrics.jsonl", "align/dpo/align.yaml", "align/dpo/.lock", "run.yaml", "evaluate/x/ledger.sqlite",
)  # fmt: skip


@pytest.mark.parametrize("links", [LINKS[::3], pytest.param(LINKS, marks=pytest.mark.long)], ids=["some", "all"])
@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_written_through_a_link_that_leads_out(
    verb: str,
    links: tuple[str, ...],
    template: Path,
    *,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, name in enumerate(links):
        run = tmp_path / str(number) / "inside" / "run"
        shutil.copytree(template, run)
        target = run.parent.parent / "victim"
        link = run / name
        if link.exists():
            shutil.move(link, target)
        elif "." in link.name or ".locks" in name:
            target.write_text("mine")
        else:
            target.mkdir()
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        before = outside(run)
        assert call(verb, run, world) in (0, 1), name
        assert outside(run) == before, (verb, name)
        assert "Traceback" not in capsys.readouterr().err
        shutil.rmtree(run.parent.parent)


@pytest.mark.parametrize("verb", CHEAPEST)
def test_names_that_lead_out_are_refused(
    verb: str, run: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.parquet"
    shutil.copy(next((run / "data").glob("pairs-*.parquet")), secret)
    for name in (str(secret), "../../../secret.parquet", "sub/../pairs-00000.parquet", "", ".", "\x00", 7, None):
        manifest = json.loads((run / "data" / "manifest.json").read_text())
        for shards in manifest["tables"].values():
            shards[0]["file"] = name
        (run / "data" / "manifest.json").write_text(json.dumps(manifest))
        before = outside(run)
        assert call(verb, run, world) in (0, 1)
        assert outside(run) == before
        assert "Traceback" not in capsys.readouterr().err


Spoil = Callable[[Path], None]


@pytest.mark.parametrize("verb", CHEAPEST)
def test_files_that_are_pipes_or_folders_do_not_hang(verb: str, template: Path, world: Path, tmp_path: Path) -> None:
    for number, name in enumerate(
        ("versions.json", "results.json", "data/manifest.json", "ledger.sqlite", "align/dpo/metrics.jsonl",
         "align/dpo/align.yaml", "run.yaml", ".locks/build", "run.log")
    ):  # fmt: skip
        for make in (os.mkfifo, os.mkdir):
            run = tmp_path / f"{number}{make.__name__}" / "inside" / "run"
            shutil.copytree(template, run)
            (run / name).unlink(missing_ok=True)
            (run / name).parent.mkdir(exist_ok=True)
            make(run / name)
            assert call(verb, run, world) in (0, 1), name


@pytest.mark.parametrize("kind", ["rows", "few rows", "cell"])
@pytest.mark.parametrize("verb", CHEAPEST[:3])
def test_a_small_table_that_unpacks_to_far_more_is_one_line(
    kind: str,
    verb: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Much in one cell, many rows without any, or more rows than are ever in one file, in a file of some kilobytes."""
    monkeypatch.setattr("pairsight.store.sealed.MOST_UNPACKED_BYTES", 1 << 20)
    file = run / "data" / "pairs-00000.parquet"
    if kind == "cell":
        table = pa.table({"record": pa.array(["a" * (8 << 20)])})
    else:
        num_rows = 2_000_000 if kind == "rows" else 100_001
        table = pa.table({"record": pa.nulls(num_rows, pa.null())})
    pq.write_table(table, file, compression="zstd", row_group_size=2_000_000)
    assert file.stat().st_size < 8_000
    manifest = run / "data" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["tables"]["pairs"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    status = main(shlex.split(VERBS[verb].format(run=run)))
    said = capsys.readouterr()
    assert "was not written by Pairsight" in said.err + said.out or (verb == "report" and status == 0)
    assert said.err.count("\n") <= 1
