"""Few examples still train: no step at rate zero, a batch that fits the data, and what did nothing is said."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, TrainingError
from pairsight.models.folders import fingerprint
from pairsight.recipes.seva import SeVa
from pairsight.training.config import TrainingConfig, TrainingSummary
from pairsight.training.objective import training_config
from pairsight.training.trainer import PreferenceTrainer

SMALL = {"lora_r": 4, "lora_alpha": 8.0, "report_to": ()}


def train(small, out: Path, count: int, **options) -> tuple[Path, list[dict]]:
    folder = PreferenceTrainer(
        small.model, out=out, images=small.images, progress=Progress("quiet"), **{**SMALL, **options}
    ).train(small.pairs(count))
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("count", [1, 6, 30])
def test_sevas_own_settings_train_on_a_handful(small, tmp_path: Path, count: int):
    """The paper's global batch is 128: with so few pairs its only step was one at rate zero."""
    folder, lines = train(small, tmp_path / "a", count, defaults=SeVa.default_training)
    assert len(lines) == min(count, 10)
    assert all(line["learning_rate"] > 0 for line in lines)
    moved = [
        name for name, t in load_file(folder / "adapter_model.safetensors").items() if "lora_B" in name and t.any()
    ]
    assert len(moved) == 14
    summary = TrainingSummary.read(folder)
    assert summary == TrainingSummary(count, min(count, 10), max(1, count // 10), 128)
    card = (folder / "README.md").read_text()
    assert f"lowered from 128 to {max(1, count // 10)}" in card
    assert (f"only {count} optimizer step" in card) == (count < 10)


def test_align_prints_what_a_training_says_of_itself(small, tmp_path: Path, capsys):
    import pyarrow.parquet as pq

    from made_tables import pairs_table
    from pairsight.cli.main import main

    pq.write_table(pairs_table(small.pairs(3), small.images), tmp_path / "pairs.parquet")
    asked = ["--model", str(small.model), "--out", str(tmp_path / "a"), "--set", "lora_r=2", "--quiet"]
    assert main(["align", str(tmp_path / "pairs.parquet"), *asked]) == 0
    printed = capsys.readouterr().out
    assert "aligned on 3 examples in 3 optimizer steps of up to 1\n" in printed
    assert "\n  the global batch was lowered from 32 to 1, so that" in printed
    assert "\n  only 3 optimizer steps: more examples" in printed


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, (1, 1)), (30, (3, 1)), (79, (7, 1)), (100, (8, 1)), (250, (8, 3)), (1279, (8, 15)), (1280, (8, 16))],
)
def test_the_batch_is_lowered_until_an_epoch_has_ten_steps(count: int, sizes: tuple[int, int]):
    config = training_config({}, None, SeVa.default_training).for_examples(count)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == sizes
    assert count / config.global_batch >= min(count, 10)


@pytest.mark.parametrize("own", [{"per_device_train_batch_size": 8}, {"gradient_accumulation_steps": 16}])
def test_a_batch_of_ones_own_is_kept(own: dict):
    config = training_config(own, None, SeVa.default_training)
    assert config.for_examples(5) == config
    again = training_config(config.model_dump())  # as a verb hands it on
    assert again == config
    kept = training_config(training_config({}, None, SeVa.default_training).model_dump())
    assert kept.for_examples(30).global_batch == 3


def test_a_number_of_steps_of_ones_own_keeps_the_batch(small, tmp_path: Path):
    """Lowered, two steps would see 2 of 6 examples instead of all."""
    folder, lines = train(
        small, tmp_path / "a", 6, max_steps=2, defaults=TrainingConfig(per_device_train_batch_size=32)
    )
    assert len(lines) == 2
    summary = TrainingSummary.read(folder)
    assert (summary.global_batch, summary.asked_batch) == (32, 32)
    assert "max_steps" in summary.sentences()[0]


def test_polynomial_decay_takes_small_rates(small, tmp_path: Path):
    _, lines = train(
        small, tmp_path / "a", 3, learning_rate=1e-8, lr_scheduler_type="polynomial", max_steps=3, warmup_ratio=0.0
    )
    rates = [line["learning_rate"] for line in lines]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) >= 1e-9


def test_a_projector_that_no_image_reaches_is_not_blamed_on_its_rate():
    (sentence,) = TrainingSummary(20, 20, 1, 1, ("projector",)).sentences()
    assert sentence.startswith("no weight of the projector changed: no example has an image, or")


SCHEDULES = ("cosine", "linear", "polynomial", "constant_with_warmup", "inverse_sqrt")
LENGTHS = ((1, 0.03), (4, 0.5), (3, 0.9))


@pytest.mark.parametrize(
    ("schedule", "steps", "warmup"),
    [
        pytest.param(schedule, *length, marks=() if (s + n) % 3 == 0 else pytest.mark.long)
        for s, schedule in enumerate(SCHEDULES)
        for n, length in enumerate(LENGTHS)
    ],
)
def test_no_step_has_rate_zero(small, tmp_path: Path, schedule: str, steps: int, warmup: float):
    options = {"max_steps": steps, "warmup_ratio": warmup, "lr_scheduler_type": schedule, "learning_rate": 1e-3}
    _, lines = train(small, tmp_path / "a", 3, per_device_train_batch_size=3, **options)
    rates = [line["learning_rate"] for line in lines]
    assert min(rates) > 0
    assert max(rates) <= 1e-3
    number = min(math.ceil(steps * warmup), steps - 1)
    rising = [1e-3 * (i + 1) / (number + 1) for i in range(number)]
    assert rates[: len(rising)] == [pytest.approx(rate) for rate in rising]


def test_a_constant_rate_has_no_warmup(small, tmp_path: Path):
    defaults = {"warmup_ratio": 0.9}  # a recipe's, which the user's schedule has no use for
    _, lines = train(small, tmp_path / "a", 3, max_steps=3, defaults=defaults, lr_scheduler_type="constant")
    assert {line["learning_rate"] for line in lines} == {5e-6}


def test_a_training_that_changed_nothing_is_an_error(small, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)
    with pytest.raises(TrainingError, match="changed no weight"):
        train(small, tmp_path / "a", 3)
    assert not (tmp_path / "a" / "pairsight.json").exists()


def test_a_part_that_did_not_move_is_said(small, tmp_path: Path):
    folder, _ = train(small, tmp_path / "a", 3, learning_rate=1e-2, projector_learning_rate=1e-46)
    assert TrainingSummary.read(folder).unchanged == ("projector",)
    assert "no weight of the projector changed" in (folder / "README.md").read_text()


def test_what_a_training_says_of_itself_is_no_part_of_its_identity(small, tmp_path: Path):
    folder, _ = train(small, tmp_path / "a", 3, max_steps=1)
    before = fingerprint(small.model, folder)
    (folder / "training.json").write_text("{}")
    assert fingerprint(small.model, folder) == before


def test_a_schedule_that_is_not_one_is_refused_before_anything_loads():
    with pytest.raises(ConfigError, match="lr_scheduler_type"):
        TrainingConfig.parse({"lr_scheduler_type": "cosin"})


def test_a_training_of_no_steps_is_refused():
    with pytest.raises(ConfigError, match=r"max_steps.*must be a number of steps"):
        TrainingConfig.parse({"max_steps": 0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORLD_SIZE", "2"),
        ("PMI_SIZE", "2"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("MV2_COMM_WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_MEGATRON_LM", "True"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
    ],
)
def test_processes_that_cannot_train_together_are_refused(small, tmp_path: Path, monkeypatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name} is {value}[:,] "):
        train(small, tmp_path / "a", 3)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "zero_stage to 2 or 3"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
            {"parallel": "ddp"},
            "parallel is ddp, .*asks for fsdp2",
        ),
        ({}, {"parallel": "fsdp2", "optim": "adamw_8bit"}, "parallel=fsdp2 divides what optim=adamw_8bit keeps"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, "set the precision by bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {"bf16": False}, "set the precision by bf16"),
        ({"WORLD_SIZE": "1"}, {"parallel": "fsdp2"}, "this is the only one; start several with --devices N"),
    ],
)
def test_a_launchers_configuration_and_ours_may_not_contradict_each_other(monkeypatch, variables, options, message):
    """Nothing is started: the options are compared first."""
    for name, value in {**TORCHRUN, "WORLD_SIZE": "2", "MASTER_PORT": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        PreferenceTrainer("model", out="out", **options)


def test_a_launch_of_several_processes_that_starts_one_is_an_error(monkeypatch):
    """What `accelerate launch --cpu --num_processes 2` sets (accelerate 1.15); with one process it sets no port."""
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}.items():
        monkeypatch.setenv(name, value)
    PreferenceTrainer("model", out="out")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ConfigError, match=r"asked for several processes and started this one alone.* --devices N"):
        PreferenceTrainer("model", out="out")


TORCHRUN = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def fresh_accelerator(monkeypatch):
    """accelerate reads a launcher's variables once a process; here again."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    monkeypatch.undo()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "variables",
    [{"LOCAL_RANK": "0"}, {**TORCHRUN, "MASTER_PORT": "0"}, {"PMI_SIZE": "1", "PMI_RANK": "0"}, {"LOCAL_RANK": "-1"}],
    ids=["rank", "torchrun", "mpi", "none"],
)
def test_one_process_of_a_launcher_trains_as_without_it(
    small, tmp_path: Path, monkeypatch, fresh_accelerator, variables: dict
):
    import os

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    _, lines = train(small, tmp_path / "a", 3, max_steps=2, learning_rate=1e-2)
    assert lines[1]["loss"] < lines[0]["loss"]
    assert not torch.distributed.is_initialized()
    assert {name: os.environ.get(name) for name in variables} == {name: before[name] for name in variables}


def test_several_gpus_do_not_wrap_the_model(tmp_path: Path, monkeypatch):
    from transformers import TrainingArguments

    from pairsight.training.loop_base import training_arguments

    def two(self):
        self._n_gpu = 2
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(two))
    assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True).n_gpu == 2
    assert training_arguments(TrainingConfig(), tmp_path, use_cpu=True).n_gpu == 1
