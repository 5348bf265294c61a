"""Adapters above a language model in 4 bits, and 8-bit optimizers; bitsandbytes and plain libraries are the truth."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText

import families
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, MissingExtraError, RunError
from pairsight.models.load import load_model
from pairsight.training.adapter import merge
from pairsight.training.config import TrainingConfig
from pairsight.training.families import language_model
from pairsight.training.kernels.layers import fuse_lora
from pairsight.training.loop import Loop
from pairsight.training.precision import Precision
from pairsight.training.ranks.launch import Launch
from pairsight.training.trainer import PreferenceTrainer

bnb = pytest.importorskip("bitsandbytes")

OPTIONS = {
    "learning_rate": 1e-2,
    "lora_r": 4,
    "lora_alpha": 8.0,
    "per_device_train_batch_size": 2,
    "max_steps": 4,
    "save_steps": 2,
    "warmup_ratio": 0.0,
    "report_to": (),
}


def trainer(small, out: Path, **options) -> PreferenceTrainer:
    return PreferenceTrainer(
        small.model, out=out, images=small.images, progress=Progress("quiet"), **{**OPTIONS, **options}
    )


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> Path:
    return trainer(small, tmp_path_factory.mktemp("nf4") / "out", load_in_4bit=True).train(small.pairs(6))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "llama"])
def test_linear_layers_of_the_language_model_alone_are_in_4_bits(name: str, tmp_path: Path):
    folder = families.build(name, tmp_path / name)
    plain, model = load_model(folder), load_model(folder, in_4_bits=language_model)
    before, found = plain.state_dict(), set()
    for module_name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            found.add(module_name)
            assert module.weight.quant_state.quant_type == "nf4"
            assert module.weight.quant_state.nested
            assert module.compute_dtype == torch.float32
    inside = {id(module) for module in language_model(plain).modules()}
    assert found == {n for n, m in plain.named_modules() if isinstance(m, nn.Linear) and id(m) in inside} != set()
    exact = {n: t for n, t in model.state_dict().items() if not any(n.startswith(f"{part}.weight") for part in found)}
    assert exact.keys() == {n for n in before if not any(n == f"{part}.weight" for part in found)}
    assert all(torch.equal(tensor, before[n]) for n, tensor in exact.items())
    assert any("lm_head" in n for n in exact)


def adapted(small, dtype: torch.dtype, **options):
    """Plain peft above plain transformers' and bitsandbytes' 4 bits, its adapters such that they do something."""
    model = load_model(small.model, dtype=dtype, in_4_bits=language_model).requires_grad_(False)
    torch.manual_seed(0)
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    policy = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, target_modules=targets, **options))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return policy


def outcome(policy, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = policy.train()(input_ids=torch.arange(10, 30)[None]).logits
    logits.float().square().sum().backward()
    return logits.detach(), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"lora_dropout": 0.5}),
        (torch.bfloat16, {}),
        pytest.param(torch.float32, {}, marks=pytest.mark.long),
        pytest.param(torch.bfloat16, {"lora_dropout": 0.5}, marks=pytest.mark.long),
        pytest.param(torch.float32, {"use_dora": True}, marks=pytest.mark.long),
    ],
)
def test_fused_adapters_above_4_bits_are_those_of_peft(small, dtype: torch.dtype, options: dict, monkeypatch):
    from peft.tuners.lora.bnb import Linear4bit

    plain = adapted(small, dtype, **options)
    expected, expected_gradients = outcome(plain, dtype)
    fused = adapted(small, dtype, **options)
    assert fuse_lora(fused) == 14
    if not options.get("use_dora"):
        monkeypatch.setattr(Linear4bit, "forward", None)  # peft's own: not called
    got, gradients = outcome(fused, dtype)
    assert gradients.keys() == expected_gradients.keys() != set()
    rough = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(got, expected, **rough)
    for name, gradient in expected_gradients.items():
        distance = float((gradients[name] - gradient).norm() / gradient.norm())
        assert distance <= (1e-4 if dtype == torch.float32 else 0.05), name


@pytest.mark.parametrize("mode", [pytest.param({}, marks=pytest.mark.long), {"bf16": True}], ids=["fp32", "bf16"])
def test_the_reference_has_the_same_4_bits_as_the_policy(small, tmp_path: Path, mode: dict):
    """Equal to the bit before the first step, and another reference than the one of full weights."""
    options = {"max_steps": 1, "learning_rate": 1e-12, "per_device_train_batch_size": 1, "max_tokens_per_pass": 64}
    run = tmp_path / "run"
    logps = []
    for four in (True, False):
        folder = trainer(small, run, **options, **mode, load_in_4bit=four, seed=int(four)).train(small.pairs(2))
        (step,) = lines(folder)
        assert step["drift/chosen"] == step["rewards/margins"] == 0.0
        logps.append(step["logps/chosen"])
        run.rename(tmp_path / str(four))
    assert logps[0] != logps[1]
    files = [next((tmp_path / str(four) / "references").iterdir()).name.partition(".")[0] for four in (True, False)]
    assert files[0] != files[1]


def test_training_above_4_bits_learns_and_its_adapter_loads_with_plain_peft(small, trained: Path):
    steps = lines(trained)
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=2e-3)
    assert steps[-1]["loss"] < steps[0]["loss"]
    base = AutoModelForImageTextToText.from_pretrained(small.model)
    model = PeftModel.from_pretrained(base, trained)
    assert len([p for n, p in model.named_parameters() if "lora_B" in n and bool((p != 0).any())]) == 14
    card = (trained / "README.md").read_text()
    assert "- trained above the base's language model in 4 bits; merging and evaluating use the base's full" in card
    assert "| load_in_4bit | True |" in card


def test_processes_that_divide_weights_are_refused():
    for option in ({"load_in_4bit": True}, {"optim": "adamw_8bit"}):
        with pytest.raises(ConfigError, match=r"parallel=fsdp2 divides what .* keeps in fewer bits; use parallel=ddp"):
            Launch(size=2).way(TrainingConfig(parallel="fsdp2", **option))


def test_it_merges_into_the_full_weights_and_says_so(small, trained: Path, tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING, "pairsight"):
        merged = AutoModelForImageTextToText.from_pretrained(merge(trained, tmp_path / "merged"))
    assert "was trained above its base in 4 bits and is merged into the base's full weights" in caplog.text
    layered = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(small.model), trained)
    ids = torch.arange(10, 20)[None]
    torch.testing.assert_close(merged(input_ids=ids).logits, layered(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_full_and_4_bit_weights_are_another_training(small, trained: Path):
    with pytest.raises(RunError, match="load_in_4bit True here, False asked"):
        trainer(small, trained).train(small.pairs(6))
    nf4, full = (Precision.choose(TrainingConfig(load_in_4bit=four), torch.device("cpu")) for four in (True, False))
    assert (nf4.key, full.key) == ("nf4+float32", "float32")


def test_weights_that_are_trained_are_not_kept_in_4_bits(small, tmp_path: Path):
    with pytest.raises(ConfigError, match="load_in_4bit freezes the weights that tuning=full trains"):
        PreferenceTrainer(small.model, out=tmp_path, load_in_4bit=True, tuning="full")


@pytest.mark.parametrize("option", [{"load_in_4bit": True}, {"optim": "adamw_8bit"}])
def test_without_bitsandbytes_the_install_command_is_printed(small, tmp_path: Path, option: dict, monkeypatch):
    monkeypatch.setattr("pairsight.training.config.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pairsight\[quant\]'"):
        trainer(small, tmp_path, **option)


class Stopped(Exception):  # noqa: N818
    """Simulates a kill."""


def test_a_stopped_training_resumes_exactly(small, tmp_path: Path, monkeypatch):
    options = {"load_in_4bit": True, "optim": "adamw_8bit", "lora_r": 256}
    unstopped = trainer(small, tmp_path / "unstopped", **options).train(small.pairs(6))
    real = Loop.training_step

    def until(self, *arguments):
        if self.state.global_step == 3:
            raise Stopped
        return real(self, *arguments)

    monkeypatch.setattr(Loop, "training_step", until)
    with pytest.raises(Stopped):
        trainer(small, tmp_path / "out", **options).train(small.pairs(6))
    monkeypatch.setattr(Loop, "training_step", real)
    folder = trainer(small, tmp_path / "out", **options).train(small.pairs(6))
    assert [(s["loss"], s["grad_norm"]) for s in lines(folder)] == [
        (s["loss"], s["grad_norm"]) for s in lines(unstopped)
    ]
    ours, theirs = (load_file(one / "adapter_model.safetensors") for one in (folder, unstopped))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("tuning", "more"), [pytest.param("lora", {"lora_r": 256}, marks=pytest.mark.long), ("full", {})]
)
def test_8_bit_moments_take_the_steps_of_bitsandbytes(small, tmp_path: Path, tuning: str, more: dict, monkeypatch):
    """The loop's optimizer beside one of bitsandbytes on copies of the weights, fed with the same gradients."""
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    beside: list[torch.optim.Optimizer] = []
    real = Loop.create_optimizer

    def create(self, *arguments):
        optimizer = real(self, *arguments)
        if not beside:
            named = [(name, p) for name, p in self.replica.policy.named_parameters() if p.requires_grad]
            pairs.update({name: (p, copy.deepcopy(p)) for name, p in named})
            kinds = {bits: [c for n, (_, c) in pairs.items() if ("embed" in n) == (bits == 32)] for bits in (8, 32)}
            made = ((bnb.optim.AdamW8bit, kinds[8]), (bnb.optim.AdamW32bit, kinds[32]))
            beside.extend(kind(members, lr=1e-2, weight_decay=0.0) for kind, members in made if members)
            optimizer.register_step_pre_hook(follow)
        return optimizer

    def follow(*_):
        for own, other in pairs.values():
            other.grad = None if own.grad is None else own.grad.clone()
        for optimizer in beside:
            optimizer.step()

    monkeypatch.setattr(Loop, "create_optimizer", create)
    options = {"optim": "adamw_8bit", "lr_scheduler_type": "constant", "max_steps": 3, "tuning": tuning, **more}
    given = {name: value for name, value in OPTIONS.items() if tuning == "lora" or not name.startswith("lora_")}
    PreferenceTrainer(
        small.model, out=tmp_path, images=small.images, progress=Progress("quiet"), **{**given, **options}
    ).train(small.pairs(4))
    large = {name: own for name, (own, _) in pairs.items() if own.numel() > 4096 and "embed" not in name}
    assert {beside[0].state[pairs[name][1]]["state1"].dtype for name in large} == {torch.uint8}
    assert all(torch.equal(own, other) for own, other in pairs.values())
