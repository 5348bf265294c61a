"""`results.json` as records: both schemas are read, nothing is lost, and only comparable sections are merged."""

import json
from dataclasses import replace

import pytest

from pairsight.benchmarks.results import Metric, Results, Section, System
from pairsight.benchmarks.results_file import merged, read_results
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.cli.show import print_results, side_by_side
from pairsight.errors import DataError

FIGURES = {"base": 0.5, "aligned": 0.625, "difference": 0.125, "low": 0.0625, "high": 0.25, "p_value": 0.015625}
F1 = {**FIGURES, "better": "higher", "num_items": 9, "unparsed": 1, "unparsed_base": 2, "temperature": 0.0}
ALONE = {"value": 0.5, "low": 0.25, "high": 0.75, "better": "higher", "num_items": 9, "unparsed": 0}
POPE = {
    "sha256": "ab" * 32, "rows": 9, "parser": "official", "prompt_suffix": "", "batch_size": 32, "temperature": 0.0,
    "max_new_tokens": 8, "limit": None, "fallbacks": ["words by rule"], "mean_words": {"base": 1.5, "aligned": None},
    "failed": {"base": 0, "aligned": 1}, "failed_items": {"base": [], "aligned": ["7: empty"]}, "metrics": {"f1": F1},
    "other_parser": {"parser": "robust", "metrics": {"f1": F1}}, "categories": {"popular": {"f1": F1}},
    "published": [{"metric": "f1", "value": 0.859, "paper": "seva", "table": "2", "row": "7B", "note": "",
                   "differs": ["9 questions instead of 8910 or 9000"]}],
}  # fmt: skip
SCHEMA_1 = {
    "schema": 1, "run": "first", "primary": "feedback", "metrics": {"f1": F1},
    "systems": {
        "seva": {"models": {"base": "sha256:1", "aligned": "seva/align/dpo"},
                 "data": {"prompts": 9, "pairs": 7, "dropped": {"identical": 2}},
                 "metrics": {"f1": F1}, "benchmarks": {"pope": POPE},
                 "controls": {"null": {"models": {"base": "sha256:1", "aligned": "null/align/dpo"},
                                       "metrics": {"f1": F1}, "benchmarks": {"pope": POPE}}}},
        "feedback": {"models": {}, "metrics": {"f1": F1}, "benchmarks": {}, "controls": {}},
    },
}  # fmt: skip


def pope(file="pope.jsonl", evaluation="held-out", aligned="w1", **settings):
    return Section(
        "pope", {"f1": Metric("f1", aligned=0.5)}, evaluation, file, {"base": "b", "aligned": aligned}, settings
    )


def systems(**sections):
    return Results({name: System(name, (one,), aligned=f"align/{name}") for name, one in sections.items()})


def leaves(plain, path=()):
    if isinstance(plain, dict):
        for name, part in plain.items():
            yield from leaves(part, (*path, name))
    else:
        yield path, plain


def test_schema_1_loses_nothing_and_schema_2_reads_back_the_same(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(SCHEMA_1))
    results = read_results(tmp_path / "results.json")
    plain = results.to_plain()
    assert plain["schema"] == 2
    found = dict(leaves(plain))
    lost = {path: value for path, value in leaves(SCHEMA_1) if path != ("schema",) and found.get(path) != value}
    assert lost == {}
    again = Results.from_plain(json.loads(json.dumps(plain)))
    assert again.to_plain() == plain
    assert again.systems["seva"].controls["null"].sections[0].metrics["f1"].p_value == 0.015625


def test_one_model_alone_reads_back_the_same():
    old = {"schema": 1, "models": {"base": "sha256:1"}, "benchmarks": {"pope": {"rows": 9, "metrics": {"f1": ALONE}}}}
    plain = Results.from_plain(old).to_plain()
    assert plain["benchmarks"]["pope"]["metrics"]["f1"] == ALONE
    assert plain["models"] == {"base": "sha256:1"}
    assert Results.from_plain(plain).to_plain() == plain


@pytest.mark.parametrize("schema", [0, 3, "2", None])
def test_another_schema_is_refused(schema):
    with pytest.raises(DataError, match="this Pairsight reads 1 and 2"):
        Results.from_plain({"schema": schema})


def test_both_schemas_are_printed(capsys):
    for content in (SCHEMA_1, Results.from_plain(SCHEMA_1).to_plain()):
        results = Results.from_plain(content)
        print_results(results)
        printed = capsys.readouterr().out
        assert "seva: pope, official" in printed
        assert "+0.125" in printed
        assert [column.header for column in side_by_side(results).columns] == [
            "metric", "base", "seva", "seva\nnull", "feedback",
        ]  # fmt: skip


def test_files_and_models_scored_into_one_folder_are_kept_side_by_side(tmp_path):
    def score(file, label, **more):
        question = {"question_id": 1, "image": "a.png", "text": "Is it?", "label": label}
        (tmp_path / file).write_text(json.dumps(question) + "\n")
        (tmp_path / "answers.jsonl").write_text(json.dumps({"question_id": 1, "text": "Yes"}) + "\n")
        score_answers("pope", tmp_path / file, tmp_path / "answers.jsonl", tmp_path / "out",
                      settings=EvaluationSettings(num_resamples=10), **more)  # fmt: skip
        content = json.loads((tmp_path / "out" / "results.json").read_text())
        return {name: part["metrics"]["accuracy"]["value"] for name, part in content["benchmarks"].items()}

    assert score("random.jsonl", "yes") == {"pope": 1.0}
    assert score("popular.jsonl", "no") == {"pope": 1.0, "pope (popular.jsonl)": 0.0}
    assert score("random.jsonl", "no") == {"pope": 0.0, "pope (popular.jsonl)": 0.0}, "the same file again replaces"
    values = score("popular.jsonl", "no", model="llava")
    assert list(values) == ["pope", "pope (popular.jsonl)", "pope (popular.jsonl, llava)"]


def test_sections_of_other_systems_are_removed_only_if_they_cannot_be_compared():
    old = systems(a=pope(rows=9), b=pope(rows=9))
    for new, kept in [
        (pope(rows=9), ["a", "b"]),
        (pope(rows=5), ["a"]),
        (pope(rows=9, sha256="2"), ["a", "b"]),  # the old sections' file hash is unknown
        (pope("other.jsonl", rows=5), ["a", "b"]),
        (pope(evaluation="few", rows=5), ["a", "b"]),
    ]:
        results, removed = merged(old, systems(a=new))
        assert list(results.systems) == kept
        assert len(removed) == 2 - len(kept)
        assert new in results.systems["a"].sections


def test_other_weights_under_a_name_remove_all_its_sections():
    old = Results({"a": System("a", (pope(), pope("b.jsonl"), pope(evaluation="few")), aligned="align/a")})
    results, removed = merged(old, systems(a=pope(aligned="w2")))
    assert results.systems["a"].sections == (pope(aligned="w2"),)
    assert removed == [
        "a: pope (held-out, b.jsonl) is removed, it was measured with other weights under that name; evaluate it again",
        "a: pope (few, pope.jsonl) is removed, it was measured with other weights under that name; evaluate it again",
    ]


def test_another_base_removes_all_sections_of_the_old_one():
    other = Section("pope", {}, "held-out", "pope.jsonl", {"base": "b2", "aligned": "w1"})
    results, removed = merged(systems(a=pope(), b=pope()), systems(a=other))
    assert list(results.systems) == ["a"]
    assert removed == [
        "b: pope (held-out, pope.jsonl) is removed, it was measured with another base model; evaluate it again"
    ]


def test_questions_without_an_answer_are_reported(capsys):
    old = {"schema": 1, "models": {"base": "sha256:1"}, "benchmarks": {"pope": {"rows": 9, "metrics": {"f1": ALONE}}}}
    results = Results.from_plain(old)
    (section,) = results.sections
    items = {"base": ("q7: no_text: the answer is empty",)}
    failed = replace(section, failed={"base": 1, "dpo": 0}, failed_items=items)
    print_results(replace(results, sections=(failed,)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 question has no answer by base and is left out: q7: no_text: the answer is empty" in printed
    assert "dpo" not in printed
    print_results(results)
    assert "no answer" not in capsys.readouterr().out
