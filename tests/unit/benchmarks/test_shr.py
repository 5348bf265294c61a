"""SHR by its authors' rule, worked by hand: sentences, judgements that fit and do not, ratios and n-grams."""

import json

import pytest
from judges import Says
from PIL import Image

from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.files.json_list import read_list
from pairsight.benchmarks.judging import Judging
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.suites.shr import kinds_of, sentences_of
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import ConfigError, DataError

SAID = {
    1: "A red cat sits. It is on a mat. A red cat sits. A dog.",
    2: "A tree.",
    3: "Too long.",
}
VERDICTS = {
    "A red cat": "Judgement:\n1. correct: yes\n2. Hallucination: no mat\n\n3. cannot judge: ?\n",
    "A tree": "Judgement:\n1. correct: yes\n2. correct: again",
}


@pytest.fixture
def shr(tmp_path):
    (tmp_path / "VG_100K").mkdir()
    for n in SAID:
        Image.new("RGB", (8, 8), (40 * n, 0, 0)).save(tmp_path / "VG_100K" / f"{n}.jpg")
    (tmp_path / "val_images_final.json").write_text(json.dumps([{"image_id": n} for n in SAID]))
    (tmp_path / "shr_factual_part1.jsonl").write_text('{"1": ["The cat is red.", "It sits."]}\n')
    (tmp_path / "shr_factual_part2.jsonl").write_text('{"2": ["A tree."]}\n')
    rows = [{"image_id": n, "width": 200, "height": 100, "url": f"https://x/VG_100K/{n}.jpg"} for n in (*SAID, 9)]
    (tmp_path / "image_data.json").write_text(json.dumps(rows))
    region = {"x": 10, "y": 20, "width": 33, "height": 50, "phrase": "red cat"}
    regions = [
        {"id": n, "regions": [{**region, "image_id": n, "phrase": "x" * 15_000 if n == 3 else "red cat"},
                              {**region, "phrase": ""}]}
        for n in SAID
    ]  # fmt: skip
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    (tmp_path / "gpt_utils.py").write_text("GPT_JUDGE_PROMPT = '''R:\n{}\nF:\n{}\nC:\n{}\n'''\n")
    return tmp_path


class Describes(Says):
    """Describes each image by its number, in the order of the questions."""

    def _one(self, request, sampling):
        self.rule = lambda text: SAID[1 + len(self.asked) - 1]
        return super()._one(request, sampling)


def evaluated(shr, judge):
    model = Describes("m", str)
    (section,) = evaluate_models(
        "model", make_tasks({"shr": shr}), lambda adapter, images: model, out=shr / "out", images=shr,
        export=shr / "official", settings=EvaluationSettings(num_resamples=50), judges=[lambda images: judge],
    ).sections  # fmt: skip
    return section, model


def judged(text):
    if "A red cat" in text:
        judged.tries += 1
        if judged.tries == 1:
            return "I will not"
    return next(said for start, said in VERDICTS.items() if start in text.partition("C:")[2])


def test_ratios_are_those_of_the_script(shr):
    judged.tries = 0
    judge = Says("endpoint:gpt-4@https://api.openai.com/v1", judged)
    section, model = evaluated(shr, judge)
    assert {(s.num_beams, s.temperature, s.max_new_tokens) for s in model.samplings} == {(5, 0.0, 512)}
    assert {(s.temperature, s.max_new_tokens) for s in judge.samplings} == {(0.7, 800)}
    assert judge.asked[0].messages[-1].text == (
        "R:\n[0.05, 0.2, 0.21, 0.7]: red cat\n\nF:\nThe cat is red.\nIt sits.\n\nC:\n"
        "1. A red cat sits\n2. It is on a mat\n3. A dog\n\n"
    )
    # image 1: 3 sentences of 4, 5 and 2 words, one hallucinates; image 2: 1 sentence but 2 judgements; 3 is not judged
    assert section.metrics["hallucination"].base == pytest.approx(1 / 3)
    assert section.metrics["hallucinating_words"].base == pytest.approx(5 / 11)
    assert section.metrics["sentences_per_image"].base == pytest.approx(4 / 2)
    assert section.metrics["hallucinating_sentences_per_image"].base == pytest.approx(1 / 2)
    assert section.metrics["hallucination"].unparsed == 1
    robust = section.other_parser[1]
    assert robust["hallucinating_sentences_per_image"].base == pytest.approx(1)
    # "A red cat sits It is on a mat A red cat sits A dog": 10 of 15 words are different; "A tree": 2 of 2
    assert section.metrics["distinct_1"].base == pytest.approx((10 / 15 + 1) / 2)
    assert section.failed == {"base": 1}
    assert "not judged: the judge's prompt has more than 15,000 characters" in section.failed_items["base"][0]
    folder = shr / "official" / "base" / "shr"
    verdicts = json.loads((folder / "judgement.json").read_text())["run1"]
    assert [note["classification"] for note in verdicts["1"]["judgement"]] == [
        "correct",
        "hallucination",
        "cannot judge",
    ]
    assert verdicts["2"]["judgement"][0]["classification"] is None
    judging = Judging(folder / "judgement.json")
    with pytest.raises(DataError, match="no answer for the id 3"):
        score_answers("shr", shr, folder / "answers.json", shr / "s", judging=judging)


def test_an_endpoint_has_no_beams_which_is_said_before_anything_is_asked(shr, tmp_path):
    from pairsight.pipeline.models import model_opener

    with pytest.raises(ConfigError, match="no search over 5 beams"):
        evaluate_models(
            "model", make_tasks({"shr": shr}), model_opener("endpoint:x@http://127.0.0.1:1/v1", 1),
            out=tmp_path / "o", images=shr, judges=[lambda images: Says("j", judged)],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "kinds"),
    [
        ("Judgement:\n1. Correct: a\n2. hallucination", ["correct", "hallucination"]),
        ("x\nJudgement: below\n1. maybe: b###\n2. correct", ["maybe"]),
        ("Judgement\n1. correct: a", []),
        ("", []),
        ("Judgement:\nnothing", []),
    ],
)
def test_kinds_are_the_first_words_of_the_lines_below(verdict, kinds):
    assert kinds_of(verdict) == kinds


def test_sentences_within_earlier_ones_are_dropped():
    assert sentences_of("A cat sits. cat. . A dog.A cat sits") == ["A cat sits", "A dog"]
    assert sentences_of("") == []


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"a": 1}, {"a"', '[{"a": 1, "a": 2}]', "[" * 5000, ""])
def test_a_long_list_that_is_none_is_a_data_error(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"x.json"):
        list(read_list(file))


def test_a_long_list_is_read_in_pieces(tmp_path):
    file = tmp_path / "x.json"
    rows = [{"id": n, "text": "é]},{" * 50_000} for n in range(7)]
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    assert [record.values for record in read_list(file)] == rows
