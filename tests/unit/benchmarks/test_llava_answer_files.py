"""Answer files written by LLaVA-1.5's public eval scripts are scored without conversion."""

import json
import random

import official
import pytest
from test_readers_fuzzed import damaged, refused

from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_benchmark
from pairsight.errors import DataError

FEW = EvaluationSettings(num_resamples=20)
SUFFIX = "\nAnswer the question using a single word or phrase."
OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def llava(name, text, prompt="", **more):
    return {
        "question_id": name,
        "prompt": prompt,
        "text": text,
        "answer_id": "x",
        "model_id": "m",
        "metadata": {},
    } | more


def scored(name, path, answers, tmp_path, **more):
    return score_answers(name, path, answers, tmp_path / "out", settings=FEW, **more).to_plain()["benchmarks"][name]


def values(section):
    return {name: metric["value"] for name, metric in section["metrics"].items()}


def pope(folder):
    """Three splits with different questions; random has one question fewer, as the official file has 90 fewer."""
    things = {"random": ["cup", "kite", "cat"], "popular": ["cup", "car", "cat", "chair"],
              "adversarial": ["cup", "fork", "cat", "knife"]}  # fmt: skip
    for split, names in things.items():
        rows = [
            {"question_id": k, "image": f"{k // 3}.jpg", "text": f"Is there a {name} in the image?",
             "label": "no" if k % 2 else "yes"}
            for k, name in enumerate(names, start=1)
        ]  # fmt: skip
        official.jsonl(folder / f"coco_pope_{split}.json", rows)
    return folder, things


def pope_answers(things, offsets):
    """Correct in all splits but `popular`, where every answer is yes."""
    return [
        llava(offsets[split] + k, "Yes" if split == "popular" or k % 2 == 0 else "No",
                  f"Is there a {name} in the image?{SUFFIX}")
        for split in offsets for k, name in enumerate(things[split], start=1)
    ]  # fmt: skip


def check_pope(found):
    assert (found["accuracy_random"], found["accuracy_popular"], found["accuracy_adversarial"]) == (1.0, 0.5, 1.0)


@pytest.mark.parametrize("shuffled", [False, True])
def test_pope_with_llavas_ids(tmp_path, shuffled):
    path, things = pope(tmp_path / "coco")
    rows = pope_answers(things, OFFSETS)
    if shuffled:
        random.Random(0).shuffle(rows)
    check_pope(values(scored("pope", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)))


def test_pope_with_ids_that_number_all_splits(tmp_path):
    path, things = pope(tmp_path / "coco")
    rows = pope_answers(things, {"adversarial": 0, "popular": 4, "random": 8})
    random.Random(1).shuffle(rows)
    check_pope(values(scored("pope", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)))
    rows[3]["prompt"] = "Is there a zebra in the image?"
    with pytest.raises(DataError, match="the benchmark has no such id"):
        scored("pope", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def test_pope_by_llavas_question_file(tmp_path):
    """With any ids: the question file beside the splits identifies the questions."""
    path, things = pope(tmp_path / "pope" / "coco")
    questions = [
        {"question_id": f"q{split}{k}", "image": f"{k // 3}.jpg", "text": f"Is there a {name} in the image?{SUFFIX}",
         "category": split}
        for split in ("popular", "random", "adversarial") for k, name in enumerate(things[split], start=1)
    ]  # fmt: skip
    file = official.jsonl(tmp_path / "pope" / "llava_pope_test.jsonl", questions)
    rows = [
        llava(q["question_id"], "Yes" if q["category"] == "popular" or int(q["question_id"][-1]) % 2 == 0 else "No")
        for q in questions
    ]
    check_pope(values(scored("pope", path, official.jsonl(tmp_path / "a.jsonl", rows[::-1]), tmp_path)))
    questions[2]["image"] = "other.jpg"
    official.jsonl(file, questions)
    problem = r"\(id qpopular3\): the image is 'other\.jpg', but the split popular asks about '1\.jpg' next"
    with pytest.raises(DataError, match=rf"llava_pope_test\.jsonl:3 {problem}"):
        scored("pope", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def test_pope_answers_with_llavas_ids_are_checked(tmp_path):
    path, things = pope(tmp_path / "coco")
    rows = pope_answers(things, OFFSETS)
    lost = official.jsonl(tmp_path / "a.jsonl", rows[:-1])
    with pytest.raises(DataError, match=r"no answer for the id popular:4$"):
        scored("pope", path, lost, tmp_path)
    double = official.jsonl(tmp_path / "a.jsonl", [*rows, rows[0]])
    with pytest.raises(DataError, match=r"a\.jsonl:12 \(id 1\): duplicate id, first answered on line 1"):
        scored("pope", path, double, tmp_path)
    rows[1]["prompt"] = "Is there a zebra in the image?"
    with pytest.raises(DataError, match=r"a\.jsonl:2 \(id 2\): answers the question 'Is there a zebra"):
        scored("pope", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def test_ambiguous_ids_are_refused(tmp_path):
    for split in ("random", "popular"):
        rows = [{"question_id": k, "image": "a.jpg", "text": "Is there a cup?", "label": "yes"} for k in (1, 2)]
        official.jsonl(tmp_path / "coco" / f"coco_pope_{split}.json", rows)
    rows = [llava(k, "Yes", "Is there a cup?") for k in range(7, 11)]
    with pytest.raises(DataError, match="the ids match the splits in 2 orders"):
        scored("pope", tmp_path / "coco", official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def mme(folder):
    folder.mkdir()
    lines = {
        "artwork": [("14777.jpg", "Is this artwork titled sorrow?", "Yes"), ("14777.jpg", "Is it religious?", "No")],
        "code_reasoning": [("0020.png", "Is a python code shown?", "Yes"), ("0020.png", "Is a c++ code shown?", "No")],
    }
    for task, rows in lines.items():
        text = "".join(f"{image}\t{asked} Please answer yes or no.\t{label}\n" for image, asked, label in rows)
        (folder / f"{task}.txt").write_text(text, encoding="utf-8")
    return folder


def test_mme_as_the_loader_writes_it(tmp_path):
    path = mme(tmp_path / "mme")
    rows = [
        llava("code_reasoning/0020.png", "No", f"Is a c++ code shown?{SUFFIX}"),
        llava("code_reasoning/0020.png", "Yes", f"Is a python code shown?{SUFFIX}"),
        llava("artwork/images/14777.jpg", "No", f"Is this artwork titled sorrow?{SUFFIX}"),
        llava("artwork/images/14777.jpg", "No", f"Is it religious?{SUFFIX}"),
    ]
    found = values(scored("mme", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path))
    assert (found["code_reasoning"], found["artwork"]) == (200.0, 50.0)
    with pytest.raises(DataError, match=r"no answer for artwork:14777\.jpg:2$"):
        scored("mme", path, official.jsonl(tmp_path / "a.jsonl", rows[:3]), tmp_path)
    rows[3]["question_id"] = "artwork/images/1.jpg"
    with pytest.raises(DataError, match=r"a\.jsonl:4 \(id artwork/images/1\.jpg\): the benchmark has no such image"):
        scored("mme", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)


def test_mme_as_llava_converts_it_for_the_authors_script(tmp_path):
    """Images are named by their text file, and a question may have an additional space."""
    path = mme(tmp_path / "mme")
    answers = tmp_path / "answers"
    answers.mkdir()
    (answers / "artwork.txt").write_text(
        "14777.txt\tIs this artwork titled sorrow?  Please answer yes or no.\tYes\tYes\n"
        "14777.txt\tIs it religious? Please answer yes or no.\tNo\tyes\n",
        encoding="utf-8",
    )
    (answers / "code_reasoning.txt").write_text(
        "0020.txt\tIs a python code shown? Please answer yes or no.\tYes\tno\n"
        "0020.txt\tIs a c++ code shown? Please answer yes or no.\tNo\tNo\n",
        encoding="utf-8",
    )
    found = values(scored("mme", path, answers, tmp_path))
    assert (found["artwork"], found["code_reasoning"]) == (50.0, 50.0)


def test_seed_bench_skips_answers_to_video_questions(tmp_path):
    path = official.seed_bench(tmp_path / "SEED-Bench.json")
    rows = [
        llava(11, "B"),
        llava(12, "A"),
        llava("13", "A"),
    ]  # LLaVA writes numeric ids
    assert values(scored("seed_bench", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)) == {
        "letter_accuracy": 0.5
    }
    authors = [{"q_id": str(k), "prediction": "B", "gt": "B", "q_type_id": 1} for k in (11, 12, 13)]
    found = values(scored("seed_bench_likelihood", path, official.jsonl(tmp_path / "b.jsonl", authors), tmp_path))
    assert found == {"likelihood_accuracy": 0.5}
    with pytest.raises(DataError, match=r"\(id 14\): the benchmark has no such id"):
        scored("seed_bench", path, official.jsonl(tmp_path / "a.jsonl", [*rows, llava(14, "A")]), tmp_path)


def test_gqa_reads_the_loaders_records_and_skips_unbalanced_ones(tmp_path):
    path = official.gqa(tmp_path / "questions.json")
    rows = [llava("101", "Yes."), llava("102", "Traffic light"), llava("103", "no")]
    assert values(scored("gqa", path, official.jsonl(tmp_path / "a.jsonl", rows), tmp_path)) == {"accuracy": 1.0}


def test_vqav2_scienceqa_and_mmbench_read_the_loaders_records(tmp_path):
    path = official.vqav2(tmp_path / "vqa")
    rows = [llava(420, "2", f"How many?{SUFFIX}"), llava(421, "yes", f"Is it?{SUFFIX}")]
    assert values(scored("vqav2", path, official.jsonl(tmp_path / "v.jsonl", rows), tmp_path)) == {"accuracy": 1.0}
    path = official.scienceqa(tmp_path / "sqa")
    rows = [
        llava("1", "B", "<image>\nQ one?"),
        llava("2", "A", "<image>\nQ two?"),
        llava("3", "A", "Q?"),
    ]
    found = values(scored("scienceqa", path, official.jsonl(tmp_path / "s.jsonl", rows), tmp_path))
    assert found == {"img_accuracy": 0.5}
    path = official.mmbench(tmp_path / "mmbench.tsv")
    rows = [
        llava(index, letter, "What is it?", round_id=0, options=["cat", "dog"], option_char=["A", "B"])
        for index, letter in [(0, "A"), (1, "B"), (1000000, "B"), (1000001, "A")]
    ]
    found = values(scored("mmbench", path, official.jsonl(tmp_path / "m.jsonl", rows), tmp_path))
    assert found == {"accuracy": 1.0, "row_accuracy": 1.0}


def test_mmbench_reads_the_table_that_llava_uploads(tmp_path):
    """As by `convert_mmbench_for_submission.py`: columns dropped, `prediction` inserted, written by pandas."""
    pandas = pytest.importorskip("pandas")
    path = official.mmbench(tmp_path / "mmbench.tsv")
    table = pandas.read_table(path).drop(columns=["hint", "category", "image", "l2-category"])
    table.insert(6, "prediction", ["A", "B", "B", None])
    table.to_csv(tmp_path / "answers.tsv", sep="\t", index=False)
    section = scored("mmbench", path, tmp_path / "answers.tsv", tmp_path)
    assert values(section) == {"accuracy": 0.5, "row_accuracy": 0.75}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["mmbench"]["rows"] == 4


@pytest.mark.parametrize("name", ["pope", "mme"])
def test_damaged_llava_answers_are_refused_in_one_line(name, tmp_path):
    if name == "pope":
        path, things = pope(tmp_path / "coco")
        rows = pope_answers(things, OFFSETS)
    else:
        path = mme(tmp_path / "mme")
        asked = {"code_reasoning/0020.png": ["Is a c++ code shown?", "Is a python code shown?"],
                 "artwork/images/14777.jpg": ["Is this artwork titled sorrow?", "Is it religious?"]}  # fmt: skip
        rows = [llava(image, "No", f"{q}{SUFFIX}") for image, questions in asked.items() for q in questions]
    complete = "".join(json.dumps(row) + "\n" for row in rows).encode()
    groups = list(make_benchmark(name).load(path, official.Names()))
    rng = random.Random(name)
    refusals = 0
    for _ in range(200):
        file = tmp_path / "damaged.jsonl"
        file.write_bytes(damaged(complete, rng))
        refusals += refused(lambda file=file: make_benchmark(name).read_answers(file, path, groups))
    assert refusals > 60
