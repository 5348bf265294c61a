"""A format of one's own, from a file: for prompts, for given completions, and for pairs."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pairsight import registry
from pairsight.cli.main import main
from pairsight.errors import ConfigError, DataError
from pairsight.formats.completions import read_completions, read_given_pairs
from pairsight.formats.prompts import detect_format, make_format, read_prompts
from pairsight.tiny.models.shipped import shipped_model

OWN = """
import csv

from pairsight.formats.completions import AnsweredDialogue, GivenCompletion
from pairsight.formats.dialogue import Dialogue, PromptFormat, Question, RowFormat
from pairsight.formats.rows import Row


class Tsv(RowFormat):
    def rows(self, path):
        with path.open(newline="") as file:
            for number, values in enumerate(csv.DictReader(file, delimiter="\\t"), start=1):
                yield Row(f"{path} row {number}", number, values)

    def dialogue(self, row):
        question = Question(row.text("asked"), (row.text("picture"),))
        return Dialogue(row.identity("key"), row.location, (question,), source="tsv")


class Rated(Tsv):
    def dialogue(self, row):
        asked = super().dialogue(row)
        given = (GivenCompletion(row.text("good"), preferred=True), GivenCompletion(row.text("bad"), preferred=False))
        return AnsweredDialogue(asked.id, asked.location, asked.questions, completions=given)


class Known(Tsv):
    field = "asked"


class Odd(PromptFormat):
    def read(self, path, question):
        yield {"id": 1}


def function(path, question=None):
    yield
"""
COLUMNS = ("key", "picture", "asked", "good", "bad")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (2, 2), "red" if name == "a.png" else "blue").save(tmp_path / name)
    return file


def table(own: Path, *rows: tuple[str, ...]) -> Path:
    file = own.with_name("rows.tsv")
    with file.open("w", newline="") as out:
        csv.writer(out, delimiter="\t").writerows([COLUMNS, *rows])
    return file


GOOD = (("x", "a.png", "What?", "A dot.", "A cat."), ("y", "b.png", "Where?", "Here.", "There."))


def test_prompts_in_a_format_of_ones_own(own: Path):
    prompts = read_prompts(table(own, *GOOD), format=f"{own}:Tsv")
    assert [(one.id, one.question, one.source, len(one.images)) for one in prompts] == [
        ("x", "What?", "tsv", 1),
        ("y", "Where?", "tsv", 1),
    ]
    assert prompts[0].images != prompts[1].images


def test_its_bad_rows_and_images_are_said_by_place_or_left_out(own: Path):
    file = table(own, ("x", "a.png", "", "", ""), GOOD[1])
    with pytest.raises(DataError, match=r"rows\.tsv row 1: nothing is left of the question .*--on-error skip"):
        read_prompts(file, format=f"{own}:Tsv")
    read = read_prompts(
        table(own, ("x", "none.png", "What?", "", ""), GOOD[1], GOOD[1]), format=f"{own}:Tsv", on_error="skip"
    )
    assert [one.id for one in read] == ["y"]
    assert [one.reason for one in read.dropped] == ["duplicate_id", "missing_image"]


def test_a_built_in_format_may_be_named_instead_of_found_out(own: Path):
    file = own.with_name("both.jsonl")
    turns = [{"from": "human", "value": "<image>\nWhy?"}]
    file.write_text(json.dumps({"image": "a.png", "question": "What?", "conversations": turns}))
    assert [read_prompts(file, format=name)[0].question for name in (None, "llava", "jsonl")] == [
        "Why?",
        "Why?",
        "What?",
    ]
    with pytest.raises(ConfigError, match="unknown format 'lava'; did you mean 'llava'"):
        read_prompts(file, format="lava")


def test_what_is_no_format_is_refused(own: Path):
    file = table(own, *GOOD)
    with pytest.raises(ConfigError, match="is a function; it must be a class derived from"):
        read_prompts(file, format=f"{own}:function")
    with pytest.raises(DataError, match="its format gives a dict where a Dialogue is expected"):
        read_prompts(file, format=f"{own}:Odd")
    with pytest.raises(DataError, match="has its own questions"):
        read_prompts(file, format=f"{own}:Tsv", question="What?")


def test_an_installed_format_is_found_out_by_its_field(own: Path, monkeypatch: pytest.MonkeyPatch):
    known = own.with_name("known.jsonl")
    known.write_text('{"asked": "What?", "picture": "a.png"}\n')
    with pytest.raises(
        DataError, match="rows need 'conversations' or 'question' or 'prompt' or 'text', found 'asked', 'picture'"
    ):
        detect_format(known)
    monkeypatch.syspath_prepend(str(own.parent))
    monkeypatch.setattr(registry.formats, "_targets", {**registry.formats._targets, "known": "own:Known"})
    assert detect_format(known) == "known"


def test_completions_and_pairs_in_a_format_of_ones_own(own: Path):
    file = table(own, *GOOD)
    with registry.plugins(own):
        rated, plain = make_format(f"{own}:Rated"), make_format(f"{own}:Tsv")
    first, _ = read_completions(file, format=rated)
    assert [one.text for one in first.completions] == ["A dot.", "A cat."]
    assert [one.scores for one in first.annotations] == [{"preference": 1.0}, {"preference": 0.0}]
    with pytest.raises(DataError, match=r"rows\.tsv row 1: two completions are needed, found 0"):
        read_completions(file, format=plain)
    pair, _ = read_given_pairs(file, rated)
    assert (pair.id, pair.chosen.text, [one.text for one in pair.rejected]) == ("x", "A dot.", ["A cat."])
    assert len(pair.prompt.images) == 1


def test_pairs_need_a_preference(own: Path):
    file = own.with_name("c.jsonl")
    file.write_text('{"id": "1", "image": "a.png", "question": "What?", "completions": ["A dot.", "A cat."]}\n')
    with pytest.raises(
        DataError, match=r"id '1': a pair needs one preferred completion and at least one .* found 0 and 0"
    ):
        read_given_pairs(file, make_format("completions"))


@pytest.mark.parametrize("verb", ["build seva", "align"])
def test_a_format_that_only_a_config_names_is_not_run(own: Path, verb: str, capsys: pytest.CaptureFixture[str]):
    file = table(own, *GOOD)
    config = own.with_name("config.yaml")
    config.write_text(yaml.safe_dump({"format": f"{own}:Rated"}))
    words = ["--model", str(shipped_model()), "--config", str(config), "--out", str(own.parent / "out"), "--quiet"]
    words += ["--prompts", str(file)] if verb.startswith("build") else [str(file)]
    assert main([*verb.split(), *words]) == 1
    assert f"add --plugin {own}" in capsys.readouterr().err
    assert not (own.parent / "out").exists()


def test_a_format_for_nothing_is_refused(own: Path, capsys: pytest.CaptureFixture[str]):
    words = ["build", "seva", "--model", str(shipped_model()), "--out", str(own.parent / "out"), "--format", "jsonl"]
    assert main(words) == 1
    assert "--format says how --prompts or --completions is read" in capsys.readouterr().err
