"""MM-Vet by its authors' rule, worked by hand, with a judge that stumbles."""

import json

import pyarrow.parquet as pq
import pytest
from judges import Says
from PIL import Image

from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.files.scripts import script_text
from pairsight.benchmarks.judging import Judging
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.suites.mm_vet import grade
from pairsight.benchmarks.tasks import make_tasks
from pairsight.cli.main import main
from pairsight.errors import ConfigError, DataError
from pairsight.records import ItemError

QUESTIONS = {
    "v1_0": {"imagename": "a.png", "question": "What is x?", "answer": "-1<AND>5", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "a.png", "question": "What is it?", "answer": "cup<OR>mug", "capability": ["rec"]},
    "v1_2": {"imagename": "b.png", "question": "What is said?", "answer": "stop", "capability": ["ocr"]},
    "v1_3": {"imagename": "b.png", "question": "Who is it?", "answer": "Ann", "capability": ["rec"]},
}
SCRIPT = 'import nothing_like_it\nraise SystemExit("run")\nprompt = """Grade it.\n\nQ | G | P | C\n--- | ---\n"""\n'


@pytest.fixture
def world(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / name)
    (tmp_path / "mm-vet.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "mm-vet_evaluator.py").write_text(SCRIPT)
    return tmp_path


def run(world, judge, **more):
    return evaluate_models(
        "model",
        make_tasks({"mm_vet": world}, more.pop("options", None)),
        lambda adapter, images: Says("model", lambda text: f"about {text}"),
        out=world / "out",
        settings=EvaluationSettings(num_resamples=50),
        judges=[] if judge is None else [lambda images: judge],
        **more,
    ).sections


def stumbling(text):
    """0.5 for x; "so" twice, then 1.0 for it; never a number for said; fails for Ann."""
    if "What is x?" in text:
        return "0.5 because"
    if "What is it?" in text:
        stumbling.tries += 1
        return "1.0" if stumbling.tries > 2 else "so"
    return "I cannot" if "What is said?" in text else ItemError("refused", "no")


def test_scores_tries_and_files_are_those_of_the_authors_rule(world):
    stumbling.tries = 0
    judge = Says("endpoint:gpt-4-0613@https://api.openai.com/v1", stumbling)
    (section,) = run(world, judge, export=world / "official")
    # official: x .5, it 1 (third try), said 0 (no number in five verdicts); the one whose judge failed is left out
    assert section.metrics["score"].base == pytest.approx(1.5 / 3)
    assert section.other_parser[1]["score"].base == pytest.approx(1.5 / 2)
    assert section.metrics["score"].unparsed == 1
    assert section.failed == {"base": 1}
    assert section.failed_items["base"] == ("v1_3: the judge failed: refused: no",)
    assert section.settings["judge_failed"] == 1
    assert section.fallbacks == ()
    assert section.categories["capability: ocr"]["score"].base == pytest.approx(0.25)
    row = "What is x? | -1 <AND> 5 | about What is x? | "
    assert judge.asked[0].messages[-1].text == f"Grade it.\n\nQ | G | P | C\n--- | ---\n\n{row}"
    again = [p.messages[-1].text for p in judge.asked if "What is it?" in p.messages[-1].text]
    assert [text.endswith("\nPredict the correctness of the answer (digit): ") for text in again] == [False, True, True]
    tried = [
        s.temperature
        for p, s in zip(judge.asked, judge.samplings, strict=True)
        if "What is said?" in p.messages[-1].text
    ]
    assert tried == [0.0, 0.0, 0.5, 1.0, 1.5]
    assert {sampling.max_new_tokens for sampling in judge.samplings} == {3}

    folder = world / "official" / "base" / "mm_vet"
    assert json.loads((folder / "answers.json").read_text())["v1_2"] == "about What is said?"
    grades = json.loads((folder / "base_gpt-4-0613-grade-1runs.json").read_text())
    assert grades["v1_0"] == {"model": ["gpt-4-0613"], "content": ["0.5"], "score": [0.5]}
    assert grades["v1_2"] == {"model": ["gpt-4-0613"], "content": ["I"], "score": [0.0]}
    # by capability, most common first (ocr 2, rec 2, math 1): .5 / 2, 1 / 2, .5 / 1; total 1.5 of 4 questions
    by_capability = (folder / "base_gpt-4-0613-cap-score-1runs.csv").read_text()
    assert by_capability == ",ocr,rec,math,total,std,runs\nbase,25.0,50.0,50.0,37.5,0.0,[37.5]\n"
    combined = (folder / "base_gpt-4-0613-cap-int-score-1runs.csv").read_text()
    assert combined == ",rec,math_ocr,ocr,total,std,runs\nbase,50.0,50.0,0.0,37.5,0.0,[37.5]\n"

    table = pq.read_table(world / "out" / "verdicts-base.parquet").to_pylist()
    assert [one["verdict"] for one in table if one["id"] == "v1_1"] == ["so", "so", "1.0"]
    assert [one["error"] for one in table if one["id"] == "v1_3"] == ["refused: no"]


def test_several_runs_are_averaged(world):
    given = iter(["0.2", "0.4"] * 4)
    judge = Says("other", lambda text: next(given))
    (section,) = run(world, judge, options={"mm_vet": {"runs": 2}})
    assert section.metrics["score"].base == pytest.approx(0.3)
    assert section.fallbacks == ("judged by other, the authors' judge is gpt-4-0613: not comparable to published",)


def test_our_own_wording_is_said_to_be_ours(world):
    (world / "mm-vet_evaluator.py").unlink()
    (section,) = run(world, Says("gpt-4-0613", lambda text: "1.0"))
    assert section.fallbacks == ("what the judge is told is ours: there is no mm-vet_evaluator.py",)
    assert section.settings["parser"] == "official rule with fallbacks"


def test_without_a_judge_nothing_starts(world):
    with pytest.raises(ConfigError, match=r"mm_vet is scored by a judge: give --judge MODEL.*gpt-4-0613"):
        run(world, None)
    assert not (world / "out").exists()


def test_a_script_is_read_and_never_run(tmp_path):
    script = tmp_path / "s.py"
    script.write_text('def f():\n    prompt = ("a" "b") + "c"\nother = f()\n')
    assert script_text(script, "prompt") == "abc"
    with pytest.raises(DataError, match=r"s.py assigns no text to 'other'"):
        script_text(script, "other")
    script.write_text("prompt = (")
    with pytest.raises(DataError, match="not a Python script"):
        script_text(script, "prompt")
    script.write_text("x = " + "(" * 5000)
    with pytest.raises(DataError, match="not a Python script"):
        script_text(script, "prompt")


@pytest.mark.parametrize(
    ("text", "score"),
    [("1", 1.0), ("0.7 out of 1", 0.7), ("1.1", None), ("-0.1", None), ("", None), ("Score: 1", None), ("11", None)],
)
def test_the_first_word_is_the_score(text, score):
    assert grade(text) == score


def test_verdicts_in_the_scripts_own_file_give_the_same_figures(world, capsys):
    answers, grades = world / "answers.json", world / "grades.json"
    answers.write_text(json.dumps(dict.fromkeys(QUESTIONS, "an answer")))
    contents = {"v1_0": "0.5", "v1_1": "1.0", "v1_2": "0.0", "v1_3": "0.9"}
    entries = {n: {"model": ["gpt-4-0613"], "content": [c], "score": [float(c)]} for n, c in contents.items()}
    grades.write_text(json.dumps(entries))
    command = ["score", "--benchmark", f"mm_vet={world}", "--answers", str(answers), "--out", str(world / "scored")]
    assert main([*command, "--verdicts", str(grades)]) == 0
    (section,) = json.loads((world / "scored" / "results.json").read_text())["benchmarks"].values()
    assert section["metrics"]["score"]["value"] == pytest.approx(0.6)
    assert section["settings"]["judge"] == "gpt-4-0613" if "settings" in section else section["judge"] == "gpt-4-0613"
    grades.write_text(json.dumps(entries | {"v1_9": entries["v1_0"]}))
    assert main([*command, "--verdicts", str(grades)]) == 1
    assert "grades.json:5 (id v1_9): the benchmark has no such id" in capsys.readouterr().err


def test_answers_made_elsewhere_are_judged_once(world, monkeypatch):
    judge = Says("judge", lambda text: "0.5")
    answers = world / "answers.json"
    answers.write_text(json.dumps(dict.fromkeys(QUESTIONS, "an answer")))
    for asked in (4, 4):
        results = score_answers(
            "mm_vet", world, answers, world / "scored", judging=Judging(open_judge=lambda images: judge)
        )
        assert results.sections[0].metrics["score"].base == pytest.approx(0.5)
        assert len(judge.asked) == asked


@pytest.mark.parametrize("option", ["calls.budget=3", "endpoint.image_format=png"])
def test_options_of_calls_without_a_judge_are_refused(world, capsys, option):
    command = ["score", "--benchmark", f"mm_vet={world}", "--answers", "a.json", "--verdicts", "v.json"]
    assert main([*command, "--out", str(world / "out"), "--set", option]) == 1
    assert f"{option.partition('.')[0]} changes nothing without a --judge that is asked" in capsys.readouterr().err
