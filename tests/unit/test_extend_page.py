"""Every block of docs/extend.md is run, in order and in one folder, as a reader would."""

import json
import re
import shlex
import sys
import tomllib
from contextlib import chdir
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from pairsight import registry
from pairsight.cli.main import main
from pairsight.errors import DataError
from pairsight.formats.pairs import read_pairs
from pairsight.formats.prompts import read_prompts
from pairsight.formats.record_tables import read_candidates
from pairsight.images.source import FileImages
from pairsight.models.scorers.names import load_completion_scorer, sees_images
from pairsight.pipeline.evaluate import run_adapters
from pairsight.records import Candidates, Completion
from pairsight.selection.strategy import make_strategy
from pairsight.store.run_folder import RunFolder
from pairsight.training.config import TrainingConfig
from pairsight.training.loss_grid import LossInputs

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLES = {table.kind: table for table in vars(registry).values() if isinstance(table, registry.Registry)}
INTRODUCTION, *SECTIONS = PAGE.read_text(encoding="utf-8").split("\n## ")


def run_blocks(text: str) -> None:
    """Write the blocks that have a file's name, and run the others."""
    for language, title, body in BLOCK.findall(text):
        if title:
            Path(title).write_text(body, encoding="utf-8")
        elif language == "sh":
            for line in body.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
        else:
            assert language == "python", f"what is a block of {language!r}?"
            exec(compile(body, "extend.md", "exec"), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page is followed, after its introduction; the files of all sections are there."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("extend")
    with chdir(folder):
        run_blocks(INTRODUCTION)
        for _, title, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if title:
                Path(title).write_text(body, encoding="utf-8")
    return folder


def follow(title: str, folder: Path) -> None:
    (text,) = [section for section in SECTIONS if section.startswith(f"{title}\n")]
    with chdir(folder):
        run_blocks(text)


def test_every_kind_has_a_section_and_every_section_a_test():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_a_")}
    assert {section.partition("\n")[0].lower().replace(" ", "_") for section in SECTIONS} == tested


def test_a_loss(folder):
    follow("A loss", folder)
    adapter = folder / "runs" / "first" / "align" / "squared_hinge"
    assert yaml.safe_load((adapter / "align.yaml").read_text())["training"]["loss"] == "hinges.py:squared_hinge"
    first = json.loads((adapter / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(4.0, abs=1e-4), "before the first step every margin is 0: (2 − 0)²"
    found = run_adapters(RunFolder.open(folder / "runs" / "first"), str(folder / "world" / "model"))
    assert found["squared_hinge"] == str(adapter)


def test_a_strategy(folder):
    follow("A strategy", folder)
    adapter = folder / "runs" / "first" / "align" / "longest"
    selection = yaml.safe_load((adapter / "selection.yaml").read_text())
    assert selection["strategy"] == f"{folder}/lengths.py:LongestOverShortest"
    assert selection["strategy_options"] == {"min_difference": 2}
    assert (adapter / "pairsight.json").is_file()


def test_a_recipe(folder):
    follow("A recipe", folder)
    pairs = read_pairs(folder / "runs" / "twice")
    assert len(pairs) > 0
    assert all(len(pair.chosen.text) > len(pair.rejected[0].text) for pair in pairs)
    assert {pair.chosen.sample_index for pair in pairs} | {pair.rejected[0].sample_index for pair in pairs} == {0, 1}


def test_a_benchmark(folder):
    follow("A benchmark", folder)
    found = json.loads((folder / "evaluated" / "results.json").read_text())["benchmarks"]["yes_no"]
    labels = [json.loads(line) for line in (folder / "world" / "pope.jsonl").read_text().splitlines()[:8]]
    answers = pq.read_table(folder / "evaluated" / "answers-base.parquet").to_pylist()
    said = {row["id"]: row["answer"].lower().split()[0].rstrip(".") for row in answers}
    right = [said[row["question_id"]] == row["label"] for row in labels]
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(sum(right) / 8)
    assert 0 < sum(right) < 8


def test_a_format(folder):
    follow("A format", folder)
    with chdir(folder):
        assert RunFolder.open("runs/tsv").config["format"] == f"{folder}/tsv.py:Tsv"
        made = list(read_candidates(sorted(Path("runs/tsv/data").glob("candidates-*.parquet"))))
    assert [(one.prompt.id, one.prompt.question, len(one.prompt.images)) for one in made] == [
        ("q1", "What is in the picture?", 1),
        ("q2", "How many objects are there?", 1),
    ]
    trained = json.loads((folder / "runs" / "tsv-pairs" / "training.json").read_text())
    assert trained["num_examples"] == 2


def test_a_scorer(folder):
    follow("A scorer", folder)
    (made, *_) = list(read_candidates(sorted((folder / "runs" / "scored" / "data").glob("candidates-*.parquet"))))
    scores = {note.completion_id: note.scores for note in made.annotations if note.annotator == "Brevity"}
    assert scores == {one.id: {"brevity": -float(len(one.text.split()))} for one in made.completions}


def test_a_study(folder):
    follow("A study", folder)
    lines = (folder / "runs" / "first" / "studies" / "word_counts.csv").read_text().splitlines()
    texts = [
        (one.sample_index, one.text)
        for made in read_candidates(sorted((folder / "runs" / "first" / "data").glob("candidates-*.parquet")))
        for one in made.completions
    ]
    assert lines[0] == "sample,completions,mean_words"
    for line, index in zip(lines[1:], (0, 1), strict=True):
        words = [len(text.split()) for one, text in texts if one == index]
        name, number, mean = line.split(",")
        assert (name, int(number)) == (f"sample {index}", len(words))
        assert float(mean) == pytest.approx(sum(words) / len(words))


def test_a_profile(folder, capsys):
    follow("A profile", folder)
    assert yaml.safe_load(capsys.readouterr().out)["system"] == "Answer in one sentence."


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The page's pieces as pip would install its package: modules, and a dist-info folder with their entry points."""
    titled = {title: body for _, title, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if title}
    project = tomllib.loads(titled.pop("pyproject.toml"))["project"]
    groups: dict[str, dict[str, str]] = project["entry-points"]
    site = tmp_path / "site"
    (site / "my_pieces").mkdir(parents=True)
    for title, body in titled.items():
        (site / "my_pieces" / title).write_text(body, encoding="utf-8")
    notes = site / f"my_pieces-{project['version']}.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = {group: "".join(f"{name} = {target}\n" for name, target in one.items()) for group, one in groups.items()}
    entries["pairsight.strategy"] += "sft = my_pieces.lengths:LongestOverShortest\n"
    (notes / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}" for group, lines in entries.items()))
    monkeypatch.syspath_prepend(str(site))
    for group in groups:
        table = TABLES[group.removeprefix("pairsight.")]
        monkeypatch.setattr(table, "_targets", dict(table._targets))
        monkeypatch.setattr(table, "_plugins_read", False)
    yield groups
    for module in [name for name in sys.modules if name.partition(".")[0] == "my_pieces"]:
        del sys.modules[module]


def test_a_package(installed, tmp_path, caplog, capsys):
    assert {group.removeprefix("pairsight.") for group in installed} == set(TABLES)
    for group, points in installed.items():
        for name, target in points.items():
            piece = TABLES[group.removeprefix("pairsight.")].get(name)
            module, attribute = target.split(":")
            assert piece is getattr(sys.modules[module], attribute)

    logps = torch.zeros(1, 1, 2)
    inputs = LossInputs(logps, logps, torch.ones(1, 2), torch.ones(1, 1, 2, dtype=torch.bool), torch.ones(1))
    assert TABLES["loss"].get("squared_hinge")(inputs, target=2.0).loss_B.tolist() == [4.0]
    assert TrainingConfig(loss="squared_hinge").training_name == "squared_hinge"

    image = tmp_path / "one.png"
    Image.new("RGB", (8, 8)).save(image)
    (tmp_path / "q.tsv").write_text("id\tpicture\tasked\nq1\tone.png\tWhat?\n")
    (prompt,) = read_prompts(tmp_path / "q.tsv", format="tsv")
    assert (prompt.id, prompt.question, len(prompt.images)) == ("q1", "What?", 1)
    with pytest.raises(DataError, match=r"q\.tsv row 1: .*asked"):
        (tmp_path / "q.tsv").write_text("id\tpicture\tasked\nq1\tone.png\n")
        read_prompts(tmp_path / "q.tsv", format="tsv")

    completions = tuple(Completion(f"q1:{i}", "q1", text, "stop", "m", 0, i) for i, text in enumerate(("a", "a b c")))
    pair = make_strategy("longest_over_shortest")(Candidates(prompt, completions))
    assert [pair.chosen.text, pair.rejected[0].text, pair.strategy] == ["a b c", "a", "longest_over_shortest"]
    scorer = load_completion_scorer("brevity:v1", FileImages(tmp_path))
    assert scorer.score([(prompt, completions[1])]) == [{"brevity": -3.0}]
    assert not sees_images("brevity:v1")

    (tmp_path / "b.jsonl").write_text('{"question_id": 1, "image": "one.png", "text": "Is it?", "label": "no"}\n')
    (tmp_path / "a.jsonl").write_text('{"id": "1", "answer": "No."}\n')
    scored = ["score", "--benchmark", f"yes_no={tmp_path / 'b.jsonl'}", "--answers", str(tmp_path / "a.jsonl")]
    assert main([*scored, "--out", str(tmp_path / "scored")]) == 0
    found = json.loads((tmp_path / "scored" / "results.json").read_text())["benchmarks"]["yes_no"]["metrics"]
    assert found["accuracy"]["value"] == 1.0
    assert TABLES["recipe"].get("twice")(temperature=0.5).to_plain()["temperature"] == 0.5
    assert main(["study", "word_counts", "--run", str(tmp_path / "none")]) == 1
    assert f"{tmp_path / 'none'} is not a run" in capsys.readouterr().err
    ignored = "strategy 'sft' of my-pieces is ignored: the name is taken by pairsight.selection.sft:Sft"
    assert [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()] == [ignored]
