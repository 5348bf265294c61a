import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.suites.pope import SPLITS, Pope, official_answer
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.errors import DataError
from pairsight.records import ImageRef


class Names:
    """Images by name only."""

    def ref(self, name, *others):
        return ImageRef(f"name:{name}")

    def add(self, data, name):
        raise AssertionError("POPE's files have no embedded images")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(number, label="yes", image="a.jpg", **more):
    return {"question_id": number, "image": image, "text": "Is there a dog in the image?", "label": label, **more}


def load(path):
    return list(Pope().load(path, Names()))


def metrics_of(groups, answers, parser="official"):
    sums = np.array([Pope().score(g, [a], parser).sums for g, a in zip(groups, answers, strict=True)])
    return {name: float(v[0]) for name, v in Pope().combine(sums.sum(axis=0, keepdims=True)).items()}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"), ("yes, there is a dog", "yes"), ("No", "no"), ("no", "no"), ("No, there is none.", "no"),
        ("There is not a dog. Yes", "no"), ("Maybe. No", "yes"), ("", "yes"), ("NO", "yes"), ("No!", "yes"),
        ("No\nthere", "yes"), ("No\tx", "yes"), ("There isn't a dog", "yes"), ("no,", "no"), ("I do,not see", "yes"),
        ("Yes, it is not small", "no"), ("没有", "yes"), (".No", "yes"), ("n,o", "no"),
    ],
)  # fmt: skip
def test_official_reading(text, read):
    assert official_answer(text) == read


def naive(text):
    """The rule in other words: cut, delete, look at the pieces between spaces."""
    sentence = text[: text.index(".")] if "." in text else text
    sentence = "".join(ch for ch in sentence if ch != ",")
    return "no" if any(f" {word} " in f" {sentence} " for word in ("No", "no", "not")) else "yes"


PIECES = ["No", "no", "not", "NO", "yes", ".", ",", " ", "  ", "\n", "\t", "!", "不", ""]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_official_reading_equals_a_second_implementation(text):
    assert official_answer(text) == naive(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("NO", "no"), ("No!", "no"), ("\nNo\nthere", "no"), ("There isn't a dog", "no"), ("There isn’t one", "no"),
        ("**Yes**", "yes"), ("There is a dog.", "yes"), ("The image does not show one", "no"), ("", None),
        ("dog", None), ("I see a dog", "yes"), ("Nothing", "no"), ("Yesterday", None), ("Yes, and no cat", "yes"),
    ],
)  # fmt: skip
def test_robust_reading(text, read):
    assert robust_yes_no(text) == read


def test_published_counts_give_the_published_f1(tmp_path):
    labels = ["yes"] * (1183 + 317) + ["no"] * (31 + 1379)
    answers = ["Yes"] * 1183 + ["No"] * 317 + ["Yes"] * 31 + ["No"] * 1379
    groups = load(write(tmp_path / "pope.jsonl", [row(i, label) for i, label in enumerate(labels)]))
    found = metrics_of(groups, answers)
    assert found["f1"] == pytest.approx(0.87178, abs=5e-6)
    assert found["precision"] == 1183 / 1214
    assert found["recall"] == 1183 / 1500
    assert found["accuracy"] == 2562 / 2910
    assert found["yes_rate"] == 1214 / 2910
    assert set(found) == {"f1", "precision", "recall", "accuracy", "yes_rate"}


def test_a_folder_of_splits_gives_each_and_their_mean(tmp_path):
    for split in SPLITS:
        write(tmp_path / f"coco_pope_{split}.json", [row(1, "yes"), row(2, "no")])
    groups = load(tmp_path)
    assert [g[0].id for g in groups] == [f"{s}:{i}" for s in SPLITS for i in (1, 2)]
    found = metrics_of(groups, ["Yes", "No", "Yes", "Yes", "No", "Yes"])
    assert (found["f1_random"], found["f1_popular"]) == (1.0, pytest.approx(2 / 3))
    assert np.isnan(found["f1_adversarial"])  # no true positive: precision + recall is 0
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_category_field_names_the_split(tmp_path):
    rows = [row(1, category="popular"), row(1, category="adversarial")]
    assert [g[0].id for g in load(write(tmp_path / "p.jsonl", rows))] == ["popular:1", "adversarial:1"]


def test_unparsed_answers_are_counted_and_wrong_only_by_the_robust_parser(tmp_path):
    (group,) = load(write(tmp_path / "p.jsonl", [row(1, "no")]))
    official, robust = (Pope().score(group, ["a cat"], parser) for parser in ("official", "robust"))
    assert official.num_unparsed == robust.num_unparsed == 1
    assert official.readings[0].prediction == "yes"
    assert robust.readings[0].prediction is None
    found = metrics_of([group], ["a cat"], "robust")
    assert (found["accuracy"], found["yes_rate"]) == (0.0, 0.0)


def test_clusters_are_images(tmp_path):
    (group,) = load(write(tmp_path / "p.jsonl", [row(1, image="COCO_1.jpg")]))
    assert Pope().score(group, ["Yes"], "official").cluster == "COCO_1.jpg"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            '{"question_id": 1, "image": "a.jpg", "text": "x", "label": "maybe"}',
            "p.jsonl:1 (id 1): 'label' must be one",
        ),
        ('{"question_id": 1, "image": "a.jpg", "label": "yes"}', "(id 1): no 'text'; found question_id, image, label"),
        ('{"image": "a.jpg"}', "p.jsonl:1: no 'question_id'"),
        ('{"question_id": 1, "image"', "p.jsonl:1: not JSON"),
        ('[{"question_id": 1}]', "is this a JSON list instead of JSONL?"),
        ('{"question_id": 1, "image": "", "text": "x", "label": "yes"}', "'image' is empty"),
        ('{"question_id": true, "image": "a", "text": "x", "label": "yes"}', "must be an id"),
        ("", "is empty"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, message):
    path = tmp_path / "p.jsonl"
    path.write_text(lines)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_the_error_for_a_duplicate_id_names_both_lines(tmp_path):
    path = write(tmp_path / "p.jsonl", [row(7), row(8), row(7)])
    with pytest.raises(DataError, match=r"p.jsonl:3 \(id 7\): duplicate id, first on line 1"):
        load(path)


def test_the_error_for_missing_files_names_where_they_are_published(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="RUCAIBox/POPE"):
            load(path)


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    path = tmp_path / "p.jsonl"
    values = row(1)
    values["text"] = "Is\u2028there\x85a dog?"
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
    (group,) = load(path)
    assert group[0].prompt.question == "Is\u2028there\x85a dog?"


@given(st.binary(max_size=200))
def test_any_bytes_give_samples_or_a_data_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "p.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError):
        load(path)


def test_answers_in_one_file_are_joined_by_plain_ids_if_these_are_unique(tmp_path):
    questions = [
        {"question_id": "a", "image": "x.jpg", "text": "Is there a dog?", "label": "yes", "category": "random"},
        {"question_id": "b", "image": "x.jpg", "text": "Is there a cat?", "label": "no", "category": "popular"},
    ]
    (tmp_path / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    answers = [{"question_id": "b", "text": "no"}, {"question_id": "a", "text": "yes"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    found = score_answers("pope", tmp_path / "pope.jsonl", tmp_path / "answers.jsonl", tmp_path / "out")
    assert found.sections[0].metrics["accuracy"].base == 1.0
