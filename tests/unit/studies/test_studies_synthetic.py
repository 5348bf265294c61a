"""The synthetic studies on candidates small enough to compute by hand."""

import math

import numpy as np
import pytest

from pairsight.errors import DataError
from pairsight.models.protocols import Generator
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    ImageCandidate,
    ImageRef,
    ItemError,
    Message,
    PreferencePair,
    Prompt,
)
from pairsight.registry import plugins
from pairsight.studies.completion_scores import (
    completion_score_distributions,
    image_score_distributions,
    kendall_tau,
    scorer_disagreement,
)
from pairsight.studies.image_selection import (
    guidance_wins,
    judged_wins,
    parse_preference,
    selector_overlap,
    vlm_image_judge,
)
from pairsight.studies.result import StudyResult
from pairsight.studies.similarity import prompt_texts, similarity
from pairsight.studies.synthetic_run import analyse

SCALES = (5.0, 7.0, 9.0, 11.0)


def candidate(name, topic, scores, annotations=(), texts=("a", "b")):
    """`scores`: scorer -> one score per guidance scale; the first scorer selects."""
    first = next(iter(scores.values()))
    images = tuple(
        ImageCandidate(
            ImageRef(f"{name}{i}"), name, scale, 0, {s: v[i] for s, v in scores.items()}, i == np.argmax(first)
        )
        for i, scale in enumerate(SCALES[: len(first)])
    )
    completions = tuple(Completion(f"{name}:{i}", name, text, "stop", "m", 0, i) for i, text in enumerate(texts))
    return Candidates(Prompt(name, (Message("user", f"{name}?"),), topic), completions, tuple(annotations), images)


def rows(result, *columns):
    indices = [result.columns.index(column) for column in columns]
    return [tuple(row[index] for index in indices) for row in result.rows]


def test_wins_are_counted_by_scale_and_topic():
    made = [
        candidate("a", "art", {"ir": [1, 2, 0, 0]}),
        candidate("b", "art", {"ir": [0, 3, 1, 0]}),
        candidate("c", "urban", {"ir": [0, 0, 0, 4]}),
        candidate("d", "urban", {"ir": [0, 5, 5, 0]}),
    ]
    result = guidance_wins(made)
    assert rows(result, "topic", "guidance_scale", "share", "num_texts") == [
        ("all", 5.0, 0.0, 4), ("all", 7.0, 0.75, 4), ("all", 9.0, 0.0, 4), ("all", 11.0, 0.25, 4),
        ("art", 5.0, 0.0, 2), ("art", 7.0, 1.0, 2), ("art", 9.0, 0.0, 2), ("art", 11.0, 0.0, 2),
        ("urban", 5.0, 0.0, 2), ("urban", 7.0, 0.5, 2), ("urban", 9.0, 0.0, 2), ("urban", 11.0, 0.5, 2),
    ]  # fmt: skip
    low, high = rows(result, "low", "high")[1]
    assert low < 0.75 <= high <= 1.0
    assert result.figure.startswith("<svg")
    assert "most are won at 7 (0.750)" in result.summary


def test_overlap_is_the_shared_part_of_the_top_sets():
    made = [
        candidate("a", "art", {"ir": [4, 3, 2, 1], "clip": [4, 3, 2, 1], "blip": [1, 2, 3, 4]}),
        candidate("b", "art", {"ir": [4, 3, 2, 1], "clip": [3, 4, 1, 2], "blip": [4, 3, 2, 1]}),
    ]
    result = selector_overlap(made, ["ir", "clip", "blip"])
    found = {row[:2]: (row[2], row[3]) for row in rows(result, "selectors", "top", "overlap", "chance")}
    assert found["ir & clip", 1] == (0.5, 0.25)
    assert found["ir & clip", 2] == (1.0, 0.5)
    assert found["ir & clip", 3] == pytest.approx((5 / 6, 0.75))
    assert found["ir & blip", 1] == (0.5, 0.25)
    assert found["ir & clip & blip", 1] == (0.0, 1 / 16)
    assert found["ir & clip & blip", 2] == (0.5, 1 / 4)
    assert found["ir & clip & blip", 3] == pytest.approx((2 / 3, 9 / 16))


def test_overlap_counts_only_texts_scored_by_all():
    complete = candidate("a", "art", {"ir": [4, 3, 2, 1], "clip": [4, 3, 2, 1]})
    partly = candidate("b", "art", {"ir": [4, 3, 2, 1]})
    assert rows(selector_overlap([complete, partly]), "num_texts")[0] == (1,)
    with pytest.raises(DataError, match="scored by at least two scorers; found ir"):
        selector_overlap([partly])
    with pytest.raises(DataError, match="not of a synthetic run"):
        guidance_wins([Candidates(partly.prompt, partly.completions)])


def test_the_judges_preference_counts_in_either_order_of_the_images():
    made = [
        candidate("a", "art", {"ir": [1, 0], "clip": [0, 1]}),
        candidate("b", "art", {"ir": [1, 0], "clip": [0, 1]}),
        candidate("c", "art", {"ir": [1, 0], "clip": [1, 0]}),
        candidate("d", "art", {"ir": [0, 1], "clip": [1, 0]}),
        candidate("e", "art", {"ir": [0, 1], "clip": [1, 0]}),
    ]
    seen = []

    def judge(text, first, second):
        seen.append((first.sha256, second.sha256))
        if text == "d":
            return "tie"
        if text == "e":
            return ItemError("refused")
        return "first" if first.sha256.endswith("0") else "second"  # the lower guidance

    result = judged_wins(made, "ir", "clip", judge, "a rule")
    assert dict(rows(result, "outcome", "count")) == {
        "ir wins": 2, "clip wins": 0, "tie": 1, "same image": 1, "unjudged": 1,
    }  # fmt: skip
    assert seen[:2] == [("a0", "a1"), ("b1", "b0")]
    assert rows(result, "share", "share_of_decided")[0] == (0.4, 1.0)
    assert "a rule" in result.summary


def annotated(name, text_only, image_aware):
    notes = [Annotation(f"{name}:{i}", "rm", {"score": s}) for i, s in enumerate(text_only)]
    notes += [Annotation(f"{name}:{i}", "clip", {"clip": s}) for i, s in enumerate(image_aware)]
    return candidate(name, "art", {"ir": [1.0]}, notes, texts=["t"] * len(text_only))


def test_disagreement_of_text_only_and_image_aware_scorers():
    made = [
        annotated("a", [3, 2, 1], [3, 2, 1]),
        annotated("b", [3, 2, 1], [1, 2, 3]),
        annotated("c", [3, 2, 1], [3, 1, 2]),
    ]
    found = dict(rows(scorer_disagreement(made, "rm", "clip"), "measure", "value"))
    assert found["same chosen"] == pytest.approx(2 / 3)
    assert found["same rejected"] == pytest.approx(1 / 3)
    assert found["reversed"] == pytest.approx(1 / 3)
    assert found["Kendall tau-b"] == pytest.approx((1 - 1 + 1 / 3) / 3)
    with pytest.raises(DataError, match="scored by both 'rm' and 'blip'"):
        scorer_disagreement(made, "rm", "blip")


def test_kendall_tau_with_ties_by_hand():
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    # pairs (0,1) tied in the first; (0,2) and (1,2) concordant: 2 / sqrt(2 * 3)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau([1, 1], [1, 2]) is None


def test_score_distributions_by_guidance_and_by_model():
    made = [annotated("a", [1, 3], [0, 0]), annotated("b", [3, 5], [0, 0])]
    by_model = completion_score_distributions(made, "rm")
    assert rows(by_model, "group", "number", "mean", "lowest", "highest") == [
        ("model 1", 2, 2, 1, 3),
        ("model 2", 2, 4, 3, 5),
    ]
    images = image_score_distributions(
        [candidate("a", "art", {"ir": [1, 2]}), candidate("b", "art", {"ir": [3, 2]})], "ir"
    )
    assert rows(images, "group", "mean", "standard_deviation") == [("guidance 5", 2, 1), ("guidance 7", 2, 0)]
    with pytest.raises(DataError, match="no scores by 'clip'"):
        image_score_distributions(made, "clip")


def embed(texts):
    """Texts with the same first letter have the same vector."""
    vectors = {"x": [1.0, 0.0], "y": [0.0, 1.0]}
    return np.array([vectors[text[0]] for text in texts])


def test_similarity_within_and_across_prompts_of_any_set():
    prompts = [Prompt(name, (Message("user", name),)) for name in ("x1", "y1")]

    def completion(prompt, i, text):
        return Completion(f"{prompt.id}:{i}", prompt.id, text, "stop", "m", 0, i)

    ours = [Candidates(p, tuple(completion(p, i, t) for i, t in enumerate(["x", "xx", "y"]))) for p in prompts]
    theirs = [PreferencePair(p.id, p, completion(p, 0, "x"), (completion(p, 1, "xx"),), "any") for p in prompts]
    result = similarity({"ours": prompt_texts(ours), "theirs": prompt_texts(theirs)}, embed, "letters", num_pairs=100)
    found = {row[:2]: row[2] for row in rows(result, "set", "between", "mean_cosine")}
    assert found["ours", "completions of one prompt"] == pytest.approx(1 / 3)
    assert found["theirs", "completions of one prompt"] == 1.0
    assert found["ours", "prompts"] == 0.0
    assert "letters" in result.title
    with pytest.raises(DataError, match="'one' needs two prompts"):
        similarity({"one": prompt_texts(ours[:1])}, embed, "letters")


def test_a_result_is_written_as_three_files(tmp_path):
    result = StudyResult("wins", "Wins", ("topic", "share"), (("a|b", 0.123456), ("c", None)), "<svg/>", "Words.")
    table, figure, text = result.write(tmp_path / "studies")
    assert table.read_text() == "topic,share\na|b,0.123456\nc,\n"
    assert figure.read_text() == "<svg/>"
    assert "| a/b | 0.123 |" in text.read_text()
    assert "![Wins](wins.svg)" in text.read_text()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("1", "first"), ("Image 2.", "second"), ("The second image", "second"), ("Tie", "tie"), ("Neither is", "tie")],
)
def test_a_judges_answer_is_parsed(text, verdict):
    assert parse_preference(text) == verdict


def test_a_judge_without_a_verdict_is_an_error():
    assert parse_preference("I cannot compare images.").reason == "no_verdict"
    asked = []

    class Model(Generator):
        fingerprint = "model"

        def generate(self, requests, sampling):
            asked.extend(requests)
            return [Completion("c", "p", "2", "stop", "m", 0, 0)]

    judge = vlm_image_judge(Model())
    assert judge("a red bus", ImageRef("a"), ImageRef("b")) == "second"
    (request,) = asked
    assert request.prompt.images == (ImageRef("a"), ImageRef("b"))
    assert request.prompt.messages[0].text.count("<image>") == 2
    assert '"a red bus"' in request.prompt.question


def test_all_studies_that_the_scorers_allow_and_why_others_are_left_out():
    notes = [Annotation(f"a:{i}", name, {name: float(i)}) for name in ("rm", "clip") for i in range(2)]
    made = [candidate("a", "art", {"ir": [1, 2], "clip": [2, 1]}, notes, texts=["x", "xx"])]
    results, left_out = analyse(made, embed=("letters", embed), judge=("a rule", lambda *_: "tie"))
    assert [one.name for one in results] == [
        "guidance_wins", "image_scores_ir", "image_scores_clip", "selector_overlap", "judged_wins",
        "completion_scores_rm", "completion_scores_clip", "scorer_disagreement",
    ]  # fmt: skip
    assert left_out == ["similarity of 'this run' needs two prompts and a prompt with two completions"]
    made = [candidate("a", "art", {"ir": [1, 2]}, notes[::-1], texts=["x", "xx"])]
    assert analyse(made)[0][-1].title == "rm (text only) against clip (image-aware)"
    results, left_out = analyse([candidate("a", "art", {"ir": [1, 2]})])
    assert [one.name for one in results] == ["guidance_wins", "image_scores_ir"]
    assert left_out == []


SEEING = """
from pairsight.models.scorers.base import Scorer


class Seeing(Scorer):
    needs_images = {}

    def score(self, items):
        return [{{"n": 1.0}} for _ in items]
"""


@pytest.mark.parametrize(("sees", "title"), [(True, "rm (text only) against Seeing (image-aware)"), (False, None)])
def test_a_scorer_from_a_file_says_itself_whether_it_sees_the_image(tmp_path, sees, title):
    file = tmp_path / "seeing.py"
    file.write_text(SEEING.format(sees))
    notes = [Annotation(f"a:{i}", name, {name: float(i)}) for name in ("Seeing", "rm") for i in range(2)]
    made = [candidate("a", "art", {"ir": [1, 2]}, notes, texts=["x", "xx"])]
    names = ("sequence:models/rm", f"{file}:Seeing:v1")
    with plugins(file):
        results, left_out = analyse(made, completion_scorers=names)
    assert [one.title for one in results if "against" in one.title] == ([title] if title else [])
    assert left_out == []
    results, (left_out,) = analyse(made, completion_scorers=names)
    assert f"add --plugin {file}" in left_out, "a run folder does not run code"
    assert not any("against" in one.title for one in results)
