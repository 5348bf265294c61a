"""AlpacaEval by its package's rule: the drawn order, ranks, ties without a question, figures worked by hand."""

import json

import pytest
from judges import Says

from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.judging import Judging
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.suites.alpaca_eval import rank_of
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import DataError

INSTRUCTIONS = ["Name a colour.", "Name a bird.", "Name a fish.", "Say hello.", "Count to <image>."]
SWITCHED = {"Name a colour.": True, "Name a bird.": True, "Name a fish.": False}
"""As random.Random("is_switched_outputs" + instruction + "0").choices([False, True]) says in the package."""
TEMPLATE = """<|im_start|>system
Rank.
<|im_end|>
<|im_start|>user
{
    "instruction": \"\"\"{instruction}\"\"\",
    "1": "{output_1}", "2": "{output_2}"
}
<|im_end|>"""


def ranks(first):
    return f"[{{'model': 'model_1', 'rank': {first}}}, {{'model': 'model_2', 'rank': {3 - first}}}]"


@pytest.fixture
def outputs(tmp_path):
    rows = [
        {"instruction": text, "output": "same" if text == "Say hello." else f"base {n}", "generator": "davinci",
         "dataset": "a" if n < 2 else "b"}
        for n, text in enumerate(INSTRUCTIONS)
    ]  # fmt: skip
    (tmp_path / "davinci.json").write_text(json.dumps(rows))
    (tmp_path / "alpaca_eval.txt").write_text(TEMPLATE)
    return tmp_path / "davinci.json"


def judged(text):
    if "Count to" in text:
        return "model_1 is better"
    return ranks(2 if "fish" in text else 1)


def answered(text):
    return "same" if text == "Say hello." else f"mine to {text}"


def evaluated(outputs, judge):
    (section,) = evaluate_models(
        "model", make_tasks({"alpaca_eval": outputs}), lambda adapter, images: Says("m", answered),
        out=outputs.parent / "out", export=outputs.parent / "official", settings=EvaluationSettings(num_resamples=50),
        judges=[lambda images: judge],
    ).sections  # fmt: skip
    return section


def test_the_win_rate_is_that_of_the_package(outputs):
    judge = Says("endpoint:gpt-4@https://api.openai.com/v1", judged)
    section = evaluated(outputs, judge)
    # colour, bird: shown first, rank 1: won; fish: shown second, model_1 has rank 2: won; hello: tie; count: no rank
    assert section.metrics["win_rate"].base == pytest.approx(3.5 / 4)
    assert section.metrics["shown_first"].base == pytest.approx(2 / 3)
    assert section.metrics["win_rate"].unparsed == 1
    assert section.categories["dataset: b"]["win_rate"].base == pytest.approx(0.75)
    assert section.fallbacks == ()
    assert len(judge.asked) == 4
    assert [(m.role, m.text) for m in judge.asked[0].messages] == [
        ("system", "Rank."),
        ("user", '{\n    "instruction": """Name a colour.""",\n    "1": "mine to Name a colour.", "2": "base 0"\n}'),
    ]
    assert '"1": "base 2", "2": "mine to Name a fish."' in judge.asked[2].messages[1].text
    folder = outputs.parent / "official" / "base" / "alpaca_eval"
    notes = json.loads((folder / "annotations.json").read_text())
    assert [note["preference"] for note in notes] == [2, 2, 2, 1.5, None]
    again = score_answers(
        "alpaca_eval",
        outputs,
        folder / "outputs.json",
        outputs.parent / "s",
        judging=Judging(folder / "annotations.json"),
    ).sections[0]
    assert again.metrics["win_rate"].base == pytest.approx(3.5 / 4)


def test_the_order_is_drawn_from_the_instruction(outputs):
    judge = Says("gpt-4", judged)
    evaluated(outputs, judge)
    first = {p.messages[1].text.split('"""')[1]: '"1": "mine' in p.messages[1].text for p in judge.asked}
    assert {text: first[text] for text in SWITCHED if text in first} == {t: SWITCHED[t] for t in SWITCHED if t in first}


def test_the_same_instruction_twice_is_refused(outputs):
    rows = json.loads(outputs.read_text())
    outputs.write_text(json.dumps([*rows, rows[1]]))
    with pytest.raises(DataError, match=r"davinci.json:6 \(id 5\): the same instruction as id 1"):
        evaluated(outputs, Says("gpt-4", judged))


@pytest.mark.parametrize(
    ("text", "rank"),
    [(ranks(1), 1), (ranks(2), 2), (ranks(3), None), ("", None), ("1", None),
     ("[{'model': 'model_2', 'rank': 1}]", None),
     ("[{'model': 'model_1', 'rank': __import__('os')}]", None), ("[" * 5000, None)],
)  # fmt: skip
def test_a_rank_is_read_from_a_literal(text, rank):
    assert rank_of(text) == rank
