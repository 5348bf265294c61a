"""Memory of a training: what it counts, what it takes again in smaller passes, and what it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pairsight.engine.progress import Progress
from pairsight.errors import TrainingError
from pairsight.training import loop as loop_module
from pairsight.training.trainer import PreferenceTrainer
from preference_pairs import NUM_IMAGES

OPTIONS = {"report_to": (), "warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
LORA = {"lora_r": 4, "lora_alpha": 8.0}


def train(small, out: Path, **options) -> tuple[Path, list[dict]]:
    given = {**OPTIONS, **({} if options.get("tuning") == "full" else LORA), **options}
    trainer = PreferenceTrainer(small.model, out=out, images=small.images, progress=Progress("quiet"), **given)
    folder = trainer.train(small.pairs(6))
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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
        pytest.param("pairsight.training.policy.make_policy", marks=pytest.mark.long),
        pytest.param("pairsight.training.scorer.separate_logits", marks=pytest.mark.long),
        pytest.param("torch.nn.utils.clip_grad_norm_", marks=pytest.mark.long),
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

    def score(self, packed, rows, *calls):
        if not torch.is_grad_enabled() and sum(len(row) for row in rows) > 1:
            failed.append("policy" if hasattr(packed.policy, "peft_config") else "reference")
            raise torch.OutOfMemoryError("no memory left")
        return real(self, packed, rows, *calls)

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

    def make(*given, **options):
        policy = make_policy(*given, **options)
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

    from pairsight.training.kernels.attention import NAME
    from pairsight.training.precision import Precision
    from pairsight.training.scorer import pass_limits

    gpu = torch.device("cuda")
    config = SimpleNamespace(hidden_size=64, intermediate_size=128, num_hidden_layers=4, _attn_implementation="eager")
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
    assert again.padded
    config._attn_implementation = NAME  # without masks, rows are joined
    assert not pass_limits(model, None, bf16).padded


@pytest.mark.parametrize("options", [{}, {"projector_learning_rate": 1e-4}])
def test_features_that_do_not_fit_into_their_memory_are_said_once(small, tmp_path: Path, caplog, options: dict):
    train(small, tmp_path / "roomy", **options)
    assert "image_cache_mb" not in caplog.text
    train(small, tmp_path / "narrow", image_cache_mb=0, **options)
    assert caplog.text.count(f"image_cache_mb=0 does not hold the features of all {NUM_IMAGES} images") == 1
