"""From pairs to an adapter: it trains, it resumes, plain libraries load it, and bad input is said."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError, RunError, TrainingError
from pairsight.images.source import WithImages
from pairsight.models.folders import check_adapter
from pairsight.records import Message
from pairsight.training import families as trainer_families
from pairsight.training.adapter import merge
from pairsight.training.kernels.spans import Span
from pairsight.training.loop import Loop
from pairsight.training.trainer import PreferenceTrainer

OPTIONS = {
    "learning_rate": 1e-2,
    "lora_r": 4,
    "lora_alpha": 8.0,
    "per_device_train_batch_size": 5,
    "num_train_epochs": 3.0,
    "save_steps": 2,
    "report_to": (),
}


def trainer(small, out: Path, **options) -> PreferenceTrainer:
    given = {**OPTIONS, **options}
    if "max_steps" in given:
        del given["num_train_epochs"]
    return PreferenceTrainer(small.model, out=out, images=small.images, progress=Progress("quiet"), **given)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> Path:
    return trainer(small, tmp_path_factory.mktemp("trained") / "dpo").train(small.pairs(12))


def test_training_learns_its_pairs_and_starts_at_log_two(trained: Path):
    steps = lines(trained)
    assert [step["step"] for step in steps] == list(range(1, 10))
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=2e-3)
    assert steps[-1]["loss"] < 0.5 < steps[0]["loss"]
    assert steps[-1]["rewards/accuracies"] == 1.0
    assert steps[-1]["rewards/margins"] > 0.3
    assert {"logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "drift/chosen"} <= steps[0].keys()


def test_plain_transformers_and_peft_load_the_adapter_and_its_weights_moved(small, trained: Path):
    check_adapter(trained, small.model)
    base = AutoModelForImageTextToText.from_pretrained(small.model)
    model = PeftModel.from_pretrained(base, trained)
    moved = [p for n, p in model.named_parameters() if "lora_B" in n and bool((p != 0).any())]
    assert len(moved) == 7 * 2  # seven linear layers in each of two decoder layers
    assert not any("vision" in name for name in load_file(trained / "adapter_model.safetensors"))


def test_the_folder_records_how_it_was_made(trained: Path):
    assert "12" in (trained / "README.md").read_text()
    assert json.loads((trained / "pairsight.json").read_text())["kind"] == "adapter"
    assert (trained / "align.yaml").is_file()


def test_merge_gives_the_same_model_without_peft(small, trained: Path, tmp_path: Path):
    merged = AutoModelForImageTextToText.from_pretrained(merge(trained, tmp_path / "merged"))
    layered = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(small.model), trained)
    ids = torch.arange(10, 20)[None]
    torch.testing.assert_close(merged(input_ids=ids).logits, layered(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_a_finished_folder_is_left_alone_and_a_different_training_refused(small, trained: Path):
    before = (trained / "adapter_model.safetensors").stat().st_mtime_ns
    assert trainer(small, trained).train(small.pairs(12)) == trained
    assert (trained / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"beta None here, 0\.3 asked"):
        trainer(small, trained, beta=0.3).train(small.pairs(12))
    with pytest.raises(RunError, match="data_sha256"):
        trainer(small, trained).train(small.pairs(11))


class Stopped(Exception):  # noqa: N818
    """Simulates a kill: our code must not catch it."""


@pytest.mark.parametrize("stop", [(1, {}), (5, {}), (5, {"group_by_image": True})], ids=["1", "5", "5-by-image"])
def test_a_stopped_training_resumes_exactly(small, trained, tmp_path, stop, monkeypatch):
    (at, options), real = stop, Loop.training_step
    out = tmp_path / "dpo"
    if options:
        trained = trainer(small, tmp_path / "unstopped", **options).train(small.pairs(12))

    def until(self, *arguments):
        if self.state.global_step == at:
            raise Stopped
        return real(self, *arguments)

    monkeypatch.setattr(Loop, "training_step", until)
    with pytest.raises(Stopped):
        trainer(small, out, **options).train(small.pairs(12))
    monkeypatch.setattr(Loop, "training_step", real)
    trainer(small, out, **options).train(small.pairs(12))
    assert [(s["step"], s["loss"], s["grad_norm"]) for s in lines(out)] == [
        (s["step"], s["loss"], s["grad_norm"]) for s in lines(trained)
    ]
    ours, theirs = load_file(out / "adapter_model.safetensors"), load_file(trained / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys() != set()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_pairs_that_teach_nothing_are_counted(small, tmp_path: Path):
    pairs = small.pairs(6)
    pairs[1] = replace(pairs[1], rejected=(replace(pairs[1].rejected[0], text=pairs[1].chosen.text),))
    pairs[2] = replace(pairs[2], rejected=(replace(pairs[2].rejected[0], text=" "),))
    pairs[3] = replace(pairs[3], chosen=replace(pairs[3].chosen, text=""))
    pairs[4] = replace(pairs[4], rejected=(replace(pairs[4].rejected[0], text="long " * 400),))
    folder = trainer(small, tmp_path / "dpo", max_length=300, num_train_epochs=1.0).train(pairs)
    card = (folder / "README.md").read_text()
    assert "| examples | 3 |" in card
    assert "| cut completions | 1 |" in card
    assert "| skipped, identical_or_empty | 2 |" in card
    assert "| skipped, empty_chosen | 1 |" in card


def test_a_prompt_over_max_length_is_skipped_or_an_error(small, tmp_path: Path):
    with pytest.raises(DataError, match="no example is left to train on: 3 overlong_prompt"):
        trainer(small, tmp_path / "a", max_length=10).train(small.pairs(3))
    with pytest.raises(DataError, match=r"'p0': its prompt has \d+ tokens, max_length is 10"):
        trainer(small, tmp_path / "b", max_length=10, overlong="fail").train(small.pairs(3))


def test_a_loss_that_is_not_finite_stops_and_names_its_pairs(small, tmp_path: Path):
    pairs = small.pairs(6)
    pairs[4] = replace(pairs[4], weight=float("nan"))
    with pytest.raises(TrainingError, match=r"not finite at step \d for 'p4'"):
        trainer(small, tmp_path / "dpo").train(pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rte": 1e-3}, "unknown option 'learning_rte'; did you mean 'learning_rate'"),
        ({"lora_target_modules": ("q_prj",)}, "no linear layer 'q_prj' in the language model; there are .*q_proj"),
        ({"loss_options": {"gama": 1.0}}, "loss dpo has no option 'gama'"),
        ({"loss": "dop"}, "unknown loss 'dop'; did you mean 'dpo'"),
    ],
)
def test_options_that_mean_nothing_are_refused(small, tmp_path: Path, options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(small, tmp_path / "dpo", **options).train(small.pairs(2))


def test_ids_used_twice_are_refused(small, tmp_path: Path):
    with pytest.raises(DataError, match="'p0' is the id of two examples"):
        trainer(small, tmp_path / "dpo").train([*small.pairs(2), *small.pairs(1)])


def test_examples_may_bring_their_images(small, tmp_path: Path):
    made = PreferenceTrainer(small.model, out=tmp_path / "dpo", progress=Progress("quiet"), **OPTIONS)
    folder = made.train(WithImages(tuple(small.pairs(3)), small.images))
    assert (folder / "adapter_model.safetensors").is_file()


def test_accumulation_and_the_size_of_passes_change_nothing(small, tmp_path: Path):
    whole = trainer(small, tmp_path / "a", per_device_train_batch_size=6, max_steps=3).train(small.pairs(6))
    parts = trainer(
        small, tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=3
    ).train(small.pairs(6))
    narrow = trainer(small, tmp_path / "c", per_device_train_batch_size=6, max_steps=3, max_tokens_per_pass=64).train(
        small.pairs(6)
    )
    alone = trainer(small, tmp_path / "d", per_device_train_batch_size=6, max_steps=3, share_prefixes=False).train(
        small.pairs(6)
    )
    expected = [(s["loss"], s["grad_norm"]) for s in lines(whole)]
    for folder in (parts, narrow, alone):
        assert [(s["loss"], s["grad_norm"]) for s in lines(folder)] == [pytest.approx(e, rel=1e-4) for e in expected]


KILLED = """
import sys
sys.path[:0] = [{tests!r}, {here!r}]
import torch
torch.set_num_threads(1)
from pathlib import Path
from preference_pairs import pair
from test_preference_trainer import OPTIONS
from pairsight.engine.progress import Progress
from pairsight.images.source import FileImages
from pairsight.training.kernels.spans import Span
from pairsight.training.trainer import PreferenceTrainer

images = FileImages({images!r})
made = PreferenceTrainer({model!r}, out={out!r}, images=images, progress=Progress("quiet"), **OPTIONS)
made.train([pair(images, n) for n in range(12)])
"""


@pytest.mark.long
def test_a_killed_process_resumes_to_the_same_losses(small, trained: Path, tmp_path: Path):
    here = Path(__file__).parent
    code = KILLED.format(
        tests=str(here.parents[1]),
        here=str(here),
        images=str(small.images.root),
        model=str(small.model),
        out=str(tmp_path / "dpo"),
    )
    for wanted in (2, 5, 8):
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None:
            if (tmp_path / "dpo" / "metrics.jsonl").is_file() and len(lines(tmp_path / "dpo")) >= wanted:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        process.wait()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [s["loss"] for s in lines(tmp_path / "dpo")] == [s["loss"] for s in lines(trained)]


def test_a_family_seen_wrongly_fails_the_first_check(small, tmp_path: Path, monkeypatch):
    import families

    gemma = families.build("gemma3", tmp_path / "gemma")
    real = trainer_families.describe
    monkeypatch.setattr(trainer_families, "describe", lambda model: replace(real(model), first_position=3, window=2))
    with pytest.raises(TrainingError, match=r"packed log-probs differ .* at 'p\d' .*share_prefixes=false"):
        PreferenceTrainer(
            gemma, out=tmp_path / "dpo", images=small.images, progress=Progress("quiet"), **OPTIONS
        ).train(small.pairs(3))


@pytest.mark.parametrize("swapped", [False, True])
def test_completions_that_see_each_other_fail_the_first_check(small, tmp_path: Path, monkeypatch, swapped):
    def leaking(parent_S, *others):
        return (Span(0, len(parent_S), ((0, len(parent_S)),)),)

    monkeypatch.setattr("pairsight.training.kernels.attention.spans_of", leaking)
    pairs = small.pairs(3)
    if swapped:  # the other completion is compared, whichever is first in its row
        pairs = [replace(one, chosen=one.rejected[0], rejected=(one.chosen,)) for one in pairs]
    with pytest.raises(TrainingError, match="packed log-probs differ"):
        PreferenceTrainer(
            small.model, out=tmp_path / "dpo", images=small.images, progress=Progress("quiet"), **OPTIONS
        ).train(pairs)


def stateful(name: str, sizes: dict):
    """A tiny text-only model some of whose layers carry a state along the sequence."""
    from transformers import Lfm2Config, Lfm2ForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

    if name == "conv":
        return Lfm2ForCausalLM(Lfm2Config(layer_types=["conv", "full_attention"], **sizes))
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    more = {"layer_types": ["linear_attention", "full_attention"], "linear_value_head_dim": 8, **linear}
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**more, **sizes))


@pytest.mark.parametrize("kind", ["conv", "linear_attention"])
def test_a_model_with_a_state_along_the_sequence_is_trained_one_sequence_at_a_time(
    small, tmp_path: Path, caplog, kind: str
):
    from transformers import AutoTokenizer

    import families

    llama = families.build("llama", tmp_path / "llama")
    words = AutoTokenizer.from_pretrained(llama)
    model = stateful(kind, families.text_config(len(words)))
    model.save_pretrained(tmp_path / "stateful")
    words.save_pretrained(tmp_path / "stateful")
    pairs = [replace(p, prompt=replace(p.prompt, messages=(Message("user", 9 * p.id),))) for p in small.pairs(4)]
    with caplog.at_level("WARNING", "pairsight"):
        folder = PreferenceTrainer(
            tmp_path / "stateful", out=tmp_path / "dpo", images=small.images, progress=Progress("quiet"), **OPTIONS
        ).train(pairs)
    (said,) = re.findall(
        rf"prefixes are not shared: layers of kind {kind} carry a state along the sequence; each completion is "
        r"computed by itself with its prompt and images, which takes (\d\.\d) times the tokens",
        caplog.text,
    )
    assert 1.2 < float(said) < 2.0  # two completions of a prompt
    assert lines(folder)[-1]["loss"] < lines(folder)[0]["loss"]


def test_a_tracker_that_is_not_installed_is_named_before_anything_loads(small, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pairsight.training.trainer.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="report_to 'wandb' needs its package: pip install wandb"):
        trainer(small, tmp_path / "dpo", report_to=("wandb",))
