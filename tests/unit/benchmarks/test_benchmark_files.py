"""Reading official files, reading and writing official answers, metrics by hand, clear errors."""

import json
import re

import official
import pyarrow.parquet as pq
import pytest

from pairsight.benchmarks.files.tables import score_columns
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_benchmark, make_tasks
from pairsight.errors import DataError, RunError

FEW = EvaluationSettings(num_resamples=50)

FILES = {
    "pope": official.pope, "mme": official.mme, "mmbench": official.mmbench, "mmbench_cn": official.mmbench,
    "scienceqa": official.scienceqa, "gqa": official.gqa, "vqav2": official.vqav2, "textvqa": official.textvqa,
    "seed_bench": official.seed_bench, "seed_bench_likelihood": official.seed_bench, "chair": official.coco,
    "object_halbench": official.object_halbench,
    "amber": official.amber,
}  # fmt: skip
SUFFIX = {
    "mmbench": ".tsv",
    "mmbench_cn": ".tsv",
    "gqa": ".json",
    "textvqa": ".json",
    "seed_bench": ".json",
    "seed_bench_likelihood": ".json",
}


@pytest.fixture
def make(tmp_path):
    def build(name):
        return FILES[name](tmp_path / f"{name}{SUFFIX.get(name, '')}")

    return build


def groups_of(name, path):
    return list(make_benchmark(name).load(path, official.Names()))


def score(name, path, records, tmp_path, **more):
    answers = official.jsonl(tmp_path / "answers.jsonl", records)
    content = score_answers(name, path, answers, tmp_path / "out", settings=FEW, **more)
    return content.to_plain()["benchmarks"][name]


def values(section, where="metrics"):
    return {name: metric["value"] for name, metric in section[where].items()}


@pytest.mark.parametrize("name", FILES)
def test_export_and_score_round_trip(name, make, tmp_path):
    path = make(name)
    groups = groups_of(name, path)
    samples = [sample for group in groups for sample in group]
    assert samples
    texts = {s.id: t for s, t in zip(samples, ["Yes", "B", "no.", "A", "two", "", "1998", "D"] * 9, strict=False)}
    benchmark = make_benchmark(name)
    (first, *_) = files = benchmark.write_answers(tmp_path / "official", path, groups, texts)
    assert all(file.is_file() for file in files)
    back = benchmark.read_answers(first if len(files) == 1 else tmp_path / "official", path, groups)
    expected = {key: text.lower().rstrip(".") if name == "gqa" else text for key, text in texts.items()}
    assert dict(back) == expected
    assert all(len(sample.id) < 60 and sample.cluster for sample in samples)


@pytest.mark.parametrize("name", FILES)
def test_a_lone_surrogate_is_exported_and_read(name, make, tmp_path):
    """JSON can represent lone surrogates, UTF-8 cannot; in MME's lines they become question marks."""
    path = make(name)
    groups = groups_of(name, path)
    texts = {sample.id: "yes \ud83d" for group in groups for sample in group}
    benchmark = make_benchmark(name)
    (first, *_) = files = benchmark.write_answers(tmp_path / "official", path, groups, texts)
    back = benchmark.read_answers(first if len(files) == 1 else tmp_path / "official", path, groups)
    assert set(back.values()) == {"yes ?" if name == "mme" else "yes \ud83d"}


@pytest.mark.parametrize("name", FILES)
def test_loading_again_gives_the_same_groups(name, make):
    path = make(name)
    assert groups_of(name, path) == groups_of(name, path)


def test_prompts_are_llavas(make):
    assert (
        groups_of("mmbench", make("mmbench"))[1][0].prompt.question
        == "Look at\nthe mat.\nWhich colour?\nA. red\nB. blue"
    )
    assert groups_of("seed_bench", make("seed_bench"))[0][0].prompt.question == "What?\nA. One\nB. Two\nC. Three\nD. 4"
    science = groups_of("scienceqa", make("scienceqa"))
    assert science[1][0].prompt.question == "Context: Some context.\nQ two?\nA. x\nB. y\nC. z"
    assert groups_of("vqav2", make("vqav2"))[0][0].cluster == "COCO_val2014_000000000042.jpg"


def test_mme_points_by_hand(make, tmp_path):
    path = make("mme")
    groups = groups_of("mme", path)
    # existence: all correct, 200; color: image 1 correct, image 2 half: 75 + 50; code: all yes: 50 + 0
    texts = ["Yes", "No", "yes", "no", "Yes", "No", "Yes", "Yes", "Yes", "Yes", "YES!", "Yes, it is"]
    ids = [sample.id for group in groups for sample in group]
    make_benchmark("mme").write_answers(tmp_path / "official", path, groups, dict(zip(ids, texts, strict=True)))
    section = score_answers("mme", path, tmp_path / "official", tmp_path / "out", settings=FEW).to_plain()[
        "benchmarks"
    ]["mme"]
    found = values(section)
    assert found == {"accuracy": 9 / 12, "existence": 200.0, "color": 125.0, "code_reasoning": 50.0}
    assert section["metrics"]["existence"]["better"] == "higher"


def test_mme_is_asked_as_llava_asks(make, tmp_path):
    path = make("mme")
    (task,) = make_tasks({"mme": path})
    first = groups_of("mme", path)[0][0]
    asked = task.with_suffix(first.prompt).messages[-1].text
    assert asked == "Is it there in picture 1?\nAnswer the question using a single word or phrase."
    make_benchmark("mme").write_answers(tmp_path / "a", path, [(first,)], {first.id: "Yes"})
    written = (tmp_path / "a" / "existence.txt").read_text()
    assert written == "1.jpg\tIs it there in picture 1? Please answer yes or no.\tYes\tYes\n"


def test_mme_sums_perception_if_all_tasks_are_present(tmp_path):
    from pairsight.benchmarks.suites.mme import PERCEPTION

    path = official.mme(tmp_path / "mme", PERCEPTION)
    groups = groups_of("mme", path)
    texts = {sample.id: sample.target["label"] for group in groups for sample in group}
    make_benchmark("mme").write_answers(tmp_path / "a", path, groups, texts)
    found = values(
        score_answers("mme", path, tmp_path / "a", tmp_path / "o", settings=FEW).to_plain()["benchmarks"]["mme"]
    )
    assert found["perception"] == 2000.0
    assert "cognition" not in found


def test_mmbench_is_circular(make, tmp_path):
    rows = [{"question_id": i, "text": t} for i, t in [(0, "A"), (1000000, "B"), (1, "B"), (1000001, "B")]]
    section = score("mmbench", make("mmbench"), rows, tmp_path)
    assert values(section) == {"accuracy": 0.5, "row_accuracy": 0.75}
    assert section["categories"]["ability: identity"]["accuracy"]["value"] == 1.0
    assert section["categories"]["l2: fine"]["accuracy"]["value"] == 0.0
    assert section["categories"]["split: dev"]["accuracy"]["value"] == 0.5


def test_mmbench_drops_options_that_pandas_reads_as_missing(make):
    second = groups_of("mmbench", make("mmbench"))[1]
    assert second[0].target["options"] == {"A": "red", "B": "blue"}


def test_mmbench_without_true_answers_is_only_exported(tmp_path):
    image = official.base64.b64encode(official.picture()).decode()
    rows = [[0, "What?", "", "cat", "dog", "", "", "", "identity", image, "coarse", "test"]]
    path = official.mmbench(tmp_path / "test.tsv", rows)
    assert values(score("mmbench", path, [{"question_id": 0, "text": "A"}], tmp_path)) == {}


def test_scienceqa_official_drops_the_unanswered_and_the_unseen(make, tmp_path):
    rows = [{"question_id": "1", "text": "B", "prompt": "<image>\nQ one?"}, {"question_id": "3", "text": "A"}]
    section = score("scienceqa", make("scienceqa"), rows, tmp_path)
    assert values(section) == {"img_accuracy": 1.0}
    assert section["other_parser"]["metrics"]["img_accuracy"]["value"] == 0.5
    rows = [
        {"question_id": "1", "text": "B", "prompt": "Q one?"},
        {"question_id": "2", "text": "A", "prompt": "<image>"},
    ]
    section = score("scienceqa", make("scienceqa"), rows, tmp_path)
    assert values(section) == {"img_accuracy": 0.0}  # question 1 was asked without an image
    assert section["other_parser"]["metrics"]["img_accuracy"]["value"] == 0.5


def test_scienceqa_with_text_questions(make, tmp_path):
    rows = [
        {"question_id": n, "text": t, "prompt": "<image>" if n != "3" else ""}
        for n, t in zip("123", "BCA", strict=True)
    ]
    found = values(score("scienceqa", make("scienceqa"), rows, tmp_path, options={"text_only": True}))
    assert found == {"img_accuracy": 1.0, "accuracy": 1.0}


def test_gqa_counts_balanced_questions(make, tmp_path):
    rows = [{"questionId": "101", "prediction": "Yes."}, {"questionId": "102", "prediction": "a traffic light"}]
    section = score("gqa", make("gqa"), rows, tmp_path)
    assert values(section) == {"accuracy": 0.5}
    assert section["other_parser"]["metrics"]["accuracy"]["value"] == 1.0
    assert section["categories"]["binary"]["accuracy"]["value"] == 1.0
    assert section["categories"]["structural: query"]["accuracy"]["value"] == 0.0


def test_vqav2_by_hand(make, tmp_path):
    rows = [{"question_id": 420, "answer": "3"}, {"question_id": 421, "answer": "Yes"}]
    section = score("vqav2", make("vqav2"), rows, tmp_path)
    # "3": two annotators; leaving one of them out 1/3, else 2/3: (2·1/3 + 8·2/3)/10 = .6; Yes against ten yes: 0
    assert values(section)["accuracy"] == pytest.approx(0.3)
    normalised = score("vqav2", make("vqav2"), rows, tmp_path, options={"normalise": True})
    assert values(normalised)["accuracy"] == pytest.approx(0.8)
    assert section["categories"]["answer type: number"]["accuracy"]["value"] == pytest.approx(0.6)


def test_vqav2_without_annotations_is_only_exported(tmp_path):
    path = official.vqav2(tmp_path / "test", labelled=False)
    assert values(score("vqav2", path, [{"question_id": n, "answer": "x"} for n in (420, 421)], tmp_path)) == {}


def test_textvqa_joins_by_image_and_question(make, tmp_path):
    suffix = "\nAnswer the question using a single word or phrase."
    rows = [
        {"question_id": "abc", "prompt": f"WHAT year?\nReference OCR token: 1998{suffix}", "text": "1998."},
        {"question_id": "abc", "prompt": f"what brand?{suffix}", "text": "Nike"},
    ]
    section = score("textvqa", make("textvqa"), rows, tmp_path)
    # Nike: 4 of 10 ("nike 's" is another answer): 3 others remain, so each set has at least 3: 1.0
    assert values(section)["accuracy"] == 1.0


def test_textvqa_takes_llavas_prompts(make, tmp_path):
    suffix = "\nAnswer the question using a single word or phrase."
    rows = [
        {"question_id": "abc", "text": f"{question}\nReference OCR token: NIKE, 1998{suffix}"}
        for question in ("what brand?", "what year?")
    ]
    questions = official.jsonl(tmp_path / "llava.jsonl", rows)
    benchmark = make_benchmark("textvqa", {"llava_questions": str(questions)})
    groups = list(benchmark.load(make("textvqa"), official.Names()))
    assert groups[0][0].prompt.question == rows[0]["text"]


def test_seed_bench_letter(make, tmp_path):
    rows = [{"question_id": "11", "text": "B"}, {"question_id": "12", "text": "D."}]
    section = score("seed_bench", make("seed_bench"), rows, tmp_path)
    assert values(section) == {"letter_accuracy": 0.5}
    assert section["other_parser"]["metrics"]["letter_accuracy"]["value"] == 1.0
    assert section["categories"]["ability: Scene Understanding"]["letter_accuracy"]["value"] == 1.0


def test_pope_records_without_id_are_checked_by_their_question(make, tmp_path):
    path = make("pope")
    folder = tmp_path / "answers"
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question": f"Is there a thing {k} in the image?", "answer": "Yes" if k % 2 else "No"} for k in range(1, 5)
        ]
        official.jsonl(folder / f"{split}.json", rows)
    found = values(score_answers("pope", path, folder, tmp_path / "out", settings=FEW).to_plain()["benchmarks"]["pope"])
    assert found["f1"] == 1.0
    rows = rows[::-1]
    official.jsonl(folder / "random.json", rows)
    with pytest.raises(DataError, match=r"random\.json:1: answers the question 'Is there a thing 4"):
        score_answers("pope", path, folder, tmp_path / "out", settings=FEW)
    official.jsonl(folder / "random.json", rows[::-1][:3])
    with pytest.raises(DataError, match="3 answers for 4 questions: no answer for the id random:4"):
        score_answers("pope", path, folder, tmp_path / "out", settings=FEW)


def test_scores_are_also_in_the_tables(make, tmp_path):
    score("seed_bench", make("seed_bench"), [{"question_id": n, "text": "B"} for n in ("11", "12")], tmp_path)
    rows = pq.read_table(tmp_path / "out" / "answers-model.parquet").to_pylist()
    assert [(row["id"], row["official_correct"]) for row in rows] == [("11", 1.0), ("12", 0.0)]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]["seed_bench"]["rows"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": "11", "text": "B"}], "no answer for the id 12"),
        (
            [{"question_id": "11", "text": "B"}, {"question_id": "11", "text": "B"}],
            ":2 (id 11): duplicate id, first answered on line 1",
        ),
        ([{"question_id": "99", "text": "B"}], ":1 (id 99): the benchmark has no such id"),
        ([{"text": "B"}], ":1: no 'question_id'"),
        ([{"question_id": "11"}], ":1 (id 11): no 'text'"),
        ([{"question_id": "11", "text": 3}], "'text' must be text, found int 3"),
        ([["question_id", "text"]], "item 1 must be an object, found str"),
    ],
)
def test_bad_answer_records_are_named(make, tmp_path, rows, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        score("seed_bench", make("seed_bench"), rows, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_answers_file_is_named(make, tmp_path):
    answers = tmp_path / "cut.jsonl"
    answers.write_text('{"question_id": "11", "text": "B"}\n{"question_id": "12", "te')
    with pytest.raises(DataError, match=r"cut\.jsonl:2: not JSON"):
        score_answers("seed_bench", make("seed_bench"), answers, tmp_path / "out")


@pytest.mark.parametrize("name", FILES)
def test_the_error_for_a_missing_file_names_who_publishes_it(name, tmp_path):
    with pytest.raises(DataError, match="publish"):
        groups_of(name, tmp_path / "nothing")


def test_a_csv_instead_of_a_tsv_is_refused(tmp_path):
    path = tmp_path / "mmbench.tsv"
    path.write_text("index,question,A,B,image\n0,x,a,b,c\n")
    with pytest.raises(DataError, match=r"is this comma-separated\?"):
        groups_of("mmbench", path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, "What?", "", "cat", "dog", "", "", "C", "i", 0, "c", "dev"], "'answer' must be one of A, B, found 'C'"),
        ([0, "What?", "", "cat", "", "", "", "A", "i", 0, "c", "dev"], "two to four options"),
        ([0, "", "", "cat", "dog", "", "", "A", "i", 0, "c", "dev"], "'question' is empty"),
        ([1, "What?", "", "cat", "dog", "", "", "A", "i", 77, "c", "dev"], "names the index 77, which has no image"),
        ([0, "What?", "", "cat", "dog", "", "", "A", "i", "?" * 80, "c", "dev"], "'image' is not base64"),
        (["x", "What?", "", "cat", "dog", "", "", "A", "i", 0, "c", "dev"], "'index' must be a whole number"),
        ([5, "What?"], "12 fields are expected, found 2"),
    ],
)
def test_errors_of_mmbench_rows_name_the_line(tmp_path, row, message):
    image = official.base64.b64encode(official.picture()).decode()
    rows = [[3, "Fine?", "", "a", "b", "", "", "A", "i", image, "c", "dev"], row]
    rows[1] = [image if len(row) > 9 and value == 0 and k == 9 else value for k, value in enumerate(row)]
    path = official.mmbench(tmp_path / "m.tsv", rows)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        groups_of("mmbench", path)
    assert "m.tsv:3" in str(caught.value)


def test_mme_lines_are_checked(tmp_path):
    path = official.mme(tmp_path / "mme", ("existence",))
    file = path / "existence.txt"
    for text, message in [
        ("1.jpg\tIs it?\n", "3 tab-separated fields are expected"),
        ("1.jpg\tIs it?\tMaybe\n1.jpg\tIs it not?\tNo\n", "must be Yes or No, found 'Maybe'"),
        ("1.jpg\tIs it?\tYes\n2.jpg\tIs it not?\tNo\n", "image 1.jpg must have two consecutive lines"),
        ("1.jpg\tIs it?\tYes\n", "image 1.jpg must have two consecutive lines"),
        ("", "is empty"),
    ]:
        file.write_text(text)
        with pytest.raises(DataError, match=re.escape(message)):
            groups_of("mme", path)


@pytest.mark.parametrize("columns", ["[" * 200_000, "3", '{"pope": 3}', "\\xff"])
def test_a_table_of_scores_that_is_not_ours_is_named(tmp_path, columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "scores-base.parquet"
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"pairsight.columns": columns}), file)
    with pytest.raises(RunError, match=r"scores-base.parquet was not written by Pairsight"):
        score_columns(file)
