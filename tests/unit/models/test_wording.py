"""A user's own wording of what annotators, judges and writers are asked, and answers without thinking."""

import hashlib
import json

import pytest

from pairsight.cli.main import main
from pairsight.errors import ConfigError
from pairsight.models.annotation.options import AnnotationOptions
from pairsight.models.annotation.prompt import annotation_prompt, shown_order
from pairsight.models.annotation.vlm_annotator import VlmAnnotator, annotator_fingerprint
from pairsight.models.protocols import Generator
from pairsight.models.scorers.stages import ScoreCompletions
from pairsight.models.stages import AnnotateCandidates
from pairsight.models.thinking import without_thinking
from pairsight.models.wording import filled, read_wording
from pairsight.options import BuildOptions
from pairsight.records import ATTRIBUTES, Candidates, Completion, ImageRef, ItemError, Message, Prompt

PROMPT = Prompt("p1", (Message("user", "What is {guide}?", (ImageRef("a" * 64),)),))
OWN = "Rate {count} replies.\n{guide}\n\nQ: {question}\n{completions}\n\n{form}\n"


def texts(*said):
    return tuple(Completion(f"p1:{n}", "p1", text, "stop", "m", n, n) for n, text in enumerate(said))


class Says(Generator):
    """Answers the same to everything, and keeps what it was asked."""

    fingerprint = "says"

    def __init__(self, text, ending="stop"):
        self.text, self.ending, self.asked = text, ending, []

    def generate(self, requests, sampling):
        self.asked += [(one.prompt.messages[0].text, sampling) for one in requests]
        return [Completion("x", "x", self.text, self.ending, "says", 0, 0) for _ in requests]


def grades(*numbers):
    return "\n".join(f"Answer {n}\n" + "\n".join(f"{a}: {g}" for a in ATTRIBUTES) for n, g in enumerate(numbers, 1))


def test_existing_runs_keep_their_names():
    # as the code before there were options of annotation wrote them
    assert annotator_fingerprint("m") == "annotator:c8abaf1edd433d015c8e8e45542d093109ab428ffa9fdd2398586fbb9c77a2a2"
    assert annotator_fingerprint("m", form="json") == (
        "annotator:aac9c3b9e5c6388a5e80806fb31652bc998f87e7259fdab490275fd24ec45a37"
    )
    prompt = Prompt("x", (Message("user", "What is this?", (ImageRef("a" * 64),)),))
    text = annotation_prompt(prompt, ["one", "two"]).messages[0].text
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "bc20201fe90f80fa1db02336ead96c99088a91200921e83ac49e2e94b889f8a1"
    )


def test_own_guide_and_prompt_are_what_the_annotator_reads(tmp_path):
    (tmp_path / "guide.md").write_text(
        "Scale of our lab: {question} is not a placeholder here\n".replace("{question}", "it")
    )
    (tmp_path / "prompt.txt").write_text(OWN)
    options = AnnotationOptions(
        guide=str(tmp_path / "guide.md"), prompt=str(tmp_path / "prompt.txt"), shuffle=False, temperature=0.5,
        max_new_tokens=9000,
    )  # fmt: skip
    model = Says(grades(4, 1))
    marks = VlmAnnotator(model, options=options).annotate(PROMPT, texts("a {form}", "b"))
    ((asked, sampling),) = model.asked
    head, _, form = asked.partition("[Answer 2]\nb\n\n")
    assert head == (
        "Rate 2 replies.\nScale of our lab: it is not a placeholder here\n\nQ: [Question]\nWhat is {guide}?\n"
        "[Answer 1]\na {form}\n\n"
    )
    assert form.startswith("First write your reasons.")
    assert (sampling.temperature, sampling.max_new_tokens) == (0.5, 9000)
    assert [mark.scores["helpfulness"] for mark in marks] == [4, 1]  # in their own order: not shuffled
    assert [shown_order(4, 1, "p", shuffle=False), shown_order(4, 1, "p")] == [(0, 1, 2, 3), (3, 2, 0, 1)]


def test_what_was_read_is_the_options_value_and_is_read_no_second_time(tmp_path):
    file = tmp_path / "guide.md"
    file.write_text("\ufeff  Our guide. \n")
    options = AnnotationOptions(guide=str(file))
    file.unlink()
    assert options.guide == "Our guide.\n"
    assert AnnotationOptions.parse(options.to_plain()) == options
    (tmp_path / "all.yaml").write_text("guide: |\n  One.\n  Two.\nshuffle: false\n")
    build = {"recipe": "feedback", "model": "m", "out": "o"}
    parsed = BuildOptions.parse(build | {"annotation": str(tmp_path / "all.yaml")})
    assert parsed.annotation == AnnotationOptions(guide="One.\nTwo.\n", shuffle=False)


def test_every_option_is_in_the_fingerprint():
    changed = [{"guide": "a\nb"}, {"guide": "a\nc"}, {"prompt": OWN}, {"shuffle": False}, {"temperature": 0.1},
               {"max_new_tokens": 2048}]  # fmt: skip
    prints = {annotator_fingerprint("m", AnnotationOptions(**one)) for one in ({}, *changed)}
    assert len(prints) == len(changed) + 1
    endpoint = "vlm:endpoint:m@http://127.0.0.1:8000/v1"
    plain, own = (ScoreCompletions(endpoint, None, annotation=AnnotationOptions(**one)) for one in ({}, changed[0]))
    assert "annotation" not in plain.weights()
    assert json.loads(own.weights()["annotation"])["guide"] == "a\nb\n"
    item = (PROMPT, texts("a")[0])
    assert plain.as_call().key(item) != own.as_call().key(item)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "{question}\n{form}"}, "must hold {completions}, which is filled in"),
        ({"prompt": "a\nb"}, "must hold {question} and {completions}"),
        ({"prompt": OWN.replace("{guide}", "{giude}")}, "unknown placeholder {giude}; did you mean 'guide'?"),
        ({"prompt": OWN.replace("{guide}", ""), "guide": "a\nb"}, "guide changes nothing: prompt has no {guide}"),
        ({"prompt": "{question}\n{completions}"}, "must hold {form}, or itself ask for helpfulness, correctness"),
        ({"guide": " \n "}, "the text is empty"),
        ({"guide": "a <image>\nb"}, "leave it out, images come before the text"),
        ({"guide": "guide.yaml"}, "must name a file of wording (.txt or .md)"),
        ({"guide": "nowhere.md"}, "nowhere.md: No such file"),
        ({"guide": "a {place}\nb"}, "unknown placeholder {place}"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"shufle": True}, "did you mean 'shuffle'?"),
    ],
)  # fmt: skip
def test_a_wrong_wording_is_refused_in_one_line(options, said):
    with pytest.raises(ConfigError) as error:
        AnnotationOptions(**options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_wording(str(tmp_path / "a.md"))
    (tmp_path / "b.md").mkdir()
    with pytest.raises(ConfigError, match=r"b\.md is not a file"):
        read_wording(str(tmp_path / "b.md"))
    (tmp_path / "c.md").write_text("x" * (1 << 19))
    with pytest.raises(ConfigError, match="longer than"):
        read_wording(str(tmp_path / "c.md"))


def test_braces_stay_and_doubled_ones_write_a_place():
    wording = read_wording('{"a": 1} {{name}} {name}\n', ["name"])
    assert filled(wording, {"name": "{name}"}) == '{"a": 1} {name} {name}'


def test_options_of_annotation_are_refused_where_nothing_is_annotated(capsys):
    assert main(["build", "seva", "--model", "m", "--out", "o", "--set", "annotation.shuffle=false"]) == 1
    assert "annotation changes nothing, recipe 'seva' asks no annotator" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" plain ", " plain "),
        ("<think>a: 4</think>\n\nrest", "rest"),
        ("a: 4\n</think>rest", "rest"),  # the template wrote the opening mark
        ("<think>a</think><think>b</think> c", "c"),
        ("[THINK]a[/THINK]c", "c"),
        ("◁think▷a◁/think▷c", "c"),
        ("<think>a</think>\n<answer> c </answer>", "c"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>c", "c"),
        ("say <think> if you like </think> it", "say <think> if you like </think> it"),
        ("<think>a", None),
        ("", ""),
    ],
)
def test_thinking_is_left_out(text, answer):
    assert without_thinking(text) == answer


def test_grades_in_the_thinking_do_not_count():
    think = f"<think>{grades(0, 0)}</think>"
    item = Candidates(PROMPT, texts("a", "b"))
    annotator = VlmAnnotator(Says(think + grades(3, 3)))
    (rated,) = AnnotateCandidates(annotator).process([item])
    assert {mark.scores["helpfulness"] for mark in rated.annotations} == {3}
    assert all(mark.critique.startswith("<think>") for mark in rated.annotations)  # all of it is kept


@pytest.mark.parametrize(("ending", "reason"), [("length", "length"), ("stop", "unfinished_thinking")])
def test_a_thought_that_is_cut_is_counted_by_its_own_reason(ending, reason):
    annotator = VlmAnnotator(Says(f"<think>{grades(4, 4)}", ending))
    (dropped,) = AnnotateCandidates(annotator).process([Candidates(PROMPT, texts("a", "b"))])
    assert isinstance(dropped, ItemError)
    assert dropped.reason == reason
    assert "it was still thinking" in dropped.detail
