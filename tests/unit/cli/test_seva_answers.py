"""Pairs from the answer files of SeVa's authors, without a model: by the rules of their public code."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pairsight.cli.main import main
from pairsight.formats.pairs import read_pairs
from pairsight.pipeline.select import load_candidates


def write(file: Path, *rows: tuple[str, str, str]) -> str:
    lines = [json.dumps({"question": q, "answer": a, "image_id": i}) for q, a, i in rows]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.fixture
def files(tmp_path):
    for name, colour in (("books/1497451612.jpg", 1), ("books/0022.jpg", 2), ("signs/aea9.jpg", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (colour * 50, 0, 0)).save(tmp_path / name)
    write(tmp_path / "books_clean.jsonl", ("Who wrote it?", "Ann Lee.</s>", "1497451612"),
          ("Is it red?", "Yes,\nit is.</s>", "1497451612"), ("Who wrote it?", "Bo.</s>", "0022"))  # fmt: skip
    write(tmp_path / "books_500.jsonl", ("Who wrote it?", "Ann Lee.</s>", "1497451612"),
          ("Is it red?", "No,\nit is not.</s>", "1497451612"), ("Who wrote it?", "Cy.</s>", "0022"))  # fmt: skip
    write(tmp_path / "signs_clean.jsonl", ("What?", "A sign.</s>", "aea9"))
    write(tmp_path / "signs_500.jsonl", ("What?", "A wall.</s>", "aea9"))
    return tmp_path


def build(files: Path, *more: object) -> int:
    return main(["build", "seva", "--out", str(files / "run"), "--quiet", *map(str, more)])


AUTHORS = ["--set", "equality=exact", "--set", "remove_newlines=true"]


def test_two_sources_give_the_pairs_of_the_authors_code(files, capsys):
    named = [
        word
        for option, end in (("completions", "_clean.jsonl"), ("distorted", "_500.jsonl"), ("images", ""))
        for source in ("books", "signs")
        for word in (f"--{option}", f"{source}={files / source}{end}")
    ]
    assert build(files, *named, *AUTHORS) == 0
    pairs = read_pairs(files / "run")
    assert [(one.id, one.prompt.question, one.chosen.text, one.rejected[0].text) for one in pairs] == [
        ("books/row-2", "Is it red?", "Yes,it is.", "No,it is not."),
        ("books/row-3", "Who wrote it?", "Bo.", "Cy."),
        ("signs/row-1", "What?", "A sign.", "A wall."),
    ]
    assert [one.prompt.source for one in pairs] == ["books", "books", "signs"]
    assert pairs[0].rejected[0].model == "books_500.jsonl"
    assert pairs.images.open(pairs[2].prompt.images[0]).getpixel((0, 0))[0] == pytest.approx(150, abs=3)
    out = capsys.readouterr().out
    assert "4 prompts → 3 pairs" in out
    assert "dropped 1: identical" in out
    assert "--model MODEL" in out


def test_several_views_of_one_source(files):
    write(files / "books_800.jsonl", ("Who wrote it?", "Di.</s>", "1497451612"),
          ("Is it red?", "Maybe.</s>", "1497451612"), ("Who wrote it?", "Bo.</s>", "0022"))  # fmt: skip
    views = [word for step in (500, 800) for word in ("--distorted", files / f"books_{step}.jsonl")]
    assert build(files, "--completions", files / "books_clean.jsonl", *views, "--images", files / "books") == 0
    assert [[one.text for one in pair.rejected] for pair in read_pairs(files / "run")] == [
        ["Di."], ["No,\nit is not.", "Maybe."], ["Cy."],
    ]  # fmt: skip
    assert len(load_candidates(files / "run")[1].completions) == 3


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([("Who wrote it?", "x", "1497451612")], [], "ends before the others"),
        ([("Who?", "x", "1497451612")] * 3, [], "line 1: 'question' is 'Who?', and in"),
        ([("Who wrote it?", "x", "0022")] * 3, [], "'image_id' is '0022'"),
        (None, ["--model", "m"], "model changes nothing, the completions are given"),
        (None, ["--set", "noise_step=500"], "noise_step changes nothing, the completions are given"),
        (None, ["--format", "llava"], "not with --format"),
        (None, ["--distorted", "x.jsonl"], "x.jsonl does not exist"),
    ],
)
def test_what_does_not_fit_is_said(files, capsys, rows, more, message):
    if rows is not None:
        write(files / "books_500.jsonl", *rows)
    pair = ["--completions", files / "books_clean.jsonl", "--distorted", files / "books_500.jsonl"]
    assert build(files, *pair, "--images", files / "books", *more) == 1
    assert message in capsys.readouterr().err
    assert not (files / "run").exists()


def test_a_row_that_does_not_fit_is_left_out_on_request(files, capsys):
    write(files / "books_500.jsonl", ("Who wrote it?", "x", "1497451612"), ("Is it?", "x", "1497451612"),
          ("Who wrote it?", "Cy.", "0022"))  # fmt: skip
    pair = ["--completions", files / "books_clean.jsonl", "--distorted", files / "books_500.jsonl"]
    assert build(files, *pair, "--images", files / "books", "--on-error", "skip") == 0
    out = capsys.readouterr().out
    assert "3 prompts → 2 pairs" in out
    assert "dropped 1: other_question (read)" in out


def test_bad_ways_to_name_them(files, capsys):
    clean = ["--completions", f"books={files / 'books_clean.jsonl'}"]
    for words, message in (
        (["--distorted", str(files / "books_500.jsonl")], "name its source, one of books"),
        ([], "--completions SOURCE=FILE is for answers with --distorted"),
    ):
        assert build(files, *clean, *words) == 1
        assert message in capsys.readouterr().err
    assert build(files, "--distorted", "x.jsonl") != 0
    assert "--model" in capsys.readouterr().err
