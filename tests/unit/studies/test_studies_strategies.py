"""The comparison of strategies: what is trained, how learning rates are chosen, how other models are compared."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pairsight.tiny.world.benchmark
from pairsight.benchmarks.results import Metric
from pairsight.errors import ConfigError, PairsightError, RunError
from pairsight.formats.prompts import read_prompts
from pairsight.options import AlignOptions
from pairsight.pipeline.align import AlignSpec
from pairsight.pipeline.build import build
from pairsight.recipes.feedback import Feedback
from pairsight.records import Completion, Demonstration, Message, PreferencePair, Prompt
from pairsight.registry import plugins
from pairsight.studies import strategy_trainings
from pairsight.studies.result import compare_scores
from pairsight.studies.strategies import StrategiesStudy, best_by_setting, run_study
from pairsight.studies.strategy_trainings import MATCHED, PAPER, Training, completion_tokens, matched_steps
from pairsight.tiny.models.shipped import shipped_model
from pairsight.tiny.truth.annotator import TruthAnnotator
from pairsight.tiny.world.world_files import write_world
from pairsight.training.config import TrainingConfig

PROMPT = Prompt("p", (Message("user", "What is it?"),))


class Words:
    """A tokenizer with one token per word."""

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": text.split()}


class Share:
    """A benchmark whose metric is the share of correct answers."""

    name = "share"

    def combine(self, sums_RC):
        return {"accuracy": sums_RC[:, 0] / sums_RC[:, 1]}


def _completion(text):
    return Completion(f"p:{text}", "p", text, "stop", "m", 0, 0)


def _training(strategy, setting, rate):
    return Training(strategy, setting, rate, 10, 1.5, Path(f"{strategy}-{setting}-{rate}"))


def test_tokens_of_all_completions_and_their_end_tokens_are_counted():
    pair = PreferencePair("p", PROMPT, _completion("a red circle"), (_completion("two"), _completion("it is")), "s")
    assert completion_tokens(Words(), pair) == 4 + 2 + 3
    assert completion_tokens(Words(), Demonstration("p", PROMPT, _completion("a red circle"), "s")) == 4


def test_steps_match_a_budget_of_tokens():
    assert matched_steps(budget=9_600, tokens_per_example=10.0, batch_size=32) == 30
    assert matched_steps(budget=1, tokens_per_example=10.0, batch_size=32) == 1


def test_a_matched_training_of_few_examples_takes_the_batch_that_the_default_one_takes(tmp_path, monkeypatch):
    pairs = [
        PreferencePair(f"p{k}", PROMPT, _completion("a red circle"), (_completion("two"),), "s") for k in range(60)
    ]  # 6 tokens each
    trained = []

    def align(examples, spec, run, quiet):
        trained.append(spec.training)
        (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": spec.training.max_steps}) + "\n")
        return SimpleNamespace(adapter=tmp_path)

    monkeypatch.setattr(strategy_trainings, "align", align)
    monkeypatch.setattr(strategy_trainings.Trainer, "_examples", lambda self, spec: pairs)
    options = AlignOptions(data="run", model="model", strategy="best_over_worst")
    spec = AlignSpec(options, TrainingConfig(per_device_train_batch_size=128, gradient_accumulation_steps=1))
    trainer = strategy_trainings.Trainer(SimpleNamespace(run=None), tmp_path, Words(), True)
    done = trainer.train(spec, MATCHED, 1e-4, budget=720.0)
    assert (trained[0].global_batch, trained[0].max_steps) == (6, 20)  # 60 examples in 10 steps an epoch, two epochs
    assert done.tokens == pytest.approx(0.72)


def test_a_strategy_from_a_file_is_trained_inside_the_studys_folder_under_its_plain_name(tmp_path, monkeypatch):
    asked = []

    def align(examples, spec, run, quiet):
        asked.append(spec.options)
        Path(spec.options.out).mkdir(parents=True)
        (Path(spec.options.out) / "metrics.jsonl").write_text('{"step": 3}\n')
        return SimpleNamespace(adapter=Path(spec.options.out))

    pair = PreferencePair("p", PROMPT, _completion("a red circle"), (_completion("two"),), "s")
    monkeypatch.setattr(strategy_trainings, "align", align)
    monkeypatch.setattr(strategy_trainings.Trainer, "_examples", lambda self, spec: [pair])
    options = AlignOptions(data="run", model="model", strategy=f"{tmp_path}/plugin/lengths.py:Longest")
    trainer = strategy_trainings.Trainer(SimpleNamespace(run=None), tmp_path / "study", Words(), True)
    done = trainer.train(AlignSpec(options, TrainingConfig()), PAPER, 2e-4)
    assert done.adapter == tmp_path / "study" / "Longest-paper-lr0.0002"
    assert (done.strategy, done.name, asked[0].name) == ("Longest", done.adapter.name, done.adapter.name)
    assert asked[0].strategy == f"{tmp_path}/plugin/lengths.py:Longest"
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


@pytest.mark.parametrize(("better", "best"), [("higher", [2e-4, 2e-4]), ("lower", [1e-4, 1e-4])])
def test_each_strategy_and_setting_has_its_own_best_rate(better, best):
    trained = [_training("a", setting, rate) for setting in (PAPER, MATCHED) for rate in (1e-4, 2e-4)]
    values = dict(zip((one.name for one in trained), (0.5, 0.6, 0.7, 0.8), strict=True))
    tried = {name: {"pope.accuracy": Metric("accuracy", better, aligned=value)} for name, value in values.items()}
    chosen = best_by_setting(trained, tried, "pope.accuracy")
    assert [(one.setting, one.learning_rate) for one in chosen] == [(PAPER, best[0]), (MATCHED, best[1])]
    with pytest.raises(ConfigError, match=r"there is no 'pope\.f1'; choose one of pope\.accuracy"):
        best_by_setting(trained, tried, "pope.f1")


def _scores(path, sums_by_group, name="share"):
    groups = list(sums_by_group)
    columns = {
        "benchmark": [name] * len(groups),
        "parser": ["official"] * len(groups),
        "group": groups,
        "cluster": groups,
        "sums": [sums_by_group[group] for group in groups],
    }
    metadata = {"pairsight.columns": json.dumps({name: ["right", "asked"]})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def test_another_model_is_compared_on_the_items_both_answered(tmp_path):
    base = _scores(tmp_path / "base.parquet", {f"q{i}": [float(i < 2), 1.0] for i in range(8)})
    other = _scores(tmp_path / "other.parquet", {f"q{i}": [1.0, 1.0] for i in (3, 2, 1, 0)})
    found = compare_scores(base, other, "share", Share())["accuracy"]
    assert (found.base, found.aligned, found.difference) == (0.5, 1.0, 0.5)
    assert found.low <= 0.5 <= found.high
    elsewhere = _scores(tmp_path / "elsewhere.parquet", {"x": [1.0, 1.0]})
    with pytest.raises(RunError, match="share no item of 'share'"):
        compare_scores(base, elsewhere, "share", Share())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text_benchmarks": ["mme"]}, r"text_benchmarks: 'mme' is not one of the benchmarks \(pope\)"),
        ({"backbone": "m"}, "backbone: name the benchmarks"),
        ({"strategy_options": {"best": {}}}, "strategy_options: 'best' is not one of the strategies"),
        ({"strategies": ["a.py:Own", "b.py:Own"]}, "strategies: two are called 'Own'; each needs a name of its own"),
        ({"models": {"../../x": "m"}}, r"a system cannot be named '../../x': use letters, digits, \. _ \+ -"),
        ({"adapters": {"base": "m"}}, "a system cannot be named 'base': .* and not 'base'"),
    ],
)
def test_inconsistent_names_are_refused_before_training(wrong, message):
    values = {"run": "r", "model": "m", "benchmarks": {"pope": "a"}, "validation": {"pope": "b"}}
    config = StrategiesStudy.parse({**values, "choose_by": "pope.accuracy", **wrong})
    with pytest.raises(ConfigError, match=message):
        run_study(config, quiet=True)


@pytest.mark.parametrize("given", [{}, {"validation": {"pope": "b"}}, {"choose_by": "pope.accuracy"}])
def test_several_learning_rates_need_what_chooses_among_them(given):
    config = StrategiesStudy.parse({"run": "r", "model": "m", "benchmarks": {"pope": "a"}, **given})
    with pytest.raises(ConfigError, match="several rate_factors need `validation` and `choose_by`"):
        run_study(config, quiet=True)


def test_with_one_learning_rate_nothing_chooses_and_this_is_said(caplog):
    plain = {"run": "no/run", "model": "m", "benchmarks": {"pope": "a"}, "rate_factors": [1.0]}
    with pytest.raises(PairsightError):  # there is no such run: the options are checked before
        run_study(StrategiesStudy.parse(plain), quiet=True)
    assert "not used" not in caplog.text
    with pytest.raises(PairsightError):
        run_study(StrategiesStudy.parse({**plain, "validation": {"pope": "b"}, "choose_by": "x.y"}), quiet=True)
    assert "validation, choose_by: not used, because there is one learning rate (rate_factors)" in caplog.text


@pytest.mark.long
def test_the_complete_study_on_a_small_world(tmp_path):
    torch.set_num_threads(1)
    world = write_world(tmp_path / "world", scenes=4, seed=4)
    validation = write_world(tmp_path / "validation", scenes=4, seed=4, part="validation", prompt_scenes=0, model=None)
    prompts = read_prompts(world / "prompts.json", images=world / "images")
    annotator = TruthAnnotator(world / "truth.jsonl")
    build(
        Feedback(max_new_tokens=24), prompts, model=world / "model", run=tmp_path / "run", annotator=annotator,
        quiet=True,
    )  # fmt: skip
    tiny = f"{pairsight.tiny.world.benchmark.__file__}:TinyWorld"
    config = StrategiesStudy(
        run=str(tmp_path / "run"),
        model=str(world / "model"),
        benchmarks={tiny: str(world / "truth.jsonl")},
        validation={tiny: str(validation / "truth.jsonl")},
        choose_by="tiny.accuracy",
        images=str(world / "images"),
        validation_images=str(validation / "images"),
        strategies=("preference_rule", "steerlm"),
        rate_factors=(0.5, 1.0),
        without_text_only=True,
        backbone=str(shipped_model("backbone")),
        text_benchmarks=(tiny,),
        models={"second": str(shipped_model("second"))},
        training={"num_train_epochs": 1.0, "lora_r": 2},
    )
    with plugins(tiny):
        table, rates = config.results(quiet=True)
    systems = {row[0] for row in table.rows}
    own = {"preference_rule-paper", "preference_rule-images-only"}
    own |= {f"steerlm-{name}" for name in ("paper", "token-matched", "images-only")}
    assert systems == {*own, "backbone", "second"}
    metrics = {row[4] for row in table.rows if row[0] == "backbone"}
    assert metrics == {"tiny.text_accuracy"}, "the backbone answers only text-only questions"
    assert len(rates.rows) == 10
    assert sum(row[-1] == "yes" for row in rates.rows) == 5
    bases = [row[5] for row in table.rows if row[4] == "tiny.text_accuracy"]
    assert np.allclose(bases, bases[0]), "every system is compared with the same base"
    assert (tmp_path / "run" / "studies" / "strategies" / "strategies.csv").is_file()
    with plugins(tiny):
        assert config.results(quiet=True)[0].rows == table.rows
        (only,) = config.model_copy(update={"rate_factors": (0.5,)}).results(quiet=True)
    assert {row[0] for row in only.rows} == systems, "with a single rate nothing is validated"
