"""LLaVA-Bench and MMHal-Bench by their authors' rules, worked by hand on verdicts that are and are not as asked."""

import json

import pytest
from judges import Says
from PIL import Image

from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.files.scripts import filled
from pairsight.benchmarks.judging import Judging
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.suites.llava_bench import two_scores
from pairsight.benchmarks.suites.mmhal import rating_of
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import DataError


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("001.jpg", "002.jpg"):
        Image.new("RGB", (8, 8), "blue").save(tmp_path / "images" / name)
    return tmp_path


@pytest.fixture
def llava(images):
    kinds = [(0, "conv", "001.jpg"), (1, "detail", "001.jpg"), (2, "complex", "002.jpg"), (3, "conv", "002.jpg")]
    lines(
        images / "questions.jsonl",
        [{"question_id": n, "image": image, "category": kind, "text": f"Q{n}?"} for n, kind, image in kinds],
    )
    lines(images / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": ["a cat", "a mat"]},
                                     {"id": "002", "image": "002.jpg", "caption": "a dog"}])  # fmt: skip
    lines(
        images / "answers_gpt4.jsonl",
        [{"question_id": n, "text": f"ref {n}", "answer_id": f"A{n}", "model_id": "gpt-4"} for n in range(4)],
    )
    rule = {"role": "Assistant", "prompt": "Rate both."}
    rules = {f"llava_bench_{kind}": rule for kind in ("conv", "detail", "complex")}
    (images / "rule.json").write_text(json.dumps({"coding": {"role": "x"}} | rules))
    return images


def evaluated(name, path, *judges, out, **more):
    tasks = make_tasks({name: path}, more.pop("options", None))
    settings = EvaluationSettings(num_resamples=50)
    (section,) = evaluate_models(
        "model", tasks, lambda adapter, images: Says("model", lambda text: f"my {text}"), out=out,
        settings=settings, judges=[lambda images, judge=one: judge for one in judges], images=path / "images", **more,
    ).sections  # fmt: skip
    return section


VERDICTS = {"Q0?": "8 6\nfine", "Q1?": "9,7\n", "Q2?": "10 5.5", "Q3?": "Assistant 1: 8, Assistant 2: 4"}


def judged(text):
    return next(said for question, said in VERDICTS.items() if question in text)


def test_llava_bench_is_the_ratio_of_means_and_malformed_verdicts_count_minus_one(llava):
    judge = Says("endpoint:gpt-4-0314@https://api.openai.com/v1", judged)
    section = evaluated(
        "llava_bench", llava, judge, out=llava / "out", options={"llava_bench": {"system": "Be precise."}}
    )
    # official: references (8 + 9 + 10 - 1) / 4 = 6.5, model (6 + 7 + 5.5 - 1) / 4 = 4.375
    assert section.metrics["score"].base == pytest.approx(4.375 / 6.5)
    assert section.metrics["model_score"].base == pytest.approx(4.375)
    assert section.other_parser[1]["score"].base == pytest.approx(18.5 / 27)
    assert section.metrics["score"].unparsed == 1
    assert section.categories["conv"]["score"].base == pytest.approx((6 - 1) / (8 - 1))
    assert section.fallbacks == ()
    system, user = judge.asked[0].messages
    assert (system.role, system.text) == ("system", "Be precise.")
    assert user.text == (
        "[Context]\na cat\na mat\n\n[Question]\nQ0?\n\n[Assistant 1]\nref 0\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nmy Q0?\n\n[End of Assistant 2]\n\n[System]\nRate both.\n\n"
    )
    assert {sampling.temperature for sampling in judge.samplings} == {0.2}


def test_llava_benchs_reviews_are_written_and_read_again(llava):
    section = evaluated("llava_bench", llava, Says("j", judged), out=llava / "out", export=llava / "official")
    file = llava / "official" / "base" / "llava_bench" / "reviews.jsonl"
    reviews = [json.loads(line) for line in file.read_text().splitlines()]
    assert reviews[1] == {
        "id": 2, "question_id": "1", "answer1_id": "A1", "answer2_id": "1", "category": "llava_bench_detail",
        "content": "9,7\n", "tuple": [9.0, 7.0],
    }  # fmt: skip
    assert reviews[3]["tuple"] == [-1, -1]
    answers = llava / "official" / "base" / "llava_bench" / "llava_bench.jsonl"
    again = score_answers("llava_bench", llava, answers, llava / "scored", judging=Judging(file)).sections[0]
    assert again.metrics["score"].base == pytest.approx(section.metrics["score"].base)
    assert "that " in again.fallbacks[0]
    assert "does not name" in again.fallbacks[0]


@pytest.mark.parametrize(
    ("text", "scores"),
    [("8 9", (8, 9)), ("8,9", (8, 9)), ("8, 9", None), ("8", None), ("8 9 7", None), ("", None), (" 8 9", None),
     ("8 9 ", None), ("八 九", None), ("8/10 9/10", None), ("7.5 8\nmore", (7.5, 8))],
)  # fmt: skip
def test_two_numbers_of_the_first_line(text, scores):
    assert two_scores(text) == scores


@pytest.mark.parametrize("file", ["context.jsonl", "answers_gpt4.jsonl", "rule.json"])
def test_what_a_question_lacks_is_named_before_anything_runs(llava, file):
    whole = (llava / file).read_text()
    (llava / file).write_text("{}" if file == "rule.json" else whole.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=rf"questions.jsonl:\d \(id \d\): {file} has no"):
        evaluated("llava_bench", llava, Says("j", judged), out=llava / "out")


@pytest.fixture
def mmhal(images):
    kinds = ["attribute", "adversarial", "comparison"]
    records = [
        {"question_type": kind, "image_id": "x", "image_src": f"https://e.org/{(n % 2) + 1:03}.jpg",
         "image_content": ["cat", "mat"], "question": f"Q{n}?", "gt_answer": f"T{n}", "model_answer": ""}
        for n, kind in enumerate(kinds)
    ]  # fmt: skip
    (images / "response_template.json").write_text(json.dumps(records))
    script = "template = '''In it: {}\nQ {}\nT {}\nA {}\nSet {{x}}.'''\nprint(template.format(1, 2, 3, 4))\n"
    (images / "eval_gpt4.py").write_text(script)
    return images


RATINGS = {"Q0?": "Good. Rating: 5", "Q1?": "RATING: 2, or Rating: 3", "Q2?": "Rating: 2"}


def rated(text):
    return next(said for question, said in RATINGS.items() if f"Q {question}" in text)


def test_mmhal_counts_an_unclear_verdict_as_hallucination_in_the_official_figure_only(mmhal):
    judge = Says("endpoint:gpt-4-0314@https://api.openai.com/v1", rated)
    section = evaluated("mmhal", mmhal, judge, out=mmhal / "out", export=mmhal / "official")
    assert section.metrics["score"].base == pytest.approx((5 + 0 + 2) / 3)
    assert section.metrics["hallucination"].base == pytest.approx(2 / 3)
    assert section.other_parser[1]["score"].base == pytest.approx(3.5)
    assert section.categories["type: comparison"]["score"].base == 2
    assert judge.asked[0].messages[-1].text == "In it: cat, mat\nQ Q0?\nT T0\nA my Q0?\nSet {x}."
    folder = mmhal / "official" / "base" / "mmhal"
    responses = json.loads((folder / "eval.json").read_text())
    assert responses[1]["choices"][0]["message"]["content"] == "RATING: 2, or Rating: 3"
    assert json.loads((folder / "responses.json").read_text())[0]["model_answer"] == "my Q0?"
    again = score_answers(
        "mmhal", mmhal, folder / "responses.json", mmhal / "s", judging=Judging(folder / "eval.json")
    ).sections[0]
    assert again.metrics["score"].base == pytest.approx(7 / 3)
    assert again.fallbacks == ()


def test_mmhals_files_in_another_order_are_refused(mmhal):
    records = json.loads((mmhal / "response_template.json").read_text())
    (mmhal / "answers.json").write_text(json.dumps(records[::-1]))
    with pytest.raises(DataError, match="another question than the benchmark's number 0: Q0"):
        score_answers("mmhal", mmhal, mmhal / "answers.json", mmhal / "s", judging=Judging(mmhal / "eval.json"))


@pytest.mark.parametrize(
    ("text", "rating"),
    [("rating: 0", 0), ("Rating: 6.", 6), ("Rating: 7", None), ("", None), ("rating:3", None), ("**Rating: 4**", 4),
     ("Rating: 3 ... Rating: 3", 3), ("Rating: 11", 1)],
)  # fmt: skip
def test_a_rating_is_the_only_one_that_is_there(text, rating):
    assert rating_of(text) == rating


def test_places_of_a_template_are_filled_with_texts_only():
    assert filled("{} {} {{}} {a}", "x", "{b}", a="{}") == "x {b} {} {}"
    assert filled("{0.__class__} {", "x") == "{0.__class__} {"
    with pytest.raises(DataError, match=r"asks for \{b\}"):
        filled("{b}", a="x")


def test_a_second_judge_says_how_far_both_agree(mmhal):
    ratings = {"Q0?": "Rating: 6", "Q1?": "Rating: 1", "Q2?": "Rating: 2"}
    first = Says("one", lambda text: next(said for q, said in RATINGS.items() if f"Q {q}" in text))
    second = Says("two", lambda text: next(said for q, said in ratings.items() if f"Q {q}" in text))
    section = evaluated("mmhal", mmhal, first, second, out=mmhal / "out")
    # both can be read for questions 0 and 2: (5, 6) and (2, 2); kappa = 2 * 6 / (4.5 + 8 + 2 * .25) with sums over 2
    assert section.metrics["score"].base == pytest.approx(7 / 3)
    assert section.settings["second_judge"] == "two"
    assert section.settings["agreement_items"] == 2
    assert section.settings["agreement_pearson"] == pytest.approx(1)
    assert section.settings["agreement_kappa"] == pytest.approx(2 * 6 / (4.5 + 8 + 2 * 0.25))
