"""`align` with strategies that make demonstrations: loss, defaults, name, and SteerLM's line at inference."""

import json

import pytest
import torch

from pairsight.errors import ConfigError
from pairsight.formats.prompts import read_prompts
from pairsight.models.folders import read_prompt_suffix
from pairsight.pipeline.align import AlignSpec, align_run
from pairsight.pipeline.build import build
from pairsight.pipeline.evaluate import evaluate
from pairsight.pipeline.run import RunConfig
from pairsight.pipeline.select import load_candidates, select
from pairsight.recipes.feedback import Feedback
from pairsight.selection.preference_rule import PreferenceRule
from pairsight.selection.rejection_sampling import RejectionSampling
from pairsight.selection.strategy import make_strategy
from pairsight.tiny.truth.annotator import TruthAnnotator
from pairsight.tiny.world.world_files import write_world

LINE = "Answer with these qualities, each on a scale from 0 to 4: {}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return write_world(tmp_path_factory.mktemp("strategies") / "world", scenes=3, seed=3)


@pytest.fixture(scope="module")
def run(world):
    prompts = read_prompts(world / "prompts.json", images=world / "images")
    recipe, annotator = Feedback(max_new_tokens=24), TruthAnnotator(world / "truth.jsonl")
    options = {"annotator": annotator, "dataset_answers": True, "quiet": True}
    build(recipe, prompts, model=world / "model", run=world.parent / "run", **options)
    return world.parent / "run"


def test_demonstrations_are_trained_with_sft_and_the_papers_defaults():
    values = {"data": "runs/x", "model": "m", "strategy": "rejection_sampling"}
    spec = AlignSpec.parse(values, "feedback", PreferenceRule())
    options, training = spec.options, spec.training
    assert (options.name, training.loss_names) == ("rejection_sampling", ("sft",))
    assert (training.learning_rate, training.max_length, training.projector_learning_rate) == (4e-4, 2048, 2e-5)
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
    assert (training.num_train_epochs, training.lora_r, training.lora_alpha) == (3.0, 128, 256.0)


def test_pairs_keep_their_defaults_and_the_loss_names_the_adapter():
    spec = AlignSpec.parse({"data": "runs/x", "model": "m"}, "feedback", PreferenceRule())
    options, training = spec.options, spec.training
    assert (options.name, training.loss, training.learning_rate, training.max_length) == (None, "dpo", 5e-5, 3000)


def test_a_run_built_for_demonstrations_needs_no_further_word():
    spec = AlignSpec.parse({"data": "runs/x", "model": "m"}, "feedback", RejectionSampling(min_total=12))
    assert (spec.options.name, spec.training.loss) == ("rejection_sampling", "sft")
    named = AlignSpec.parse({"data": "runs/x", "model": "m", "name": "rs"}, "feedback", RejectionSampling())
    assert named.options.name == "rs"


def test_a_pair_loss_for_demonstrations_is_refused():
    values = {"data": "runs/x", "model": "m", "strategy": "steerlm", "loss": "dpo"}
    with pytest.raises(ConfigError, match="'steerlm' makes demonstrations, for --loss sft; found dpo"):
        AlignSpec.parse(values, "feedback", PreferenceRule())


def test_the_tiny_model_has_its_own_rates(world):
    values = {"data": "runs/x", "model": str(world / "model")}
    rates = {
        name: AlignSpec.parse({**values, "strategy": name}, "feedback").training.learning_rate
        for name in ("preference_rule", "steerlm", "sft")
    }
    assert rates == {"preference_rule": 2e-4, "steerlm": 5e-4, "sft": 5e-4}


def test_a_dry_run_knows_the_strategy_of_the_build(world):
    build = {
        "recipe": "feedback", "strategy": "rejection_sampling", "min_total": 12,
        "prompts": str(world / "prompts.json"), "images": str(world / "images"),
    }  # fmt: skip
    config = RunConfig(out="o", model=str(world / "model"), build=build, align={})
    spec = config.align_spec(config.build_spec())
    assert (spec.strategy, spec.training.loss) == (RejectionSampling(min_total=12), "sft")


def test_the_datasets_own_answers_are_kept_for_sft(run, world):
    prompts = read_prompts(world / "prompts.json", images=world / "images")
    chosen, dropped = select(load_candidates(run), make_strategy("sft", sft_source="dataset"))
    assert {d.prompt.id: d.completion.text for d in chosen.items} == prompts.answers
    assert len(prompts.answers) == len(prompts)
    assert not dropped


def test_steerlm_is_asked_for_the_best_scores_wherever_it_answers(run, world):
    model, images = world / "model", world / "images"
    values = {"data": str(run), "model": str(model), "strategy": "steerlm", "max_steps": 2, "merge": True}
    wanted = {"target": {"helpfulness": 4, "correctness": 3}}
    adapter = align_run(AlignSpec.parse({**values, "strategy_options": wanted}), quiet=True).adapter
    assert adapter == run / "align" / "steerlm"
    assert json.loads((adapter / "pairsight.json").read_text())["loss"] == "sft"
    line = LINE.format("Helpfulness:4,Correctness:3")
    assert read_prompt_suffix(adapter) == read_prompt_suffix(adapter / "merged") == line

    benchmarks = {"pope": world / "pope.jsonl"}
    options = {"limit": 2, "out": run.parent / "with", "quiet": True}
    evaluate(model, {"steerlm": adapter}, benchmarks=benchmarks, images=images, **options)
    (adapter / "inference.json").unlink()
    options["out"] = run.parent / "without"
    evaluate(model, {"steerlm": adapter}, benchmarks=benchmarks, images=images, **options)
    made = {name: _completion_models(run.parent / name) for name in ("with", "without")}
    assert len(made["with"]) == len(made["without"]) == 2
    assert len(made["with"] & made["without"]) == 1, "the base is asked the same in both"


def _completion_models(evaluation):
    import sqlite3

    with sqlite3.connect(evaluation / "ledger.sqlite") as ledger:
        tables = [row[0] for row in ledger.execute("select name from sqlite_master where type = 'table'")]
        texts = [str(row) for table in tables for row in ledger.execute(f"select * from {table}")]
    import re

    return {found for text in texts for found in re.findall(r'\\?"model\\?": ?\\?"(sha256:\w+)', text)}
