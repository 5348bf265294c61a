"""What the classes say of options is what the records, the resume checks and the trainer do with them."""

import inspect
import json
import pickle
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pairsight.config import option_facts
from pairsight.errors import ConfigError, RunError
from pairsight.options import AlignOptions, BuildOptions, EvaluateOptions
from pairsight.pipeline.align import AlignSpec
from pairsight.pipeline.build import BuildSpec, build_run
from pairsight.pipeline.evaluate import EvaluateSpec, ScoreSpec
from pairsight.recipes.seva import SeVa
from pairsight.tiny.models.shipped import shipped_model
from pairsight.training.config import TrainingConfig
from pairsight.training.trainer import PreferenceTrainer

RECORD = [
    "recipe", "options", "strategy", "model_fingerprint", "annotator_fingerprint", "writer_fingerprint", "num_prompts",
    "prompts_sha256", "model", "prompts", "completions", "dataset_answers", "images", "annotator", "writer", "question",
    "sources", "questions_per_dialogue", "per_source", "strip_short_answer", "limit", "seed", "engine", "workers",
    "on_error", "calls", "endpoint", "trust_remote_code",
]  # fmt: skip
"""The names in a `run.yaml` of 0.1, in order."""


@pytest.fixture
def values(tmp_path: Path) -> dict[str, object]:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    rows = [{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}]}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    return {
        "recipe": "seva", "model": str(shipped_model()), "prompts": str(tmp_path / "p.json"),
        "out": str(tmp_path / "run"), "max_new_tokens": 4,
    }  # fmt: skip


def test_the_record_of_a_build_keeps_its_names_and_their_order(values):
    build_run(BuildSpec.parse(values), quiet=True)
    config = yaml.safe_load((Path(str(values["out"])) / "run.yaml").read_text())
    assert list(config) == RECORD


def test_what_may_differ_when_a_build_or_a_training_is_resumed():
    free = {name for name, option in option_facts(BuildOptions).items() if option.recorded and not option.compared}
    assert free == {
        "model", "prompts", "completions", "images", "annotator", "writer", "engine", "workers", "calls", "endpoint",
        "format", "distorted", "profile", "load_in_4bit", "chat_template",
    }  # fmt: skip
    free = {name for name, option in option_facts(TrainingConfig).items() if not option.compared}
    assert free == {"parallel", "save_steps", "save_total_limit", "logging_steps", "report_to", "dataset_num_proc"}


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"endpoint": {"max_image_side": 512}}, False),
        ({"calls": {"max_attempts": 2}}, False),
        ({"seed": 1}, True),
        ({"limit": 1}, True),
    ],
)
def test_a_build_is_resumed_with_other_limits_of_calls_and_not_with_another_seed(values, given, refused):
    build_run(BuildSpec.parse(values), quiet=True)
    if refused:
        with pytest.raises(RunError, match=next(iter(given))):
            build_run(BuildSpec.parse({**values, **given}), quiet=True)
    else:
        assert build_run(BuildSpec.parse({**values, **given}), quiet=True).num_prompts == 1


def test_a_build_spec_is_complete_before_anything_is_written(values):
    spec = BuildSpec.parse({**values, "noise_step": 300, "seed": 3})
    assert (spec.recipe.name, spec.recipe.noise_step, spec.recipe.seed, spec.options.seed) == ("seva", 300, 3, 3)
    assert spec.strategy.name == "clean_over_distorted"
    assert [one.id for one in spec.source.prompts()] == ["1"]
    assert not Path(str(values["out"])).exists()


def test_the_selection_of_a_training_notes_what_the_trainer_does_not():
    spec = AlignSpec.parse({"data": "d", "model": "m", "name": "n", "limit": 3, "beta": 0.3})
    assert spec.selection() == "data: d\nmax_length_difference: null\ntext_only_prompts: true\nlimit: 3\n"
    assert (spec.training.beta, spec.options.name, spec.strategy) == (0.3, "n", None)
    assert "learning_rate" not in AlignOptions.model_fields


def test_an_evaluation_has_its_benchmarks_and_their_files(tmp_path: Path):
    (tmp_path / "pope.jsonl").write_text("")
    given = {"model": "m", "benchmarks": {"pope": str(tmp_path / "pope.jsonl")}, "temperature": 0.5}
    spec = EvaluateSpec.parse(given)
    assert [(task.name, task.sampling.temperature) for task in spec.tasks] == [("pope", 0.5)]
    with pytest.raises(ConfigError, match=r"benchmark pope: .*gone\.jsonl does not exist"):
        EvaluateSpec.parse({**given, "benchmarks": {"pope": str(tmp_path / "gone.jsonl")}})


@pytest.mark.parametrize(
    "name", ["../../out", "..", ".", "a/b", "/abs", ".hidden", "", "a b", "a\nb", "a\0", "nö/../x", "C:x"]
)
def test_a_name_that_leads_out_of_its_folder_or_is_hidden_is_refused_when_it_is_parsed(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"align: option 'name': use letters, digits, \. _ \+ -, and no dot first"):
        AlignSpec.parse({"data": "d", "model": "m", "name": name})
    with pytest.raises(ConfigError, match=r"evaluate: option 'name': use letters, digits, \. _ \+ -, and no dot"):
        EvaluateSpec.parse({"run": "r", "model": "m", "benchmarks": {"pope": "p"}, "name": name})
    if name:
        with pytest.raises(ConfigError, match=r"a training cannot be named .*: use letters"):
            PreferenceTrainer("m", out=tmp_path / "out", name=name)


@pytest.mark.parametrize("name", ["dpo", "dpo+sft", "höher", "a.b", "-x", "_", "rank-1.5", "2"])
def test_a_plain_name_is_taken(name: str):
    assert AlignSpec.parse({"data": "d", "model": "m", "name": name}).options.name == name
    assert EvaluateOptions(run="r", model="m", benchmarks={}, name=name).name == name


def test_an_adapter_cannot_be_called_as_evaluations_call_the_base():
    with pytest.raises(ConfigError, match=r"option 'name': use letters, .* and not 'base'"):
        AlignSpec.parse({"data": "d", "model": "m", "name": "base"})
    assert EvaluateOptions(run="r", model="m", benchmarks={}, name="base").name == "base"


def test_scoring_takes_one_benchmark():
    given = {"answers": "a", "out": "o"}
    assert ScoreSpec.parse({**given, "benchmarks": {"pope": "f"}}).path == "f"
    with pytest.raises(ConfigError, match="score needs one --benchmark NAME=PATH, found 2"):
        ScoreSpec.parse({**given, "benchmarks": {"pope": "f", "mme": "g"}})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: SeVa(noise_stpe=1), "SeVa: unknown option 'noise_stpe'; did you mean 'noise_step'?"),
        (lambda: SeVa(seed=-1), "SeVa: option 'seed': Input should be greater than or equal to 0 (found -1)"),
        (lambda: TrainingConfig(loss="dpo,dpo"), "TrainingConfig: name each loss once, and at least one"),
        (lambda: BuildOptions(recipe="seva", model="m"), "BuildOptions: option 'out' is missing ("),
        (
            lambda: BuildOptions(recipe="seva", out="o", model="m", calls={"budgte": 1}),
            "BuildOptions: unknown option 'calls.budgte'",
        ),
    ],
)
def test_a_wrong_option_is_one_line_in_python_too(made, message: str):
    with pytest.raises(ConfigError) as found:
        made()
    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)


def test_options_made_in_python_are_those_that_parse_makes():
    given = {"noise_step": 300, "seed": 2}
    assert SeVa(**given) == SeVa.parse(given) == pickle.loads(pickle.dumps(SeVa(**given)))
    assert SeVa(**given).given() == given
    assert list(inspect.signature(SeVa).parameters) == list(SeVa.model_fields)
