"""The printed commands mean the same run: they are read back by the verbs' own parsers."""

import shlex
from pathlib import Path

import pytest
import yaml

from pairsight.build_record import BuildRecord
from pairsight.config import with_settings
from pairsight.models.annotation.options import AnnotationOptions
from pairsight.options import BuildOptions
from pairsight.pipeline.align import AlignSpec
from pairsight.recipes.seva import SeVa
from pairsight.reporting.reproduce import TrainingRecord, align_command, build_command
from pairsight.selection.steerlm import SteerLM
from pairsight.training.config import TrainingConfig
from pairsight.training.objective import training_config


def settings(words):
    return with_settings({}, [words[i + 1] for i, word in enumerate(words) if word == "--set"])


def build_lines(run, config):
    return build_command(Path(run), BuildRecord.from_plain(config))


def align_lines(run, name, config, recipe, *, selection=None, strategy=None):
    build = BuildRecord.from_plain({"recipe": recipe, "strategy": strategy})
    return align_command(Path(run), TrainingRecord.from_plain(name, config, selection), build)


def test_the_align_command_gives_the_same_training_on_any_model():
    training = TrainingConfig(loss=("dpo", "sft"), loss_weights=(1.0, 0.5), learning_rate=1e-7, num_train_epochs=1.0)
    (command,) = align_lines("runs/a b", "se cond", {"model": "m", "training": training.to_plain()}, "seva")
    words = shlex.split(command)
    assert words[:3] == ["pairsight", "align", "a b"]
    assert words[words.index("--name") + 1] == "se cond"
    parsed = AlignSpec.parse({"data": "a b", "model": "m", **settings(words)}, recipe="seva").training
    assert parsed == training


@pytest.mark.parametrize(
    "options", [{"loss": "simpo"}, {"loss": "simpo", "beta": 2.5}, {"loss": "sft"}, {"beta": 0.2}, {"max_steps": 3}]
)
def test_the_align_command_of_another_loss_keeps_that_losss_own_options(options):
    training = training_config(options, None, SeVa.default_training)
    (command,) = align_lines("r", "n", {"model": "m", "training": training.to_plain()}, "seva")
    parsed = AlignSpec.parse({"data": "r", "model": "m", **settings(shlex.split(command))}, recipe="seva").training
    assert parsed == training


def test_the_align_command_tells_how_the_examples_were_chosen():
    config = {"model": "m", "training": {}}
    built = {"name": "preference_rule", "min_margin": 2.0, "seed": 0}
    other = {"strategy": "steerlm", "strategy_options": SteerLM(target={"correctness": 4}).to_plain(), "limit": 5}
    (command,) = align_lines("r", "steerlm", config, "feedback", selection=other, strategy=built)
    words = settings(shlex.split(command))
    assert words == {"limit": 5, "strategy": "steerlm", "strategy_options": {"target": {"correctness": 4}}}
    same = {"strategy": "preference_rule", "strategy_options": {"min_margin": 4.0, "seed": 0}, "data": "r"}
    (command,) = align_lines("r", "dpo", config, "", selection=same, strategy=built)
    assert settings(shlex.split(command)) == {"strategy_options": {"min_margin": 4.0}}
    unchanged = {**same, "strategy_options": {"min_margin": 2.0, "seed": 0}}
    (command,) = align_lines("r", "dpo", config, "", selection=unchanged, strategy=built)
    assert command == "pairsight align r --model m --name dpo"


def test_the_build_command_gives_the_same_recipe():
    recipe = SeVa(noise_step=500, distortion="diffusion", seed=3)
    config = {
        "recipe": "seva", "model": "m", "prompts": "p.json", "images": None, "seed": 3, "options": recipe.to_plain(),
        "strategy": {"name": "clean_over_distorted"},
    }  # fmt: skip
    (command,) = build_lines("runs/first", config)
    words = shlex.split(command)
    assert words[:3] == ["pairsight", "build", "seva"]
    assert "--images" not in words
    options = settings(words)
    assert options.pop("strategy") == "clean_over_distorted"
    assert SeVa.parse({**options, "seed": int(words[words.index("--seed") + 1])}) == recipe


def test_several_models_and_how_prompts_were_drawn_are_told():
    config = {
        "recipe": "feedback", "model": ["m", "n"], "prompts": "p.json", "sources": ["coco/"], "per_source": 5,
        "strip_short_answer": False, "on_error": "stop", "engine": "ray", "annotator": "a",
        "options": {"num_completions": 2}, "strategy": {"name": "preference_rule", "min_margin": 3.0, "seed": 0},
    }  # fmt: skip
    (command,) = build_lines("r", config)
    assert command == (
        "pairsight build feedback --model m --model n --prompts p.json --annotator a --sources coco/ "
        "--per-source 5 --set num_completions=2 --set strategy=preference_rule --set min_margin=3.0 --out r"
    )


def test_only_what_changes_a_result_and_is_no_default_is_told():
    plain = BuildOptions(recipe="seva", model="m", out="o", prompts="p.json", workers=4).to_plain()
    config = {**plain, "calls": {**plain["calls"], "budget": 3.0}, "options": {}, "num_prompts": 3}
    assert build_lines("r", config) == ["pairsight build seva --model m --prompts p.json --seed 0 --out r"]
    shown = {**config, "endpoint": {**plain["endpoint"], "max_image_side": 512}, "dataset_answers": True}
    (command,) = build_lines("r", shown)
    assert settings(shlex.split(command)) == {"dataset_answers": True, "endpoint": {"max_image_side": 512}}


def test_a_run_made_in_python_is_told_as_a_call():
    config = {"recipe": "seva", "model": ["m"], "options": SeVa(noise_step=500).to_plain(), "engine": "local"}
    assert build_lines("demo/seva", config) == ["ps.build(ps.SeVa(noise_step=500), prompts, model='m', run='seva')"]


def test_a_recipe_from_a_file_is_named_by_its_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from pairsight.recipes.seva import SeVa\n\n\nclass Mine(SeVa):\n    name = 'mine'\n")
    config = {"recipe": "mine", "recipe_file": f"{file}:Mine", "model": "m", "prompts": "p.json", "options": {}}
    (command,) = build_lines("r", config)
    assert command == f"pairsight build {file}:Mine --model m --prompts p.json --out r"
    assert BuildRecord.from_plain(config).recipe_name == f"{file}:Mine"


def test_a_folder_without_settings_has_no_commands():
    assert build_lines("r", {}) == []
    assert align_lines("r", "dpo", {}, "") == []


def test_an_unknown_recipe_or_a_hostile_value_is_no_error():
    config = {"recipe": "gone", "model": "m; rm -rf /", "prompts": "$(x)", "options": {"a": 1}, "strategy": "x"}
    (command,) = build_lines("r", config)
    assert "'m; rm -rf /'" in command
    assert shlex.split(command)[4] == "m; rm -rf /"
    assert align_lines("r", "dpo", {"model": "m", "training": {"beta": 0.3}}, "gone") == [
        "pairsight align r --model m --name dpo --set beta=0.3"
    ]


def test_long_guides_are_told_by_their_file_in_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = AnnotationOptions(guide="Grade it.\n" * 400, shuffle=False)
    config = {"recipe": "feedback", "model": "m", "prompts": "p.json", "annotation": own.to_plain()}
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "annotation.yaml").write_text(yaml.safe_dump(own.to_plain()))
    (command,) = build_lines("r", config)
    given = settings(shlex.split(command))
    assert given == {"annotation": "r/annotation.yaml"}
    assert BuildOptions.parse({"recipe": "feedback", "model": "m", "out": "r", **given}).annotation == own
