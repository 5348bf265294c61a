"""The rule of reward models: the best-scored completion over the worst."""

import pytest

from pairsight.records import Annotation, Candidates, Completion, Dropped, Message, Prompt
from pairsight.selection.best_over_worst import BestOverWorst
from pairsight.selection.strategy import choose, make_strategy


def candidates(*scores, texts=None, scorer="armorm", column="score"):
    texts = texts or [f"text {i}" for i in range(len(scores))]
    completions = tuple(Completion(f"p:{i}", "p", text, "stop", "m", 0, i) for i, text in enumerate(texts))
    annotations = tuple(
        Annotation(f"p:{i}", scorer, {column: score, "other": -score})
        for i, score in enumerate(scores)
        if score is not None
    )
    return Candidates(Prompt("p", (Message("user", "?"),)), completions, annotations)


def test_the_first_of_the_highest_over_the_first_of_the_lowest():
    pair = BestOverWorst()(candidates(1.0, 3.0, 0.5, 3.0, 0.5))
    assert (pair.chosen.id, [one.id for one in pair.rejected]) == ("p:1", ["p:2"])
    assert [one.completion_id for one in pair.annotations] == ["p:1", "p:2"]
    assert pair.strategy == "best_over_worst"


def test_completions_without_a_score_or_text_do_not_count():
    pair = BestOverWorst()(candidates(9.0, 1.0, None, 2.0, texts=[" ", "a", "b", "c"]))
    assert (pair.chosen.id, pair.rejected[0].id) == ("p:3", "p:1")


def test_a_limit_on_lengths_takes_the_furthest_two_within_it():
    given = candidates(9.0, 1.0, 4.0, 2.0, 0.0, texts=["a", "a b", "b a", "a c", "a b c d"])
    pair = BestOverWorst(max_length_difference=0)(given)
    assert (pair.chosen.id, pair.rejected[0].id) == ("p:2", "p:1")
    pair = BestOverWorst(max_length_difference=1)(given)
    assert (pair.chosen.id, pair.rejected[0].id) == ("p:0", "p:1")


@pytest.mark.parametrize(
    ("given", "options", "reason"),
    [
        (candidates(1.0, None), {}, "too_few_scored"),
        (candidates(1.0, 1.0), {}, "tie"),
        (candidates(1.0, 1.4), {"min_gap": 0.5}, "gap"),
        (candidates(1.0, 2.0), {"min_chosen": 2.5}, "threshold"),
        (candidates(1.0, 2.0), {"max_rejected": 0.5}, "threshold"),
        (candidates(1.0, 2.0, texts=["A cat.", "a  cat"]), {}, "identical"),
        (candidates(1.0, 2.0), {"scorer": "clip"}, "too_few_scored"),
        (candidates(1.0, 2.0), {"column": "help"}, "too_few_scored"),
        (candidates(1.0, 2.0, texts=["a cat", "cat"]), {"max_length_difference": 0}, "length"),
        (candidates(1.0, 1.0, 2.0, texts=["a cat", "a dog", "cat"]), {"max_length_difference": 0}, "tie"),
    ],
)
def test_what_makes_no_pair_says_why(given, options, reason):
    dropped = BestOverWorst(**options)(given)
    assert isinstance(dropped, Dropped)
    assert (dropped.item_id, dropped.stage, dropped.reason) == ("p", "select/best_over_worst", reason)


def test_thresholds_that_are_met_let_the_pair_through():
    options = {"min_gap": 1.0, "min_chosen": 2.0, "max_rejected": 1.0}
    (pair,) = choose([candidates(1.0, 2.0)], make_strategy("best_over_worst", **options)).pairs
    assert pair.chosen.id == "p:1"


def test_another_scorer_or_column_can_choose_from_the_same_candidates():
    both = candidates(1.0, 2.0)
    image_aware = tuple(Annotation(f"p:{i}", "clip", {"clip": 1.0 - i}) for i in range(2))
    both = Candidates(both.prompt, both.completions, both.annotations + image_aware)
    assert BestOverWorst()(both).chosen.id == "p:1"
    assert BestOverWorst(scorer="clip")(both).chosen.id == "p:0"
    assert BestOverWorst(column="other")(both).chosen.id == "p:0"
