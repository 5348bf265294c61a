"""One precision for step, reference and held-out: masters in float32, the policy equal to the reference at first."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText

import families
from pairsight.engine.progress import Progress
from pairsight.errors import TrainingError
from pairsight.models.folders import fingerprint
from pairsight.training import loop as loop_module
from pairsight.training.policy import movement_kept
from pairsight.training.trainer import PreferenceTrainer
from preference_pairs import NUM_IMAGES

MODES = {
    "fp32": {},
    "bf16-lora": {"bf16": True, "projector_learning_rate": 1e-12},
    "bf16-full": {"bf16": True, "tuning": "full"},
}
OPTIONS = {"report_to": (), "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
LORA = {"lora_r": 4, "lora_alpha": 8.0}


def train(small, out: Path, **options) -> tuple[Path, list[dict]]:
    given = {**OPTIONS, **({} if options.get("tuning") == "full" else LORA), **options}
    trainer = PreferenceTrainer(small.model, out=out, images=small.images, progress=Progress("quiet"), **given)
    folder = trainer.train(small.pairs(6))
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", MODES)
def test_policy_and_reference_are_equal_to_the_bit_before_the_first_step(small, tmp_path: Path, mode: str):
    """One example per pass packs both alike; held-out examples are measured after a step too small to matter."""
    options = {"per_device_train_batch_size": 1, "max_steps": 1, "learning_rate": 1e-12, "max_tokens_per_pass": 64}
    held = {"eval_fraction": 0.5, "eval_steps": 1}
    _, lines = train(small, tmp_path / "a", **options, **held, **MODES[mode])
    (step,) = [line for line in lines if "loss" in line]
    (measured,) = [line for line in lines if "eval_loss" in line]
    assert step["drift/chosen"] == 0.0
    assert step["rewards/margins"] == 0.0
    assert abs(measured["eval_rewards/margins"]) < 1e-6


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_bf16_reaches_the_step(small, tmp_path: Path, tuning: str, monkeypatch):
    """The language model's products are bfloat16 in the pass itself, and its loss is not."""
    seen = []
    real = loop_module.PreferenceStep.run

    def run(self, model, rows, *arguments):
        layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.mlp.down_proj"))
        handle = layer.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
        result = real(self, model, rows, *arguments)
        handle.remove()
        assert result.total.dtype == torch.float32
        return result

    monkeypatch.setattr(loop_module.PreferenceStep, "run", run)
    _, lines = train(small, tmp_path / tuning, bf16=True, tuning=tuning, learning_rate=3e-3, max_steps=6)
    assert set(seen) == {torch.bfloat16}
    assert lines[-1]["loss"] < lines[0]["loss"]


def movement(small, folder: Path) -> torch.Tensor:
    """How far the projector's weights went from the base's, all in one vector."""
    base = AutoModelForImageTextToText.from_pretrained(small.model).model.multi_modal_projector.state_dict()
    saved = {k.split("multi_modal_projector.")[1]: t for k, t in load_file(folder / "adapter_model.safetensors").items()
             if "multi_modal_projector" in k}  # fmt: skip
    assert saved.keys() == base.keys()
    return torch.cat([(saved[name].double() - base[name].double()).flatten() for name in sorted(base)])


def test_a_projector_in_bf16_moves_as_far_as_in_float32_at_sevas_rate(small, tmp_path: Path):
    options = {"learning_rate": 2e-6, "projector_learning_rate": 2e-6, "max_steps": 8, "per_device_train_batch_size": 6}
    exact, _ = train(small, tmp_path / "fp32", **options)
    short, _ = train(small, tmp_path / "bf16", bf16=True, **options)
    far, near = movement(small, exact), movement(small, short)
    assert near.abs().mean() == pytest.approx(float(far.abs().mean()), rel=0.05)
    assert float((near != 0).double().mean()) > 0.95 * float((far != 0).double().mean())


@pytest.mark.parametrize("mode", MODES)
def test_trained_weights_are_kept_and_saved_in_float32(small, tmp_path: Path, mode: str):
    folder, _ = train(small, tmp_path / mode, max_steps=1, learning_rate=1e-4, **MODES[mode])
    (file,) = folder.glob("*model.safetensors")
    assert {t.dtype for t in load_file(file).values()} == {torch.float32}


def test_a_trained_tower_before_a_frozen_projector_with_norms_trains_in_bf16(small, tmp_path: Path):
    """InternVL's projector begins with a LayerNorm, which refused the float32 that the trained tower gives."""
    model = families.build("internvl", tmp_path / "model")
    other = replace(small, model=model)
    _, lines = train(other, tmp_path / "a", bf16=True, vision_learning_rate=1e-4, max_steps=2, learning_rate=1e-3)
    assert lines[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-3)
    assert len(lines) == 2


def test_completions_that_see_each_other_fail_the_check_in_bf16_too(small, tmp_path: Path, monkeypatch):
    from pairsight.training.tokens import Span

    def leaking(parent_S):
        return (Span(0, len(parent_S), ((0, len(parent_S)),), 0),)

    monkeypatch.setattr("pairsight.training.kernels.attention.spans_of", leaking)
    with pytest.raises(TrainingError, match="packed log-probs differ"):
        train(small, tmp_path / "dpo", bf16=True)


def short_of_memory(monkeypatch, limit: int, *, backward: bool) -> list[int]:
    """Let passes of more than `limit` examples run out of memory, forward or half-way through the backward pass."""
    widths: list[int] = []
    real = loop_module.PreferenceStep.run

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, upstream):
            raise torch.OutOfMemoryError("no memory left")

    def run(self, model, rows, *arguments):
        result = real(self, model, rows, *arguments)
        widths.append(len(result.ids))
        if len(result.ids) <= limit:
            return result
        if not backward:
            raise torch.OutOfMemoryError("no memory left")
        weights = [p for p in model.parameters() if p.requires_grad]
        for weight in weights[: len(weights) // 2]:  # as when the pass had reached these already
            weight.grad = torch.ones_like(weight)
        return replace(result, total=Fails.apply(result.total))

    monkeypatch.setattr(loop_module.PreferenceStep, "run", run)
    return widths


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_out_of_memory_is_taken_again_in_smaller_passes(small, tmp_path: Path, monkeypatch, backward: bool):
    options = {"learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 3}
    options |= {"gradient_accumulation_steps": 2}
    _, expected = train(small, tmp_path / "a", **options)
    widths = short_of_memory(monkeypatch, 1, backward=backward)
    _, lines = train(small, tmp_path / "b", **options)
    assert max(widths) > 1
    assert widths[-6:] == [1] * 6
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
        assert [line[name] for line in lines] == [pytest.approx(line[name], rel=1e-4, abs=1e-6) for line in expected]


def test_one_example_that_does_not_fit_into_memory_is_reported(small, tmp_path: Path, monkeypatch):
    short_of_memory(monkeypatch, 0, backward=False)
    with pytest.raises(TrainingError, match=r"one example does not fit into memory \(the largest has \d+ tokens\)"):
        train(small, tmp_path / "a", max_steps=1)


@pytest.mark.parametrize(
    "place",
    [
        "pairsight.models.load.load_model",
        "pairsight.training.policy.make_policy",
        "pairsight.training.scorer.separate_logits",
        "torch.nn.utils.clip_grad_norm_",
        "torch.optim.AdamW.step",
    ],
)
def test_memory_that_runs_out_outside_a_pass_is_one_sentence(small, tmp_path: Path, monkeypatch, place: str):
    """AdamW's first step is where its state is allocated."""

    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a capacity of 4 GiB")

    monkeypatch.setattr(place, fail)
    with pytest.raises(
        TrainingError, match=r"too little memory .*\(CUDA out of memory.*lora_r.* larger device$"
    ) as error:
        train(small, tmp_path / "a", max_steps=1)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    train(small, tmp_path / "a", max_steps=1)  # the folder is not blocked


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_limits_of_a_training_count_what_it_trains(small, tmp_path: Path, monkeypatch, tuning: str):
    """Before the policy nothing is trained; then it is every number that is saved."""
    from pairsight.training import scorer as scorer_module

    counted = []
    real = scorer_module.pass_limits

    def limits(model, *arguments, num_trained=0, **options):
        counted.append(num_trained)
        return real(model, *arguments, num_trained=num_trained, **options)

    monkeypatch.setattr(scorer_module, "pass_limits", limits)
    opened = {"projector_learning_rate": 1e-4, "vision_learning_rate": 1e-4}
    folder, _ = train(small, tmp_path / "a", max_steps=1, tuning=tuning, learning_rate=1e-3, **opened)
    (file,) = folder.glob("*model.safetensors")
    assert counted == [0, sum(t.numel() for t in load_file(file).values())]


def test_reference_and_held_out_passes_out_of_memory_are_taken_again(small, tmp_path: Path, monkeypatch):
    from pairsight.training.scorer import SequenceScorer

    options = {"eval_fraction": 0.5, "eval_steps": 1, "max_steps": 1, "learning_rate": 1e-2}
    _, expected = train(small, tmp_path / "a", **options)
    failed = []
    real = SequenceScorer.score

    def score(self, model, rows):
        if not torch.is_grad_enabled() and sum(len(row) for row in rows) > 1:
            failed.append("policy" if hasattr(model, "peft_config") else "reference")
            raise torch.OutOfMemoryError("no memory left")
        return real(self, model, rows)

    monkeypatch.setattr(SequenceScorer, "score", score)
    _, lines = train(small, tmp_path / "b", **options)
    assert set(failed) == {"policy", "reference"}
    assert [line.keys() for line in lines] == [line.keys() for line in expected]
    for line, other in zip(lines, expected, strict=True):
        for name in other.keys() & {
            "loss",
            "eval_loss",
            "rewards/margins",
            "eval_rewards/margins",
            "eval_logps/chosen",
        }:
            assert line[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)


def test_a_trained_projector_runs_the_tower_once_an_image(small, tmp_path: Path, monkeypatch):
    from pairsight.models import load as load_module

    runs = []
    real = load_module.load_model

    def load(*arguments, **options):
        model = real(*arguments, **options)
        (first,) = (m for n, m in model.named_modules() if "vision" in n and n.endswith("layers.0"))
        forward = first.forward

        def counted(*inputs, **more):
            runs.append(1)
            return forward(*inputs, **more)

        first.forward = counted
        return model

    monkeypatch.setattr(load_module, "load_model", load)
    options = {"num_train_epochs": 2.0, "per_device_train_batch_size": 2, "projector_learning_rate": 1e-4}
    _, lines = train(small, tmp_path / "a", check_first_batch=False, learning_rate=1e-3, **options)
    assert len(lines) > 2
    assert len(runs) == NUM_IMAGES


def test_a_training_frees_its_memory(small, tmp_path: Path, monkeypatch):
    """So that an evaluation in the same process has the device for itself: as on a GPU, nothing lives when its cache
    is emptied at the end."""
    import weakref

    from pairsight.models import load as load_module
    from pairsight.training import policy as policy_module

    made, alive = [], []
    make_policy, release_memory = policy_module.make_policy, load_module.release_memory

    def make(model, config):
        policy = make_policy(model, config)
        made.extend(weakref.ref(p) for p in policy.parameters())
        return policy

    def release():
        with monkeypatch.context() as gpu:
            gpu.setattr(torch.cuda, "is_available", lambda: True)
            gpu.setattr(torch.cuda, "empty_cache", lambda: alive.append([ref for ref in made if ref() is not None]))
            release_memory()

    monkeypatch.setattr(policy_module, "make_policy", make)
    monkeypatch.setattr(load_module, "release_memory", release)
    train(small, tmp_path / "a", max_steps=1)
    assert made
    assert alive == [[]]


def test_limits_leave_room_for_what_is_still_to_come(monkeypatch):
    """On a GPU of 1 GiB free (half of it kept by PyTorch): 12 bytes per trained parameter, half the rest for a pass."""
    from types import SimpleNamespace

    from pairsight.training.precision import Precision
    from pairsight.training.scorer import pass_limits

    gpu = torch.device("cuda")
    config = SimpleNamespace(hidden_size=64, intermediate_size=128, num_hidden_layers=4)
    model = SimpleNamespace(model=SimpleNamespace(config=config), device=gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**29, 2**34))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**29)
    bf16 = Precision(torch.bfloat16, torch.bfloat16)
    trained = 20_000_000
    free = (2**30 - 12 * trained) / 2
    limits = pass_limits(model, None, bf16, num_trained=trained)
    assert limits.row == limits.joined == int(free // ((12 * 64 + 4 * 128) * 4 * 2))
    again = pass_limits(model, None, bf16, num_trained=trained, checkpointing=True)
    assert again.row == int(free // ((12 * 64 + 4 * 128 + 4 * 64) * 2))
    assert pass_limits(model, None, bf16, num_trained=10**9).row == 64


def test_a_reference_in_bf16_is_of_the_parts_that_were_float32(small, tmp_path: Path):
    """A projector with norms gives other bits in float32, so its reference is another; float32's keeps its name."""
    names = []
    for number, options in enumerate(({}, {"bf16": True}, {"bf16": True, "projector_learning_rate": 1e-5})):
        folder, _ = train(small, tmp_path / str(number), max_steps=1, learning_rate=1e-3, **options)
        (file,) = (folder / "references").glob("*.safetensors")
        names.append(file.name)
    assert len(set(names)) == 3
    key = json.dumps([fingerprint(small.model), "float32"])
    assert names[0].startswith(hashlib.sha256(key.encode()).hexdigest()[:32])


def test_what_a_merge_keeps_is_worked_out_by_hand_for_adapters_and_for_modules_in_full():
    """bfloat16 has steps of 4 u = 2**-7 above 1: a change of 4 u is kept, 1 u is rounded away, 3 u become 4 u."""
    u = 2.0**-9
    policy = get_peft_model(
        nn.Sequential(OrderedDict(adapted=nn.Linear(3, 1, bias=False), full=nn.Linear(3, 1, bias=False))),
        LoraConfig(r=1, lora_alpha=2, target_modules=["adapted"], modules_to_save=["full"]),
    )
    full = policy.base_model.model.full
    with torch.no_grad():
        adapted = policy.base_model.model.adapted
        adapted.base_layer.weight.fill_(1.0)
        adapted.lora_A["default"].weight.copy_(torch.tensor([[2.0, 0.5, 0.5]]) * u)  # times lora_alpha / r = 2
        adapted.lora_B["default"].weight.fill_(1.0)
        full.original_module.weight.fill_(1.0)
        full.modules_to_save["default"].weight.copy_(1.0 + torch.tensor([[3.0, 1.0, 0.0]]) * u)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    kept = movement_kept(policy, torch.bfloat16)
    assert kept == {
        "weights_with_adapters": pytest.approx((4 * 4 + 0 * 1 + 0 * 1) / (16 + 1 + 1)),
        "modules_trained_in_full": pytest.approx((4 * 3 + 0 * 1) / (9 + 1)),
    }
    assert movement_kept(policy, torch.float32) == {"weights_with_adapters": 1.0, "modules_trained_in_full": 1.0}
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    merged = policy.merge_and_unload().adapted.weight.to(torch.bfloat16)
    assert merged.tolist() == [[1.0 + 4 * u, 1.0, 1.0]]
    assert movement_kept(nn.Linear(2, 2), torch.bfloat16) == {}
