"""Which options reach which loss: a default holds for the loss it was meant for, and none is accepted for nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pairsight.config import with_settings
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, RunError, TrainingError
from pairsight.recipes.feedback import Feedback
from pairsight.recipes.seva import SeVa
from pairsight.registry import plugins
from pairsight.store.run_folder import RunFolder
from pairsight.training.adapter import Origin, claim
from pairsight.training.config import TrainingConfig
from pairsight.training.loss_grid import LossInputs
from pairsight.training.objective import Objective, training_config
from pairsight.training.trainer import PreferenceTrainer

SHARP = TrainingConfig.parse({**SeVa.default_training.given(), "beta": 0.3, "average_log_prob": True})
"""A recipe's defaults for dpo that are not dpo's own."""


def one_pair(chosen: float, rejected: float, length: float) -> LossInputs:
    """A pair whose completions have `length` tokens each, and a reference that finds both equally likely."""
    policy, same = torch.tensor([[[chosen, rejected]]]), torch.full((1, 1, 2), -9.0)
    return LossInputs(policy, same, torch.full((1, 2), length), torch.ones(1, 1, 2, dtype=torch.bool), torch.ones(1))


def loss_of(config: TrainingConfig, x: LossInputs) -> float:
    return float(Objective(config)(x, num_prompts=1, num_tokens=1).total)


@pytest.mark.parametrize("recipe", [SeVa, Feedback])
def test_simpo_under_a_recipe_for_dpo_takes_its_own_beta(recipe):
    config = training_config({"loss": "simpo"}, None, recipe.default_training)
    x = one_pair(-8.0, -12.0, length=4.0)
    by_hand = -torch.nn.functional.logsigmoid(torch.tensor(2.0 * (-2.0 - -3.0) - 1.0))  # β 2, γ 1, as in the paper
    assert loss_of(config, x) == pytest.approx(float(by_hand))
    assert config.learning_rate == recipe.default_training.learning_rate
    assert config.lora_r == recipe.default_training.lora_r


def test_a_models_preset_for_dpo_leaves_other_losses_their_own_beta(tmp_path: Path):
    (tmp_path / "pairsight.json").write_text(json.dumps({"training_preset": "tiny"}))
    assert training_config({}, tmp_path).beta == 0.1
    other = training_config({"loss": "simpo"}, tmp_path, SeVa.default_training)
    assert other.beta is None
    assert other.learning_rate == 2e-4


@pytest.mark.parametrize("loss", ["dpo", ["dpo"], ("dpo",)])
def test_the_recipes_own_loss_keeps_its_defaults_however_it_is_named(loss):
    for options in ({}, {"loss": loss}):
        config = training_config(options, None, SHARP)
        assert (config.beta, config.average_log_prob) == (0.3, True)


@pytest.mark.parametrize("loss", ["ipo", "dpo,sft"])
def test_defaults_of_one_loss_do_not_reach_others(loss):
    config = training_config({"loss": loss}, None, SHARP)
    assert (config.beta, config.average_log_prob) == (None, False)
    assert training_config({"loss": loss, "beta": 0.7}, None, SHARP).beta == 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "simpo", "label_smoothing": 0.1}, "loss simpo has no option 'label_smoothing'; it takes beta, gamma"),
        ({"loss": "sft", "beta": 0.2}, "loss sft has no option 'beta'; it takes none"),
        ({"loss": ["sft", "bradley_terry"], "beta": 0.2}, r"loss sft \+ bradley_terry has no option 'beta'"),
        ({"loss": "ipo", "loss_options": {"gamma": 1.0}}, "loss ipo has no option 'gamma'; it takes beta"),
        ({"loss": "simpo", "average_log_prob": True}, "average_log_prob changes nothing under loss simpo"),
        ({"loss": "orpo,sft", "average_log_prob": True}, r"average_log_prob changes nothing under loss orpo \+ sft"),
        ({"loss_options": {"beta": 0.2}}, "'beta' is a separate option: give it as beta, not inside loss_options"),
        ({"loss": "dpo,sft", "loss_weights": [1, 2, 3]}, r"2 numbers, one per loss \(dpo, sft\), found 3"),
        ({"loss": "dpo,sft", "loss_weights": [1, 0]}, "a loss with weight 0 trains nothing"),
        ({"loss": "dpo,dop"}, "unknown loss 'dop'; did you mean 'dpo'"),
        ({"loss": "dpo,dpo"}, "name each loss once"),
    ],
)
def test_what_no_chosen_loss_takes_is_refused_before_any_data_is_read(options, message):
    with pytest.raises(ConfigError, match=message):
        training_config(options)


def test_an_option_that_one_of_several_losses_takes_is_accepted():
    x = one_pair(-8.0, -12.0, length=4.0)
    both = training_config({"loss": "dpo,sft", "label_smoothing": 0.2, "average_log_prob": True})
    margin = torch.tensor(0.1 * (-2.0 - -3.0))
    dpo = -0.8 * torch.nn.functional.logsigmoid(margin) - 0.2 * torch.nn.functional.logsigmoid(-margin)
    assert loss_of(both, x) == pytest.approx(float(dpo) + 8.0)


@pytest.mark.parametrize("given", ["dpo,sft", "dpo, sft", ["dpo", "sft"], ["dpo,sft"], ("dpo", "sft")])
def test_several_losses_are_a_list_or_separated_by_commas(given):
    assert training_config({"loss": given}).loss_names == ("dpo", "sft")


@pytest.mark.parametrize(
    ("loss", "name"), [("ipo", "ipo"), ("dpo,sft", "dpo+sft"), ("dir/x.py:f", "f"), (["/a/x.py:f", "sft"], "f+sft")]
)
def test_a_training_is_called_by_its_losses_without_their_files(loss, name):
    assert TrainingConfig(loss=loss).training_name == name


def test_a_plug_ins_adapter_has_a_plain_folder_and_another_of_that_name_is_refused(tmp_path: Path):
    run = RunFolder.create(tmp_path / "run", {"recipe": "seva"}).path
    own = "from pairsight.training.losses import dpo\n"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text(own)
    first, second = (f"{tmp_path}/{folder}/x.py:dpo" for folder in ("a", "b"))
    with plugins(first, second):
        trainers = [PreferenceTrainer("owner/model", loss=loss, run=run) for loss in (first, second)]
    assert [trainer.out for trainer in trainers] == [run / "align" / "dpo"] * 2
    origins = [Origin("m", "sha256:1", "2", 3, trainer.config) for trainer in trainers]
    assert not claim(trainers[0].out, origins[0])
    found = r"holds another training \(loss '.*a/x\.py:dpo' here, '.*b/x\.py:dpo' asked\); choose another --name"
    with pytest.raises(RunError, match=found):
        claim(trainers[1].out, origins[1])


OF_0_1 = """\
model: m
base_fingerprint: sha256:1
data_sha256: '2'
num_examples: 3
training: {loss: dpo, loss_weights: [], beta: 0.1, label_smoothing: null, average_log_prob: false, loss_options: {},
  learning_rate: 0.0002, projector_learning_rate: 2.0e-06, vision_learning_rate: null, tuning: lora, lora_r: 16,
  lora_alpha: 32.0, lora_dropout: 0.0, lora_target_modules: [], per_device_train_batch_size: 32,
  gradient_accumulation_steps: 1, num_train_epochs: 2.0, max_steps: -1, warmup_ratio: 0.03, lr_scheduler_type: cosine,
  weight_decay: 0.0, max_grad_norm: 1.0, max_length: 2048, overlong: skip, seed: 42, bf16: null,
  gradient_checkpointing: false, max_tokens_per_pass: null, image_cache_mb: 1024, group_by_image: false,
  share_prefixes: true, check_first_batch: true, eval_fraction: 0.0, eval_steps: 20, early_stopping_patience: 0,
  save_steps: 50, save_total_limit: 2, logging_steps: 1, report_to: [tensorboard]}
"""
"""The `align.yaml` of version 0.1.0 (77c1124), which had no `min_steps_per_epoch`, for one command."""
TODAY = TrainingConfig(
    loss="dpo", beta=0.1, learning_rate=2e-4, projector_learning_rate=2e-6, lora_r=16, lora_alpha=32.0,
    num_train_epochs=2.0,
)  # fmt: skip
"""What the same command asks for now."""


def old_training(folder: Path, *, finished: bool) -> Path:
    folder.mkdir()
    (folder / "align.yaml").write_text(OF_0_1)
    save_file({"w": torch.zeros(1)}, folder / "adapter_model.safetensors")
    if finished:
        (folder / "pairsight.json").write_text('{"kind": "adapter", "base": "m", "base_fingerprint": "sha256:1"}')
    return folder


def test_the_same_command_recognises_a_finished_training_of_an_older_version(tmp_path: Path):
    old = old_training(tmp_path / "old", finished=True)
    assert claim(old, Origin("m", "sha256:1", "2", 3, TODAY))
    assert (old / "align.yaml").read_text() == OF_0_1


@pytest.mark.parametrize(
    ("finished", "asked", "message"),
    [
        (False, {}, r"\(min_steps_per_epoch None here, 10 asked\)"),  # it would go on with another batch
        (True, {"min_steps_per_epoch": 5}, r"\(min_steps_per_epoch None here, 5 asked\)"),
        (True, {"beta": 0.2}, r"beta 0\.1 here, 0\.2 asked"),
    ],
)
def test_a_training_of_an_older_version_that_another_command_asks_for_is_refused(tmp_path, finished, asked, message):
    old = old_training(tmp_path / "old", finished=finished)
    training = TODAY.model_copy(update=asked)
    with pytest.raises(RunError, match=message):
        claim(old, Origin("m", "sha256:1", "2", 3, training))
    with pytest.raises(RunError, match="data_sha256 '2' here, '3' asked"):
        claim(old, Origin("m", "sha256:1", "3", 3, training))


def train(small, out: Path, **options) -> list[float]:
    made = {"lora_r": 4, "max_steps": 2, "report_to": (), "images": small.images, "progress": Progress("quiet")}
    folder = PreferenceTrainer(small.model, out=out, **{**made, **options}).train(small.pairs(4))
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_loss_that_starts_large_has_not_exploded(small, tmp_path: Path):
    first, _ = train(small, tmp_path / "ipo", loss="ipo", beta=0.004, learning_rate=1e-4)
    assert first == pytest.approx((1 / (2 * 0.004)) ** 2, rel=1e-3)


def test_a_loss_that_leaves_its_own_scale_still_stops_the_training(small, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"the loss exploded to .*; lower learning_rate"):
        train(small, tmp_path / "a", beta=1e4, learning_rate=1.0, warmup_ratio=0.0, max_steps=4)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"tuning": "full", "lora_r": 4}, "lora_r"),
        ({"tuning": "full", "lora_dropout": 0.1}, "lora_dropout"),
        ({"eval_steps": 3}, "eval_steps"),
        ({"share_prefixes": False, "max_tokens_per_pass": 512}, "max_tokens_per_pass"),
        ({"share_prefixes": False, "check_first_batch": True}, "check_first_batch"),
        ({"max_steps": 3, "num_train_epochs": 2.0}, "num_train_epochs"),
        ({"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, "warmup_ratio"),
    ],
)
@pytest.mark.parametrize("recipe", ["", "seva"])
def test_an_option_that_does_nothing_beside_the_others_is_refused(options: dict, name: str, recipe: str):
    from pairsight.pipeline.align import AlignSpec

    with pytest.raises(ConfigError, match=f"^{name} changes nothing"):
        AlignSpec.parse({"data": "d", "model": "m", **options}, recipe=recipe)
    AlignSpec.parse(
        {"data": "d", "model": "m", "tuning": "full"}, recipe="seva"
    )  # the user did not give the recipe's rank


@pytest.mark.parametrize(
    "options",
    [
        {"tuning": "full", "lora_r": 4},
        {"eval_steps": 3},
        {"share_prefixes": False, "max_tokens_per_pass": 512},
        {"lr_scheduler_type": "constant", "warmup_ratio": 0.1},
    ],
)
def test_a_python_call_refuses_what_does_nothing_too(small, tmp_path: Path, options: dict):
    with pytest.raises(ConfigError, match="changes nothing"):
        PreferenceTrainer(small.model, out=tmp_path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler_type": "constant"},  # the user did not ask for the default warm-up
        {"lr_scheduler_type": "constant", "warmup_ratio": 0.0},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1},
    ],
)
def test_a_constant_rate_is_only_refused_beside_a_warm_up(small, tmp_path: Path, options: dict):
    PreferenceTrainer(small.model, out=tmp_path, defaults={"warmup_ratio": 0.05}, **options)


@pytest.mark.parametrize(
    ("setting", "name", "found"),
    [
        ("lora_target_modules=q_proj,v_proj", "lora_target_modules", ("q_proj", "v_proj")),
        ("lora_target_modules=q_proj, v_proj", "lora_target_modules", ("q_proj", "v_proj")),
        ("lora_target_modules=q_proj", "lora_target_modules", ("q_proj",)),
        ("lora_target_modules=[q_proj, v_proj]", "lora_target_modules", ("q_proj", "v_proj")),
        ("report_to=tensorboard,wandb", "report_to", ("tensorboard", "wandb")),
        ("report_to=[]", "report_to", ()),
        ("loss_weights=2", "loss_weights", (2.0,)),
    ],
)
def test_a_list_may_be_one_text_with_commas(setting: str, name: str, found: tuple):
    config = TrainingConfig.parse(with_settings({}, [setting]))
    assert getattr(config, name) == found
    assert TrainingConfig.parse(config.to_plain()) == config


@pytest.mark.parametrize(
    ("value", "shown"), [("q_proj,", "'q_proj,'"), ("{a: b}", r"{'a': 'b'}"), ("true", "True"), ("", "None")]
)
def test_what_is_not_a_list_is_one_plain_line(value: str, shown: str):
    with pytest.raises(ConfigError) as error:
        TrainingConfig.parse(with_settings({}, [f"lora_target_modules={value}"]), "align")
    expected = "align: option 'lora_target_modules': must be a list, or its values with commas between them"
    assert str(error.value) == f"{expected} (found {shown})"


def test_a_config_is_used_as_it_is(small, tmp_path: Path):
    config = training_config({"tuning": "full", "beta": 0.3}, None, TrainingConfig(lora_r=4, learning_rate=1e-3))
    assert PreferenceTrainer(small.model, out=tmp_path, config=config).config is config
    for beside in ({"beta": 0.2}, {"loss": "sft"}, {"defaults": TrainingConfig()}):
        with pytest.raises(ConfigError, match=f"config is used as it is; found {next(iter(beside))} beside it"):
            PreferenceTrainer(small.model, out=tmp_path, config=config, **beside)
