"""The annotation prompt and the parser of its answers, and a model as annotator."""

import hashlib
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsight.models.annotation.options import AnnotationOptions
from pairsight.models.annotation.prompt import (
    annotation_prompt,
    annotation_schema,
    parse_annotation,
    shown_order,
)
from pairsight.models.annotation.vlm_annotator import VlmAnnotator
from pairsight.models.protocols import Generator
from pairsight.models.stages import AnnotateCandidates
from pairsight.records import ATTRIBUTES, Candidates, Completion, ImageRef, ItemError, Message, Prompt

IMAGE = ImageRef("a" * 64)
PROMPT = Prompt("p1", (Message("user", "What is on the table?", (IMAGE,)),))


def completions(*texts):
    return tuple(Completion(f"p1:{n}", "p1", text, "stop", "m", 0, n) for n, text in enumerate(texts))


def block(number, *values, mark=":"):
    return f"Answer {number}\n" + "\n".join(
        f"{name.capitalize()}{mark} {value}" for name, value in zip(ATTRIBUTES, values, strict=True)
    )


def scores(*values):
    return dict(zip(ATTRIBUTES, map(float, values), strict=True))


def test_the_prompt_holds_image_question_guide_and_all_completions():
    asked = annotation_prompt(PROMPT, ["A cup.", "A <image> of a cat."])
    (message,) = asked.messages
    assert message.images == (IMAGE,)
    assert "<image>" not in message.text
    for part in ("What is on the table?", "[Answer 1]\nA cup.", "[Answer 2]\nA [image] of a cat.", "Verbosity"):
        assert part in message.text
    assert message.text.index("reasons") < message.text.index("Answer 1\nHelpfulness")
    assert message.text.index("[Question]") < message.text.index("[Answer 1]")
    assert "JSON" not in message.text
    assert "JSON" in annotation_prompt(PROMPT, ["a"], "json").messages[0].text


def test_text_only_prompts_and_dialogues_are_asked_as_they_are():
    alone = annotation_prompt(Prompt("p", (Message("user", "Add 2 and 2."),)), ["4"])
    assert "image" not in alone.messages[0].text.split("Guide")[0]
    turns = Prompt("p", (Message("user", "<image> or <image>?", (IMAGE, IMAGE)), Message("assistant", "A."),
                         Message("user", "Why?")))  # fmt: skip
    text = annotation_prompt(turns, ["x"]).messages[0].text
    assert "user: [image 1] or [image 2]?\nassistant: A.\nuser: Why?" in text


def test_the_schema_asks_for_reasons_before_scores():
    answer = annotation_schema(3)["properties"]["answers"]["items"]
    assert list(answer["properties"])[:3] == ["answer", "reasons", "helpfulness"]
    assert set(answer["required"]) == {"answer", "reasons", *ATTRIBUTES}


def test_the_order_is_shuffled_by_seed_and_prompt():
    orders = {shown_order(4, seed, f"p{n}") for seed in range(5) for n in range(5)}
    assert len(orders) > 10
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    shuffled = [0, 1, 2, 3]  # kept answers are parsed again by this order, so runs made before rely on it
    random.Random(int(hashlib.sha256(b'["annotation order", 1, "p"]').hexdigest()[:8], 16) // 2).shuffle(shuffled)
    assert list(shown_order(4, 1, "p")) == shuffled == [3, 2, 0, 1]


@pytest.mark.parametrize("mark", [":", "", " :", ": **", " =", " score:"])
def test_the_colon_is_optional(mark):
    text = "Both are fine.\n\n" + block(1, 4, 3, 2, 1, 0, mark=mark) + "\n\n" + block(2, 0, 0, 4, 2, 1, mark=mark)
    assert parse_annotation(text, 2) == [scores(4, 3, 2, 1, 0), scores(0, 0, 4, 2, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "Helpfulness:4,Correctness:3,Coherence:2,Complexity:1,Verbosity:0",
        "Answer 1: Helpfulness 4 Correctness 3 Coherence 2 Complexity 1 Verbosity 0",
        "### Response 1\n- **Helpfulness**: 4/4\n- **Correctness**: 3/4\n- **Coherence**: 2\n- Complexity: (1)\n"
        "- Verbosity: 0.",
        "**Completion 1:** good\nhelpfulness\n4\nCORRECTNESS: 3\ncoherence 2\ncomplexity: 1\nverbosity: 0",
        "Answer 1 does well; its helpfulness of 2 is my first thought.\nScores for Answer 1:\nHelpfulness: 4\n"
        "Correctness: 3\nCoherence: 2\nComplexity: 1\nVerbosity: 0",
        "| Helpfulness | Correctness |\nHelpfulness: 4 | Correctness: 3 | Coherence: 2 | Complexity: 1 | Verbosity: 0",
    ],
)
def test_shapes_met_in_the_field(text):
    assert parse_annotation(text, 1) == [scores(4, 3, 2, 1, 0)]


@pytest.mark.parametrize("value", ["5", "-1", "3.5", "high", "", "10", "4/5", "2,5", "−2", "N/A", "three"])
def test_a_bad_score_invalidates_its_completion_only(value):
    first, second, third = parse_annotation(
        "\n".join([block(1, 4, 4, 4, 4, 4), block(2, 4, value, 4, 4, 4), block(3, 1, 1, 1, 1, 1)]), 3
    )
    assert (first, third) == (scores(4, 4, 4, 4, 4), scores(1, 1, 1, 1, 1))
    assert isinstance(second, ItemError)
    assert second.reason == "bad_score"
    assert "answer 2" in second.detail


def test_a_missing_score_and_a_missing_completion_are_told_apart():
    text = block(1, 4, 4, 4, 4, 4).replace("Coherence: 4\n", "") + "\n" + block(2, 2, 2, 2, 2, 2)
    missing, fine, absent = parse_annotation(text, 3)
    assert isinstance(missing, ItemError)
    assert (missing.reason, missing.detail) == ("missing_score", "answer 1 has no coherence")
    assert fine == scores(2, 2, 2, 2, 2)
    assert isinstance(absent, ItemError)
    assert absent.reason == "unparsed"


def test_without_headings_scores_are_taken_in_order():
    lines = [f"{name}: {value}" for value in (4, 1) for name in ATTRIBUTES]
    assert parse_annotation("\n".join(lines), 2) == [scores(4, 4, 4, 4, 4), scores(1, 1, 1, 1, 1)]


def test_json_is_read_with_or_without_text_around_it():
    answers = [{"answer": 2, "reasons": "b", **scores_int(1)}, {"answer": 1, "reasons": "a", **scores_int(4)}]
    for text in (json.dumps({"answers": answers}), "Here:\n```json\n" + json.dumps({"answers": answers}) + "\n```"):
        assert parse_annotation(text, 2) == [scores(4, 4, 4, 4, 4), scores(1, 1, 1, 1, 1)]


def scores_int(value):
    return dict.fromkeys(ATTRIBUTES, value)


@pytest.mark.parametrize("value", [True, 3.0, 7, "4", None, [4]])
def test_json_scores_must_be_whole_numbers(value):
    answers = [{"answer": 1, **scores_int(4), "coherence": value}, {"answer": 2, **scores_int(2)}]
    first, second = parse_annotation(json.dumps({"answers": answers}), 2)
    assert isinstance(first, ItemError)
    assert second == scores(2, 2, 2, 2, 2)


def test_json_that_was_cut_gives_what_is_whole():
    text = json.dumps({"answers": [{"answer": 1, **scores_int(3)}, {"answer": 2, **scores_int(2)}]})
    first, second = parse_annotation(text[:-30], 2)
    assert first == scores(3, 3, 3, 3, 3)
    assert isinstance(second, ItemError)


PIECES = st.sampled_from(
    ["Answer 1", "Answer 2:", "\n", " ", ":", "Helpfulness", "correctness", "Coherence: 4", "verbosity 3", "{", "}",
     '"answers": [', "4", "-", "9" * 50, "NaN", "**", "complexity: 2", '{"answers": [{}]}', "\u202e", "\x00", "/4"]
)  # fmt: skip


@given(text=st.text() | st.lists(PIECES, max_size=40).map("".join), count=st.integers(1, 5))
def test_no_text_breaks_the_parser(text, count):
    results = parse_annotation(text, count)
    assert len(results) == count
    for result in results:
        if isinstance(result, ItemError):
            assert result.reason in {"unparsed", "missing_score", "bad_score"}
            assert not result.retryable
        else:
            assert list(result) == list(ATTRIBUTES)
            assert all(value in (0, 1, 2, 3, 4) for value in result.values())


@given(
    values=st.lists(st.tuples(*[st.integers(0, 4)] * 5), min_size=1, max_size=6), mark=st.sampled_from([":", "", " ="])
)
def test_what_was_asked_for_is_understood(values, mark):
    text = "Reasons first. Helpfulness matters.\n" + "\n\n".join(
        block(number, *row, mark=mark) for number, row in enumerate(values, start=1)
    )
    assert parse_annotation(text, len(values)) == [scores(*row) for row in values]


class Says(Generator):
    """A generator that answers every request with what a function makes of its text."""

    fingerprint = "says"

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def generate(self, requests, sampling):
        self.asked += requests
        made = [self.answer(request) for request in requests]
        return [
            one if isinstance(one, ItemError) else Completion("x", r.prompt.id, one, "stop", "says", 0, 0)
            for r, one in zip(requests, made, strict=True)
        ]


def length_as_score(request):
    """Grades each completion by its number of letters."""
    shown = request.prompt.messages[0].text.split("[Answer ")[1:]
    texts = [part.split("]\n", 1)[1].split("\n\n", 1)[0] for part in shown]
    return "\n".join(block(n, *[len(text)] * 5) for n, text in enumerate(texts, start=1))


def test_scores_come_back_to_the_completion_they_belong_to():
    made = completions("a", "bb", "ccc", "dddd")
    annotator = VlmAnnotator(Says(length_as_score), seed=3)
    marks = annotator.annotate(PROMPT, made)
    assert [mark.scores["helpfulness"] for mark in marks] == [1, 2, 3, 4]
    assert [mark.completion_id for mark in marks] == [one.id for one in made]
    order = shown_order(4, 3, "p1")
    assert [order[mark.position] for mark in marks] == [0, 1, 2, 3]
    assert order != (0, 1, 2, 3)
    assert all("Helpfulness" in mark.critique for mark in marks)


def test_the_fingerprint_follows_what_is_asked():
    generator = Says(length_as_score)
    prints = {
        VlmAnnotator(generator).fingerprint,
        VlmAnnotator(generator, seed=1).fingerprint,
        VlmAnnotator(generator, form="json").fingerprint,
        VlmAnnotator(generator, options=AnnotationOptions(temperature=0.5)).fingerprint,
    }
    assert len(prints) == 4
    assert VlmAnnotator(generator).fingerprint in prints


def test_the_stage_keeps_what_could_be_rated_and_drops_prompts_with_less_than_two():
    item = Candidates(PROMPT, completions("a", "bb", "ccccccc", "dddd"))
    (kept,) = AnnotateCandidates(VlmAnnotator(Says(length_as_score))).process([item])
    assert [mark.completion_id for mark in kept.annotations] == ["p1:0", "p1:1", "p1:3"]
    assert kept.completions == item.completions
    few = replace(item, completions=completions("a", "cccccccc", "ddddddd"))
    (dropped,) = AnnotateCandidates(VlmAnnotator(Says(length_as_score))).process([few])
    assert isinstance(dropped, ItemError)
    assert dropped.reason == "too_few_annotations"
    assert dropped.detail.startswith("1 of 3 completions were rated; answer")
    assert "Helpfulness: 8" in dropped.detail


def test_an_annotator_that_fails_is_an_error_of_that_prompt_only():
    def answer(request):
        if "Second" in request.prompt.messages[0].text:
            return ItemError("too_long", "", retryable=False)
        return length_as_score(request)

    first = Candidates(PROMPT, completions("a", "bb"))
    second = Candidates(Prompt("p2", (Message("user", "Second?"),)), completions("a", "bb"))
    results = list(AnnotateCandidates(VlmAnnotator(Says(answer))).process([first, second]))
    assert isinstance(results[0], Candidates)
    assert [mark.completion_id for mark in results[0].annotations] == ["p1:0", "p1:1"]
    assert results[1] == ItemError("too_long", "", retryable=False)


def test_one_completion_alone_can_be_rated():
    (kept,) = AnnotateCandidates(VlmAnnotator(Says(length_as_score))).process([Candidates(PROMPT, completions("abc"))])
    assert [mark.scores["verbosity"] for mark in kept.annotations] == [3]


def test_the_key_of_an_annotation_follows_the_texts_and_not_the_batch():
    stage = AnnotateCandidates(VlmAnnotator(Says(length_as_score)))
    item = Candidates(PROMPT, completions("a", "bb"))
    assert stage.key(item) == replace(stage, batch_size=3).key(item)
    assert stage.key(item) != stage.key(replace(item, completions=completions("a", "bc")))


@pytest.mark.parametrize(
    "piece", ['{"a":', '{"a":[', '{"a":[1,1,', "{", "[ ", '{"a":1},', "helpfulness ", "Answer 1 ", "#"]
)
def test_a_long_hostile_answer_is_read_in_linear_time(piece: str) -> None:
    assert len(parse_annotation(piece * (1_000_000 // len(piece)), 4)) == 4  # took minutes when every brace was tried
