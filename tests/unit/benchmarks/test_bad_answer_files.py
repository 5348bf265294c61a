"""For every benchmark: a bad, missing, duplicate or unknown id, or a file of another kind, gives a one-line error."""

import json
import re

import official
import pytest
from test_benchmark_files import FILES, SUFFIX

from pairsight.benchmarks.tasks import make_benchmark
from pairsight.cli.main import main

FIELDS = {"chair": ("image_id", "caption"), "object_halbench": ("image_id", "answer"), "amber": ("id", "response"),
          "gqa": ("questionId", "prediction")}  # fmt: skip
ALLOWS_MISSING = {"scienceqa"}  # the original ignores unanswered questions


def official_file(name, tmp_path):
    return FILES[name](tmp_path / f"{name}{SUFFIX.get(name, '')}")


def good_records(name, path):
    """Records of a complete answer file of the benchmark."""
    samples = [sample for group in make_benchmark(name).load(path, official.Names()) for sample in group]
    field, text = FIELDS.get(name, ("question_id", "text"))
    if name == "mme":
        return [
            {"question_id": f"{s.target['task']}/{s.target['image']}", "prompt": s.prompt.question, "text": "Yes"}
            for s in samples
        ]
    return [{field: s.id, text: "Yes"} for s in samples]


def refusal(capsys, name, path, answers, tmp_path):
    """The one line of stderr; the command must fail and write no result."""
    out = tmp_path / "out"
    status = main(["score", "--benchmark", f"{name}={path}", "--answers", str(answers), "--out", str(out)])
    printed = capsys.readouterr()
    assert status == 1, printed.out
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 900
    assert not (out / "results.json").exists()
    return printed.err


def changed(records, field, change):
    first, *rest = [dict(record) for record in records]
    if change == "foreign":
        first[field] = "mme/no.jpg" if "/" in str(first[field]) else "987654321"
    elif change == "no id":
        del first[field]
    elif change == "null id":
        first[field] = None
    elif change == "list id":
        first[field] = [1]
    elif change == "no text":
        first = {field: first[field]} | ({"prompt": first["prompt"]} if "prompt" in first else {})
    elif change == "number for text":
        first = {key: (7 if key not in (field, "prompt") else value) for key, value in first.items()}
    return {"missing": rest, "double": [first, *rest, first], "empty": []}.get(change, [first, *rest])


MESSAGES = {
    "missing": "no answer for", "double": "already|many|dupl|more", "foreign": "no such (id|image)", "no id": "no '",
    "null id": "must be an id", "list id": "must be an id", "no text": "no '", "number for text": "must be text",
    "empty": "is empty",
}  # fmt: skip


@pytest.mark.parametrize("change", MESSAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_bad_record_is_named(capsys, name, change, tmp_path):
    if name in ALLOWS_MISSING and change == "missing":
        pytest.skip("questions may be unanswered here")
    path = official_file(name, tmp_path)
    records = good_records(name, path)
    field = next(iter(records[0]))
    answers = official.jsonl(tmp_path / "answers.jsonl", changed(records, field, change))
    error = refusal(capsys, name, path, answers, tmp_path)
    assert "answers.jsonl" in error
    assert re.search(MESSAGES[change], error), error


@pytest.mark.parametrize("kind", ["truncated", "csv", "tsv", "binary", "list of texts", "text", "absent", "folder"])
@pytest.mark.parametrize("name", FILES)
def test_an_answer_file_of_another_kind_is_refused(capsys, name, kind, tmp_path):
    path = official_file(name, tmp_path)
    records = good_records(name, path)
    complete = "".join(json.dumps(record) + "\n" for record in records)
    separator = {"csv": ",", "tsv": "\t"}.get(kind, "")
    lines = [separator.join(map(str, record.values())) for record in ({key: key for key in records[0]}, *records)]
    content = {
        "truncated": complete[:-9].encode(), "csv": "\n".join(lines).encode(), "tsv": "\n".join(lines).encode(),
        "binary": b"PK\x03\x04\xff\xfe\x00", "list of texts": b'["Yes", "No"]', "text": b"Yes\nNo\n",
    }  # fmt: skip
    answers = tmp_path / "answers.jsonl"
    if kind == "folder":
        answers = tmp_path / "empty folder"
        answers.mkdir()
    elif kind != "absent":
        answers.write_bytes(content[kind])
    error = refusal(capsys, name, path, answers, tmp_path)
    assert str(answers.name) in error


@pytest.mark.parametrize("name", FILES)
def test_a_csv_instead_of_the_official_file_is_refused(capsys, name, tmp_path):
    path = official_file(name, tmp_path)
    victim = path if path.is_file() else sorted(p for p in path.rglob("*.*") if p.suffix in (".json", ".txt"))[0]
    victim.write_text("index,question,A,B,image\n0,x,a,b,c\n")
    answers = official.jsonl(tmp_path / "answers.jsonl", [{"question_id": "1", "text": "A"}])
    error = refusal(capsys, name, path, answers, tmp_path)
    assert victim.name in error
