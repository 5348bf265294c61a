"""Scores and attributes by hand."""

import numpy as np
import pytest

from pairsight.tiny.train.scoring import COLUMNS, matched_chair, metrics, question_sums
from pairsight.tiny.truth.annotator import rate
from pairsight.tiny.world.scenes import kind_of

PRESENT = frozenset({kind_of("red", "circle"), kind_of("blue", "ring")})
EXACT = "There is a red circle and a blue ring."
ADDED = "There is a red circle, a green cross and a blue ring."
LEFT_OUT = "There is a red circle."


def figures(*sums):
    return {name: values[0] for name, values in metrics(np.array(sums).sum(axis=0, keepdims=True)).items()}


def test_existence_by_hand():
    asked = [("Yes", "Yes"), ("Yes", "No"), ("No", "Yes"), ("No", "No."), ("No", "no, there is not")]
    sums = [question_sums("existence", "adversarial", truth, PRESENT, said) for truth, said in asked]
    found = figures(*sums)
    assert found["accuracy"] == found["adversarial_accuracy"] == pytest.approx(3 / 5)
    assert found["yes_rate"] == pytest.approx(2 / 5)
    assert found["f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert np.isnan(found["chair_i"])


def test_chair_by_hand():
    found = figures(*[question_sums("caption", "caption", EXACT, PRESENT, text) for text in (EXACT, ADDED, LEFT_OUT)])
    assert found["chair_i"] == pytest.approx(1 / 6)
    assert found["chair_s"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx(5 / 6)
    assert found["chair_i_cut"] == pytest.approx(1 / 5)
    assert found["caption_length"] == pytest.approx((9 + 12 + 5) / 3)


def test_short_answers_are_compared_without_case_article_and_stop():
    found = figures(
        question_sums("colour", "colour", "red", PRESENT, "Red."),
        question_sums("content", "content", "red circle", PRESENT, "a red circle"),
        question_sums("count", "shape", "two", PRESENT, "three"),
        question_sums("text", "sum", "eight", frozenset(), "eight"),
    )
    assert (found["colour_accuracy"], found["content_accuracy"], found["count_accuracy"]) == (1, 1, 0)
    assert found["text_accuracy"] == 1


def test_sums_have_one_number_a_column():
    assert len(question_sums("caption", "caption", "", PRESENT, "")) == len(COLUMNS)


def test_matched_chair_cuts_the_longer_caption():
    first, second = matched_chair([ADDED, EXACT], [LEFT_OUT, ADDED], [PRESENT, PRESENT])
    assert first.tolist() == [[0, 1], [0, 2]]
    assert second.tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        (EXACT, (4, 4, 4)),
        (ADDED, (4, 2, 4)),
        (LEFT_OUT, (2, 4, 4)),
        ("There is a green cross.", (0, 0, 4)),
        ("There is a red circle, a red circle and a blue ring.", (4, 4, 2)),
        ("red circle blue ring", (4, 4, 2)),
        ("", (0, 0, 0)),
    ],
)
def test_captions_are_rated_from_the_truth(text, scores):
    rated, why = rate("caption", EXACT, PRESENT, text)
    assert (rated["helpfulness"], rated["correctness"], rated["coherence"]) == scores
    assert why


def test_short_answers_are_rated_from_the_truth():
    assert list(rate("existence", "No", PRESENT, "No")[0].values()) == [4, 4, 4, 0, 2]
    wrong, why = rate("colour", "red", PRESENT, "blue")
    assert (wrong["helpfulness"], wrong["correctness"], wrong["coherence"]) == (1, 0, 4)
    assert why == "Wrong: red."
    assert rate("colour", "red", PRESENT, "there is a blue ring")[0]["coherence"] == 2
