"""What can be trained and how: demonstrations, image contrasts, full models, parts, lower precision; all learn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError
from pairsight.images.distort import make_distortion
from pairsight.records import Demonstration, ImageRef
from pairsight.training.data.held_out import split_held_out
from pairsight.training.trainer import PreferenceTrainer

OPTIONS = {
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 6,
    "max_steps": 6,
    "report_to": (),
    "warmup_ratio": 0.0,
}
LORA = {"lora_r": 4, "lora_alpha": 8.0}


def train(small, out: Path, examples, **options) -> tuple[Path, list[dict]]:
    given = {**OPTIONS, **({} if options.get("tuning") == "full" else LORA), **options}
    folder = PreferenceTrainer(small.model, out=out, images=small.images, progress=Progress("quiet"), **given).train(
        examples
    )
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def demonstrations(small, count: int) -> list[Demonstration]:
    return [Demonstration(p.id, p.prompt, p.chosen, "test") for p in small.pairs(count)]


def test_demonstrations_are_imitated_per_token_without_a_reference(small, tmp_path: Path):
    folder, steps = train(small, tmp_path / "sft", demonstrations(small, 6), loss="sft")
    assert steps[-1]["loss"] < 0.95 * steps[0]["loss"]
    assert "rewards/margins" not in steps[0]
    assert not (folder / "references").exists()


def test_pairs_can_be_imitated_too_by_their_chosen_completions(small, tmp_path: Path):
    _, from_pairs = train(small, tmp_path / "a", small.pairs(6), loss="sft", max_steps=2)
    _, from_demonstrations = train(small, tmp_path / "b", demonstrations(small, 6), loss="sft", max_steps=2)
    assert from_pairs[1]["loss"] == pytest.approx(from_demonstrations[1]["loss"], rel=1e-4)


@pytest.mark.parametrize(("loss", "at_the_reference"), [("mdpo", 3 * 0.6931), ("vision_contrast", 0.6931)])
def test_image_contrasts_learn_and_make_their_own_images(small, tmp_path: Path, loss: str, at_the_reference: float):
    _, steps = train(small, tmp_path / loss, small.pairs(6), loss=loss)
    assert steps[0]["loss"] == pytest.approx(at_the_reference, abs=1e-3)
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]


def test_contrast_images_may_come_with_the_pairs(small, tmp_path: Path):
    def contrasted(pair):
        image = ImageRef(pair.prompt.images[0].sha256, make_distortion("random_flip", 1))
        return replace(pair, contrast_images=(image,))

    _, own = train(small, tmp_path / "own", [contrasted(p) for p in small.pairs(6)], loss="vision_contrast")
    _, made = train(small, tmp_path / "made", small.pairs(6), loss="vision_contrast")
    assert own[-1]["loss"] != made[-1]["loss"]


@pytest.mark.parametrize(
    "loss", ["kto", "mpo", "orpo", *(pytest.param(one, marks=pytest.mark.long) for one in ("simpo", "ipo"))]
)
def test_losses_with_a_state_or_without_a_reference_train(small, tmp_path: Path, loss: str):
    _, steps = train(small, tmp_path / loss, small.pairs(6), loss=loss)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_full_fine_tuning_writes_a_complete_model(small, tmp_path: Path):
    folder, steps = train(small, tmp_path / "full", small.pairs(6), tuning="full", learning_rate=2e-3)
    assert steps[-1]["loss"] < 0.6
    before, after = load_file(small.model / "model.safetensors"), load_file(folder / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in moved)
    assert not any("vision_tower" in name or "multi_modal_projector" in name for name in moved)
    AutoModelForImageTextToText.from_pretrained(folder)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_projector_and_tower_train_at_their_own_rates(small, tmp_path: Path, tuning: str):
    rates = {"projector_learning_rate": 1e-3, "vision_learning_rate": 1e-4}
    folder, steps = train(small, tmp_path / "parts", small.pairs(6), tuning=tuning, **rates)
    assert steps[-1]["loss"] < steps[0]["loss"]
    before = AutoModelForImageTextToText.from_pretrained(small.model)
    after = AutoModelForImageTextToText.from_pretrained(folder if tuning == "full" else small.model)
    if tuning == "lora":
        after = PeftModel.from_pretrained(after, folder).merge_and_unload()
    for part in ("multi_modal_projector", "vision_tower"):
        old, new = before.model.get_submodule(part).state_dict(), after.model.get_submodule(part).state_dict()
        assert any(not torch.equal(old[name], new[name]) for name in old), part


def test_a_projector_alone_is_not_trained_by_the_language_models_rate(small, tmp_path: Path):
    folder, _ = train(small, tmp_path / "a", small.pairs(6), projector_learning_rate=1e-12, max_steps=2)
    saved = load_file(folder / "adapter_model.safetensors")
    before = AutoModelForImageTextToText.from_pretrained(small.model).model.multi_modal_projector.linear_1.weight
    (projector,) = [t for name, t in saved.items() if name.endswith("projector.linear_1.weight")]
    torch.testing.assert_close(projector, before.detach(), atol=1e-6, rtol=0)


def test_gradient_checkpointing_changes_nothing(small, tmp_path: Path):
    _, plain = train(small, tmp_path / "a", small.pairs(6), max_steps=3)
    _, twice = train(small, tmp_path / "b", small.pairs(6), max_steps=3, gradient_checkpointing=True)
    assert [s["loss"] for s in twice] == [pytest.approx(s["loss"], rel=1e-4) for s in plain]


class CapturedError(Exception):
    """The policy and the step with which a training enters its loop."""


@pytest.mark.parametrize("asked", [False, True])
def test_gradient_checkpointing_computes_every_layer_again_in_the_backward_pass(
    small, tmp_path: Path, monkeypatch, asked: bool
):
    def capture(*arguments):
        raise CapturedError(*arguments)

    trainer = PreferenceTrainer(
        small.model,
        out=tmp_path,
        images=small.images,
        progress=Progress("quiet"),
        **{**OPTIONS, "gradient_checkpointing": asked},
    )
    monkeypatch.setattr(trainer, "_run_loop", capture)
    with pytest.raises(CapturedError) as caught:
        trainer.train(small.pairs(2))
    policy, step, _ = caught.value.args
    calls = []
    for number, layer in enumerate(policy.get_base_model().model.language_model.layers):
        layer.mlp.register_forward_pre_hook(lambda module, inputs, number=number: calls.append(number))
    policy.train()
    (rows,) = step.scorer.passes([0, 1])
    step.run(step.scorer.packed(policy), rows, {}, 2.0, 1.0).total.backward()
    assert calls == ([0, 1, 1, 0] if asked else [0, 1])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_bf16_trains(small, tmp_path: Path, tuning: str):
    _, steps = train(small, tmp_path / "bf16", small.pairs(6), bf16=True, tuning=tuning, learning_rate=3e-3)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_dropout_is_drawn_once_for_a_shared_prefix_and_training_still_learns(small, tmp_path: Path):
    _, steps = train(small, tmp_path / "dropout", small.pairs(6), lora_dropout=0.3)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_training_stops_early_and_keeps_the_best(small, tmp_path: Path):
    options = {"eval_fraction": 0.34, "eval_steps": 1, "early_stopping_patience": 2, "max_steps": 30}
    pairs = small.pairs(6)
    _, held = split_held_out(pairs, 0.34, 42)
    for number in held:  # what is held out says the opposite of what is trained on, so margins fall
        pair = pairs[number]
        text = f"a good answer {number}"
        pairs[number] = replace(pair, chosen=replace(pair.chosen, text="words of no use at all"))
        pairs[number] = replace(pairs[number], rejected=(replace(pair.rejected[0], text=text),))
    folder, steps = train(small, tmp_path / "early", pairs, **options)
    margins = [s["eval_rewards/margins"] for s in steps if "eval_rewards/margins" in s]
    best = margins.index(max(margins)) + 1
    assert len(margins) == best + 2 < 30
    assert f"| weights of step (best held-out margin) | {best} |" in (folder / "README.md").read_text()


def test_parts_a_model_does_not_have_are_refused(tmp_path: Path, small):
    import families

    llama = families.build("llama", tmp_path / "llama")
    questions = [replace(p.prompt.messages[0], images=()) for p in small.pairs(3)]
    pairs = [
        replace(p, prompt=replace(p.prompt, messages=(q,))) for p, q in zip(small.pairs(3), questions, strict=True)
    ]
    given = {"images": small.images, "progress": Progress("quiet")}
    with pytest.raises(ConfigError, match="projector_learning_rate: LlamaModel has no projector"):
        PreferenceTrainer(llama, out=tmp_path / "a", projector_learning_rate=1e-4, **given).train(pairs)
    folder = PreferenceTrainer(llama, out=tmp_path / "b", **given, **OPTIONS, **LORA).train(pairs)
    assert (folder / "adapter_model.safetensors").is_file()
