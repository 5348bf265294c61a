"""Every block of docs/extend.md is run, in order and in one folder, as a reader would."""

import json
import re
import shlex
from contextlib import chdir
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from pairsight.cli.main import main
from pairsight.formats.pairs import read_pairs
from pairsight.formats.tables import read_candidates
from pairsight.pipeline.evaluate import run_adapters
from pairsight.store.run_folder import RunFolder

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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
