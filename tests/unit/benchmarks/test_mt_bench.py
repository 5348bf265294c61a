"""MT-Bench by FastChat's rule: turns, prompts, references, temperatures, and images that have nothing to do with it."""

import json

import pytest
from judges import Says
from PIL import Image

from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.judging import Judging
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.suites.mt_bench import score_of
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import DataError
from pairsight.records import ItemError


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


PROMPTS = [
    {"name": "single-v1", "system_prompt": "S", "prompt_template": "[Q] {question} [A] {answer}"},
    {"name": "single-math-v1", "system_prompt": "M", "prompt_template": "{question} {ref_answer_1} {answer}"},
    {"name": "single-v1-multi-turn", "system_prompt": "S2",
     "prompt_template": "{question_1} {answer_1} {question_2} {answer_2}"},
    {"name": "single-math-v1-multi-turn", "system_prompt": "M2",
     "prompt_template": "{ref_answer_1}/{ref_answer_2} {question_1} {answer_1} {question_2} {answer_2}"},
]  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    folder = tmp_path / "mt_bench"
    lines(folder / "question.jsonl", [
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
        {"question_id": 111, "category": "math", "turns": ["1+1?", "2+2?"]},
    ])  # fmt: skip
    lines(folder / "reference_answer" / "gpt-4.jsonl", [{"question_id": 111, "choices": [{"turns": ["two", "four"]}]}])
    lines(tmp_path / "judge_prompts.jsonl", PROMPTS)
    (tmp_path / "pictures").mkdir()
    for n in range(3):
        Image.new("RGB", (8, 8), (80 * n, 0, 0)).save(tmp_path / "pictures" / f"{n}.png")
    return folder


def evaluated(bench, judge, model, **options):
    (section,) = evaluate_models(
        "model",
        make_tasks({"mt_bench": bench}, {"mt_bench": options} if options else None),
        lambda adapter, images: model,
        out=bench.parent / "out",
        export=bench.parent / "official",
        settings=EvaluationSettings(num_resamples=50),
        judges=[lambda images: judge],
    ).sections
    return section


def graded(text):
    if text.startswith("[Q] Write."):
        return "Fine. Rating: [[8]]"
    if text.startswith("Write."):
        return "No rating"
    return "so [7.5] it is" if "/" in text else "[[2]] and [[9]]"


def test_turns_prompts_temperatures_and_files(bench):
    model, judge = Says("m", lambda text: f"<{text}>"), Says("endpoint:gpt-4@https://api.openai.com/v1", graded)
    section = evaluated(bench, judge, model)
    # turn 1: 8 and 2; turn 2: the first has no score and is left out, the second 7.5
    assert section.metrics["turn_1"].base == 5
    assert section.metrics["turn_2"].base == 7.5
    assert section.metrics["score"].base == pytest.approx((8 + 2 + 7.5) / 3)
    assert section.metrics["score"].unparsed == 1
    assert section.categories["math"]["score"].base == pytest.approx(4.75)
    asked = {tuple(m.text for m in p.messages) for p in judge.asked}
    assert asked == {
        ("S", "[Q] Write. [A] <Write.>"),
        ("M", "1+1? two <1+1?>"),
        ("S2", "Write. <Write.> Again. <Again.>"),
        ("M2", "two/four 1+1? <1+1?> 2+2? <2+2?>"),
    }
    assert {(s.temperature, s.max_new_tokens) for s in judge.samplings} == {(0.0, 2048)}
    second = next(p for p in model.asked if p.messages[-1].text == "Again.")
    assert [(m.role, m.text) for m in second.messages] == [
        ("user", "Write."), ("assistant", "<Write.>"), ("user", "Again."),
    ]  # fmt: skip
    warmth = {p.messages[0].text: s.temperature for p, s in zip(model.asked, model.samplings, strict=True)}
    assert warmth == {"Write.": 0.7, "1+1?": 0.0}

    folder = bench.parent / "official" / "base" / "mt_bench"
    (answers, _) = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert (answers["question_id"], answers["choices"]) == (81, [{"index": 0, "turns": ["<Write.>", "<Again.>"]}])
    verdicts = [json.loads(line) for line in (folder / "gpt-4_single.jsonl").read_text().splitlines()]
    assert [(v["question_id"], v["turn"], v["score"], v["judge"]) for v in verdicts] == [
        (81, 1, 8.0, ["gpt-4", "single-v1"]),
        (81, 2, -1, ["gpt-4", "single-v1-multi-turn"]),
        (111, 1, 2.0, ["gpt-4", "single-math-v1"]),
        (111, 2, 7.5, ["gpt-4", "single-math-v1-multi-turn"]),
    ]
    again = score_answers(
        "mt_bench", bench, folder / "answers.jsonl", bench.parent / "s", judging=Judging(folder / "gpt-4_single.jsonl")
    ).sections[0]
    assert again.metrics["score"].base == pytest.approx(section.metrics["score"].base)
    assert again.fallbacks == ()


def test_a_random_image_is_in_both_turns_and_is_another_one_each(bench):
    model, judge = Says("m", lambda text: "x"), Says("gpt-4", lambda text: "[[5]]")
    evaluated(bench, judge, model, random_images=str(bench.parent / "pictures"))
    second = next(p for p in model.asked if p.messages[-1].text == "Again.")
    (first_image,), (), (second_image,) = (m.images for m in second.messages)
    assert first_image != second_image
    assert all(not p.images for p in judge.asked)


def test_a_turn_after_one_without_answer_is_not_asked(bench):
    model = Says("m", lambda text: ItemError("refused", "no") if text == "Write." else "x")
    section = evaluated(bench, Says("gpt-4", lambda text: "[[5]]"), model)
    assert section.failed == {"base": 2}
    assert section.failed_items["base"][1] == "81:2: the turn before it (81:1) has no answer"
    assert "Again." not in [p.messages[-1].text for p in model.asked]


def test_what_is_missing_is_named(bench):
    (bench / "reference_answer" / "gpt-4.jsonl").write_text('{"question_id": 1, "choices": [{"turns": []}]}\n')
    with pytest.raises(DataError, match=r"question.jsonl:2 \(id 111\): there is no reference answer"):
        evaluated(bench, Says("gpt-4", graded), Says("m", str))
    lines(bench.parent / "judge_prompts.jsonl", PROMPTS[:1])
    with pytest.raises(DataError, match=r"\(id 81\): judge_prompts.jsonl has no 'single-v1-multi-turn'"):
        evaluated(bench, Says("gpt-4", graded), Says("m", str))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("[[10]]", 10),
        ("[[8.5]] [[2]]", 8.5),
        ("[3] then [[4]]", 4),
        ("[3]", 3),
        ("8", None),
        ("[[x]]", None),
        ("", None),
    ],
)
def test_the_first_bracketed_number_is_the_score(text, score):
    assert score_of(text) == score
