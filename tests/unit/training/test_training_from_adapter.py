"""A training that goes on from an adapter, with it or the base as reference: as plain peft and torch do it."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from made_tables import pairs_table
from pairsight.cli.main import main
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, ModelError, RunError
from pairsight.models.folders import fingerprint
from pairsight.models.load import load_model, quiet
from pairsight.training.loop import Loop
from pairsight.training.objective import training_config
from pairsight.training.start import Start
from pairsight.training.trainer import PreferenceTrainer

LORA = {"lora_r": 3, "lora_alpha": 6.0, "lora_target_modules": ("q_proj", "down_proj")}
OPTIONS = {
    "beta": 0.5, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_grad_norm": 0.0,
    "per_device_train_batch_size": 4, "report_to": (),
}  # fmt: skip
STRONG = {"learning_rate": 3e-2, "projector_learning_rate": 1e-2, "max_steps": 3}


def train(small, out: Path, **given) -> Path:
    """On four pairs, all of them in each step."""
    pairs = [pair for pair in small.pairs(6) if len(pair.rejected) == 1]
    options = {**OPTIONS, "max_steps": 1, **given}
    trainer = PreferenceTrainer(small.model, out=out, images=small.images, progress=Progress("quiet"), **options)
    return trainer.train(pairs)


@pytest.fixture(scope="module")
def first(small, tmp_path_factory) -> Path:
    """An adapter of two kinds of layers that also holds the trained projector."""
    return train(small, tmp_path_factory.mktemp("first") / "a", **LORA, **STRONG)


def steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def plain(small, adapter: Path | None = None, trainable: bool = False):
    """The base, or the base under an adapter, by transformers and peft alone."""
    with quiet():
        model = AutoModelForImageTextToText.from_pretrained(small.model)
        return model if adapter is None else PeftModel.from_pretrained(model, adapter, is_trainable=trainable)


def log_ratios(model, small) -> torch.Tensor:
    """log π(chosen) − log π(rejected) of the four pairs, sequence by sequence, [4]."""
    with quiet():
        processor = AutoProcessor.from_pretrained(small.model)
    found = []
    for pair in (pair for pair in small.pairs(6) if len(pair.rejected) == 1):
        (message,) = pair.prompt.messages
        content = [{"type": "image"}, {"type": "text", "text": message.text}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        prompt = processor(images=small.images.open(message.images[0]), text=text, return_tensors="pt")
        sums = []
        for completion in (pair.chosen, pair.rejected[0]):
            ids = processor.tokenizer(completion.text, add_special_tokens=False)["input_ids"] + [2]
            row = torch.cat([prompt["input_ids"], torch.tensor([ids])], dim=1)
            logits = model(input_ids=row, pixel_values=prompt["pixel_values"]).logits[0, -len(ids) - 1 : -1]
            sums.append(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())
        found.append(sums[0] - sums[1])
    return torch.stack(found)


def dpo(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.logsigmoid(0.5 * (policy - reference)).mean()


@pytest.mark.parametrize("reference", [pytest.param(None, marks=pytest.mark.long), "base"])
def test_a_step_is_that_of_plain_peft_and_torch(small, first, tmp_path, reference):
    """Its loss, and one step of AdamW, of low-rank weights and projector; with no rate of its own the projector stays.

    With the base as reference the loss is that of two models, else ln 2.
    """
    rates = {} if reference is None else {"projector_learning_rate": 1e-3}
    out = train(
        small, tmp_path / "b", adapter=first, **({} if reference is None else {"reference": reference}), **rates
    )
    policy = plain(small, first, trainable=True)
    if reference is None:
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_("lora_" in name)
    with torch.no_grad():
        fixed = log_ratios(policy if reference is None else plain(small), small)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    loss = dpo(log_ratios(policy, small), fixed)
    loss.backward()
    optimizer.step()
    assert steps(out)[0]["loss"] == pytest.approx(float(loss.detach()), abs=2e-5)
    assert (
        abs(float(loss.detach()) - math.log(2)) > 0.05
        if reference
        else float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6)
    )
    policy.save_pretrained(tmp_path / "plain")
    before, ours, theirs = (load_file(one / "adapter_model.safetensors") for one in (first, out, tmp_path / "plain"))
    assert ours.keys() == theirs.keys() == before.keys()
    moved = torch.cat([(ours[name] - before[name]).flatten() for name in sorted(before)])
    wanted = torch.cat([(theirs[name] - before[name]).flatten() for name in sorted(before)])
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.9999
    assert [bool((ours[n] != before[n]).any()) for n in sorted(before) if "projector" in n] == [reference == "base"] * 4


def test_it_starts_at_log_two_with_the_adapters_rank_scale_layers_and_dropout(small, first, tmp_path):
    out = train(small, tmp_path / "b", adapter=first)
    assert steps(out)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps(out)[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    of_first, of_out = (json.loads((folder / "adapter_config.json").read_text()) for folder in (first, out))
    assert of_out == of_first
    assert of_out["base_model_name_or_path"] == str(small.model)
    note = json.loads((out / "pairsight.json").read_text())
    assert (note["kind"], note["adapter"], note["reference"]) == ("adapter", str(first), "adapter")
    assert note["adapter_fingerprint"] == fingerprint(first)
    assert "adapter" not in json.loads((first / "pairsight.json").read_text())
    assert f"went on from the adapter `{first}`" in (out / "README.md").read_text()
    same = {"lora_r": 3, "lora_alpha": 6, "lora_target_modules": ("down_proj", "q_proj")}
    config = training_config({**same, "lora_dropout": 0.2}, small.model, None, Start.read(first, small.model))
    assert {name: getattr(config, name) for name in same} == same
    assert config.lora_dropout == 0.2


@pytest.mark.long
def test_a_projector_that_the_adapter_lacks_can_be_trained_from_the_base(small, tmp_path):
    first = train(small, tmp_path / "a", lora_r=2)
    out = train(small, tmp_path / "b", adapter=first, projector_learning_rate=1e-3)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, out))
    assert sorted(after.keys() - before.keys())[0].endswith("multi_modal_projector.linear_1.bias")
    load_model(small.model, adapter=out)


@pytest.mark.long
def test_a_tower_that_the_adapter_holds_starts_too_and_stays(small, tmp_path):
    """Its features differ from the base's, so none of either is used for the other."""
    first = train(small, tmp_path / "a", lora_r=2, learning_rate=1e-2, vision_learning_rate=1e-2, max_steps=3)
    out = train(small, tmp_path / "b", adapter=first, reference="base")
    with torch.no_grad():
        expected = dpo(log_ratios(plain(small, first), small), log_ratios(plain(small), small))
    assert steps(out)[0]["loss"] == pytest.approx(float(expected), abs=2e-5)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (first, out))
    towers = [name for name in before if "vision_tower" in name]
    assert len(towers) > 10
    assert all(torch.equal(before[name], after[name]) for name in towers)
    again = train(small, tmp_path / "c", adapter=first)
    assert steps(again)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


class Stopped(Exception):  # noqa: N818
    """Simulates a kill: our code must not catch it."""


@pytest.mark.long
@pytest.mark.parametrize("reference", ["adapter", "base"])
def test_a_stopped_training_resumes_to_the_bit(small, first, tmp_path, monkeypatch, reference):
    given = {"adapter": first, "reference": reference, "max_steps": 2, "save_steps": 1, "projector_learning_rate": 1e-3}
    given["lora_dropout"] = 0.1
    unstopped, out, real = train(small, tmp_path / "unstopped", **given), tmp_path / "b", Loop.training_step

    def until(self, *arguments):
        if self.state.global_step == 1:
            raise Stopped
        return real(self, *arguments)

    monkeypatch.setattr(Loop, "training_step", until)
    with pytest.raises(Stopped):
        train(small, out, **given)
    monkeypatch.setattr(Loop, "training_step", real)
    train(small, out, **given)
    assert [step["loss"] for step in steps(out)] == [step["loss"] for step in steps(unstopped)]
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (out, unstopped))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())
    with pytest.raises(RunError, match=r"adapter_fingerprint 'sha256:.*' here, None asked"):
        train(small, out, **{**given, "adapter": None, "reference": None})


@pytest.mark.long
def test_the_command_goes_on_merges_and_its_adapter_is_used_by_every_verb(small, first, tmp_path, capsys):
    import pyarrow.parquet as pq

    pq.write_table(pairs_table(small.pairs(3), small.images), tmp_path / "pairs.parquet")
    data, model, out = str(tmp_path / "pairs.parquet"), str(small.model), tmp_path / "b"
    align = ["align", data, "--model", model, "--adapter", str(first), "--quiet"]
    assert main([*align, "--dry-run"]) == 0
    assert main([*align, "--out", str(out), "--merge", "--set", "report_to=[]"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert f"adapter: {first}\n" in (out / "selection.yaml").read_text()
    ids = torch.arange(10, 20)[None]
    with quiet():
        merged = AutoModelForImageTextToText.from_pretrained(out / "merged")
    ours = load_model(model, adapter=out)
    torch.testing.assert_close(merged(input_ids=ids).logits, ours(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_the_command_refuses_options_that_the_adapter_contradicts(small, first, tmp_path, capsys):
    align = ["align", str(tmp_path), "--model", str(small.model), "--adapter", str(first), "--quiet"]
    for words, message in [
        (["--set", "lora_r=5"], "lora_r=5 differs from the 3 of adapter"),
        (["--set", "lora_target_modules=[k_proj]"], r"lora_target_modules=('k_proj',) differs from"),
        (["--set", "tuning=full"], "tuning=full trains no adapters"),
        (["--loss", "simpo", "--set", "reference=base"], "reference changes nothing, loss simpo compares with none"),
    ]:
        assert main([*align, "--out", str(tmp_path / "c"), *words]) == 1
        assert message in capsys.readouterr().err
    assert main([*align[:4], "--out", str(tmp_path / "c"), "--set", "reference=base"]) == 1
    assert "reference changes nothing, no adapter is gone on from: give --adapter" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_adapters_that_a_training_cannot_go_on_from_are_refused(small, first, tmp_path):
    def refused(folder, message):
        with pytest.raises(ModelError, match=message):
            train(small, tmp_path / "out", adapter=folder)
        assert not (tmp_path / "out").exists()

    def changed(name, **config):
        folder = shutil.copytree(first, tmp_path / name)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return folder

    refused(tmp_path / "none", "there is no adapter folder")
    refused(small.model, "it is a full model: give it as --model")
    refused(changed("dora", use_dora=True), "has DoRA: a training can go on from plain LoRA only")
    refused(changed("bias", bias="lora_only"), r"has biases \(lora_only\)")
    refused(changed("kind", peft_type="IA3"), "has IA3")
    refused(changed("pissa", init_lora_weights="pissa"), r"has weights that change the base \(pissa\)")
    refused(changed("head", modules_to_save=["lm_head"]), "holds 'lm_head' in full")
    refused(changed("rank", r="many"), "lacks rank or scale")
    unfinished = shutil.copytree(first, tmp_path / "unfinished")
    (unfinished / "pairsight.json").unlink()
    refused(unfinished, "not finished")
    other = changed("other")
    note = json.loads((other / "pairsight.json").read_text())
    (other / "pairsight.json").write_text(json.dumps({**note, "base_fingerprint": "sha256:0"}))
    refused(other, "was trained on another model than")
    cut = changed("cut")
    state = load_file(cut / "adapter_model.safetensors")
    state.pop(next(name for name in sorted(state) if "lora_A" in name))
    save_file(state, cut / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors are in only one of the two, first .*lora_A"):
        train(small, tmp_path / "out2", adapter=cut)
    seeing = get_peft_model(plain(small), LoraConfig(r=2, target_modules=["q_proj"]))
    with quiet():
        seeing.save_pretrained(tmp_path / "seeing")
    refused(tmp_path / "seeing", "has low-rank weights outside the language model, first at .*vision_tower")
    with pytest.raises(ConfigError, match="no adapter is gone on from"):
        train(small, tmp_path / "out", reference="base")
