import json
import re

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsight.benchmarks.evaluate import evaluate_models
from pairsight.benchmarks.results import Results
from pairsight.benchmarks.results_file import update_results
from pairsight.benchmarks.scoring import Answer, without_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.models.protocols import Generator
from pairsight.pipeline.evaluate import EvaluateSpec
from pairsight.records import Completion, ItemError, Message, Prompt

SUFFIX = "\nAnswer the question using a single word or phrase."


class Rule(Generator):
    """A model that answers by a rule and records the questions."""

    fingerprint = ""

    def __init__(self, adapter, images, asked=None):
        self.fingerprint = f"rule:{adapter}"
        self.adapter = adapter
        self.images = images
        self.asked = [] if asked is None else asked

    def generate(self, requests, sampling):
        return [self._one(request) for request in requests]

    def _one(self, request):
        assert self.images.open(request.prompt.images[0]).size == (8, 8)
        text = request.prompt.messages[-1].text
        self.asked.append(text)
        if "crash" in text:
            return ItemError("broken", "no answer today")
        aligned = self.adapter is not None
        answer = "No" if "absent" in text and (aligned or "plain" in text) else "Yes"
        return Completion("c", request.prompt.id, answer, "stop", "m", request.seed, 0)


@pytest.fixture
def world(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for i in range(12):
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(images / f"{i}.png")
        for n, (text, label) in enumerate(
            [("Is a present thing here?", "yes"), ("Is an absent thing here?", "no"), ("Is a plain absent?", "no")]
        ):
            rows.append({"question_id": f"{i}-{n}", "image": f"{i}.png", "text": text, "label": label})
    (tmp_path / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "adapter").mkdir()
    return tmp_path


def run(world, out="out", *, adapters=("aligned",), asked=None, settings=None, **more):
    asked = [] if asked is None else asked
    tasks = make_tasks({"pope": world / "pope.jsonl"}, **more)
    return evaluate_models(
        "model",
        tasks,
        lambda adapter, images: Rule(adapter, images, asked),
        out=world / out,
        adapters=dict.fromkeys(adapters, world / "adapter"),
        images=world / "images",
        settings=settings or EvaluationSettings(num_resamples=300),
    ).to_plain()


def test_base_and_adapter_are_compared_on_the_same_items(world):
    content = run(world)
    section = content["systems"]["aligned"]["benchmarks"]["pope"]
    accuracy = section["metrics"]["accuracy"]
    assert (accuracy["base"], accuracy["aligned"]) == (pytest.approx(2 / 3), 1.0)
    assert accuracy["difference"] == pytest.approx(1 / 3)
    assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
    assert (accuracy["num_items"], accuracy["unparsed"], accuracy["temperature"]) == (36, 0, 0.0)
    assert accuracy["better"] == "higher"
    assert section["metrics"]["yes_rate"]["better"] == "neither"
    assert (section["rows"], section["parser"], section["prompt_suffix"]) == (36, "official", SUFFIX)
    assert len(section["sha256"]) == 64
    assert section["other_parser"]["parser"] == "robust"
    assert section["mean_words"] == {"base": 1.0, "aligned": 1.0}
    assert content["systems"]["aligned"]["models"]["base"] == "rule:None"
    assert json.loads((world / "out" / "results.json").read_text()) == content


def test_the_suffix_ends_each_question_once_and_answers_are_generated_once(world):
    first, again = [], []
    before = run(world, asked=first)
    assert run(world, asked=again) == before
    assert len(first) == 72
    assert again == []
    assert all(text.count(SUFFIX) == 1 and text.endswith(SUFFIX) for text in first)
    bare = []
    run(world, "bare", asked=bare, prompt_suffix="")
    assert not any(SUFFIX in text for text in bare)


def test_a_later_adapter_is_added_to_the_same_folder(world):
    run(world)
    asked = []
    run(world, adapters=("aligned", "second"), asked=asked)
    content = json.loads((world / "out" / "results.json").read_text())
    assert list(content["systems"]) == ["aligned", "second"]
    assert asked == []  # the same adapter folder under another name: equal item keys


def test_base_alone_has_values(world):
    content = run(world, adapters=())
    f1 = content["benchmarks"]["pope"]["metrics"]["f1"]
    assert f1["value"] == pytest.approx(2 * 0.5 / 1.5)  # 12 true, 12 false positives, no false negative
    assert f1["low"] <= f1["value"] <= f1["high"]


def test_tables_show_every_answer_and_its_reading(world):
    run(world)
    answers = pq.read_table(world / "out" / "answers-base.parquet").to_pylist()
    assert len(answers) == 36
    assert answers[1] == {
        "benchmark": "pope", "id": "all:0-1", "cluster": "0.png", "prompt": "Is an absent thing here?", "answer": "Yes",
        "finish_reason": "stop", "error": "", "target": '{"label": "no", "split": "all"}',
        "official_prediction": "yes", "official_correct": 0.0, "official_parsed": True,
        "robust_prediction": "yes", "robust_correct": 0.0, "robust_parsed": True,
    }  # fmt: skip
    scores = pq.read_table(world / "out" / "scores-aligned.parquet")
    assert scores.num_rows == 72
    columns = json.loads(scores.schema.metadata[b"pairsight.columns"])["pope"]
    first = scores.to_pylist()[0]
    assert dict(zip(columns, first["sums"], strict=True))["all_tp"] == 1.0


def test_a_failed_item_is_listed_and_excluded_for_both_models(world):
    path = world / "pope.jsonl"
    row = {"question_id": "bad", "image": "0.png", "text": "Will this crash?", "label": "yes"}
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    section = run(world)["systems"]["aligned"]["benchmarks"]["pope"]
    assert section["failed"] == {"base": 1, "aligned": 1}
    assert section["failed_items"]["base"] == ["all:bad: broken: no answer today"]
    assert section["metrics"]["accuracy"]["num_items"] == 36


def test_a_bad_image_is_refused_before_any_model_loads_or_listed(world):
    (world / "images" / "3.png").write_bytes(b"no picture")
    asked = []
    with pytest.raises(DataError, match=re.escape("pope.jsonl:10 (id 3-0): image")):
        run(world, asked=asked)
    assert asked == []
    settings = EvaluationSettings(on_error="skip", num_resamples=50)
    section = run(world, settings=settings)["systems"]["aligned"]["benchmarks"]["pope"]
    assert section["failed"] == {"base": 3, "aligned": 3}
    assert section["metrics"]["accuracy"]["num_items"] == 33


def test_limit_temperature_and_parser_are_settings(world):
    asked = []
    settings = EvaluationSettings(limit=5, parser="robust", num_resamples=50)
    section = run(world, settings=settings, temperature=1.0, asked=asked)["systems"]["aligned"]["benchmarks"]["pope"]
    assert (section["rows"], section["parser"], section["temperature"]) == (5, "robust", 1.0)
    assert section["metrics"]["accuracy"]["temperature"] == 1.0
    assert section["other_parser"]["parser"] == "official"


def test_another_evaluation_in_the_same_folder_is_refused(world):
    run(world)
    with pytest.raises(
        RunError, match=r"holds another evaluation \(limit None there, 3 here\); choose another --name or --out"
    ):
        run(world, settings=EvaluationSettings(limit=3))


def test_bad_requests_are_refused(world):
    with pytest.raises(ConfigError, match="unknown benchmark 'pop'; did you mean 'pope'"):
        make_tasks({"pop": "x"})
    with pytest.raises(ConfigError, match="cannot be named 'base'"):
        run(world, adapters=("base",))
    with pytest.raises(ConfigError, match="at least one benchmark"):
        evaluate_models("m", (), Rule, out=world / "o")
    with pytest.raises(ConfigError, match="benchmark_options: 'mme' is not one of the benchmarks; "):
        make_tasks({"pope": "x"}, {"mme": {}})


def test_a_benchmark_is_asked_as_its_own_options_say():
    options = {"pope": {"prompt_suffix": None, "max_new_tokens": 512, "temperature": 0.2}, "mme": {"temperature": 0}}
    pope, mme, gqa = make_tasks({"pope": "x", "mme": "y", "gqa": "z"}, options, temperature=0.7)
    question = Prompt("q", (Message("user", "Is it red?"),))
    assert pope.with_suffix(question) == question, "an empty value is no suffix"
    assert mme.with_suffix(question).messages[0].text.endswith("single word or phrase.")
    asked = [(task.sampling.temperature, task.sampling.max_new_tokens) for task in (pope, mme, gqa)]
    assert asked == [(0.2, 512), (0.0, 128), (0.7, 128)]
    for wrong, words in (
        ({"pope": {"sufix": ""}}, "benchmark pope: unknown option 'sufix'; did you mean 'prompt_suffix'"),
        ({"pope": {"max_new_token": 3}}, "did you mean 'max_new_tokens'"),
        ({"pope": {"max_new_tokens": 0}}, "benchmark pope: option 'max_new_tokens'"),
        ({"pope": {"temperature": -1}}, "benchmark pope: option 'temperature'"),
        ({"pope": {"prompt_suffix": 7}}, "benchmark pope: option 'prompt_suffix'"),
        ({"popo": {}}, "'popo' is not one of the benchmarks"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_tasks({"pope": "x"}, wrong)
    with pytest.raises(ConfigError, match="temperature changes nothing, its options are ranked by likelihood"):
        make_tasks({"seed_bench_likelihood": "x"}, {"seed_bench_likelihood": {"temperature": 0.2}})
    values = {"model": "m", "benchmarks": {"pope": "x"}, "pope": {"prompt_suffix": ""}, "out": "o"}
    with pytest.raises(ConfigError, match=r"--set benchmark_options\.pope\.OPTION=VALUE"):
        EvaluateSpec.parse(values)


def test_results_merge_by_name(tmp_path):
    path = tmp_path / "results.json"

    def update(plain):
        return update_results(path, Results.from_plain(plain)).to_plain()

    x = {"x": {"base": 0.5, "aligned": 0.6}}
    update({"run": "first", "systems": {"a": {"benchmarks": {"pope": {"rows": 1, "metrics": x}}}}})
    update({"systems": {"a": {"benchmarks": {"mme": {"rows": 2}}}, "b": {}}})
    content = json.loads(path.read_text())
    assert (content["schema"], content["run"]) == (2, "first")
    assert list(content["systems"]) == ["a", "b"]
    benchmarks = content["systems"]["a"]["benchmarks"]
    assert {name: section["rows"] for name, section in benchmarks.items()} == {"pope": 1, "mme": 2}
    assert content["systems"]["a"]["metrics"]["x"]["aligned"] == 0.6
    path.write_text('{"schema": 9}')
    with pytest.raises(RunError, match="schema 9"):
        update({})


def test_answers_are_exported_as_the_official_script_reads_them(world):
    tasks = make_tasks({"pope": world / "pope.jsonl"})
    evaluate_models(
        "model", tasks, Rule, out=world / "out",
        adapters={"aligned": world / "adapter"}, images=world / "images", export=world / "official",
        settings=EvaluationSettings(num_resamples=20),
    )  # fmt: skip
    for model in ("base", "aligned"):
        lines = (world / "official" / model / "pope" / "coco_pope_all_answers.json").read_text().splitlines()
        assert len(lines) == 36
        assert json.loads(lines[0]) == {"question": "Is a present thing here?", "answer": "Yes"}


def test_where_no_question_has_an_answer_of_every_model_nothing_is_written(world):
    class Never(Rule):
        def _one(self, request):
            return ItemError("away", "the server is away") if self.adapter else super()._one(request)

    tasks = make_tasks({"pope": world / "pope.jsonl"})
    with pytest.raises(RunError) as error:
        evaluate_models("model", tasks, Never, out=world / "out", adapters={"aligned": world / "adapter"},
                        images=world / "images", export=world / "official")  # fmt: skip
    assert str(error.value) == (
        "nothing can be scored: 36 of 36 questions have no answer by aligned (36 of them: away: the server is away); "
        f"fix the cause, then `pairsight retry {world / 'out'}` and the same command try them again"
    )
    assert not (world / "out" / "results.json").exists()
    assert not (world / "official").exists()


def test_nothing_can_be_scored_only_where_no_group_is_complete():
    said, none = Answer("yes"), Answer(None, error="away")
    assert without_answers({"base": [[(none,)], [(none, said), (said, said)]]}) == ""
    assert "1 of 3 questions have no answer by a (1 of them: away)" in without_answers(
        {"a": [[(none, said)], [(said,)]], "b": [[(said, said)], [(none,)]]}
    )
