"""Pairs as others publish them, trained: other images of the rejected completion, log-probs of another reference.

What is expected is computed with plain transformers.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

import preference_pairs
from pairsight.cli.main import main
from pairsight.formats.datasets.format import GivenLogps
from pairsight.formats.datasets.reading import Reading, read_records
from pairsight.models.local.processor import load_processor
from pairsight.records import PreferencePair
from pairsight.store.tensors import read_tensors
from pairsight.training.config import TrainingConfig
from pairsight.training.data.given_reference import compared
from pairsight.training.trainer import PreferenceTrainer

TEXTS = ("a good answer", "a bad answer")


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = preference_pairs.base(tmp_path_factory.mktemp("rejected"))
    row = {"messages": messages(TEXTS[0]), "images": ["0.png"], "rejected_response": TEXTS[1],
           "rejected_images": ["1.png"]}  # fmt: skip
    same_text = {"messages": messages(TEXTS[0]), "images": ["2.png"], "rejected_images": ["3.png"]}
    (base / "images" / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (row, same_text)))
    return base


def plain_sum(folder: Path, image: str, text: str) -> float:
    return sum(plain_logps(folder, image, text))


def plain_logps(folder: Path, image: str, text: str) -> list[float]:
    """The log-probs of a completion's tokens on an image, by the model's own forward pass."""
    processor = load_processor(folder / "model")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
    inputs = processor(text=prompt, images=Image.open(folder / "images" / image).convert("RGB"), return_tensors="pt")
    said = [*processor.tokenizer(text, add_special_tokens=False).input_ids, processor.tokenizer.eos_token_id]
    ids = torch.cat([inputs["input_ids"], torch.tensor([said])], dim=1)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=inputs["pixel_values"]).logits
    logps = logits[0, -len(said) - 1 : -1].log_softmax(-1)
    found: list[float] = logps[torch.arange(len(said)), torch.tensor(said)].tolist()
    return found


def reference_sums(out: Path) -> list[float]:
    """The sums in the reference's files."""
    found = []
    for file in (out / "references").glob("*.safetensors"):
        tensors, _ = read_tensors(file)
        ends = np.cumsum(tensors["lengths_M"])
        found += [float(part.sum()) for part in np.split(np.asarray(tensors["logps_Z"]), ends[:-1])]
    return sorted(found)


def aligned(folder: Path, pairs: list[PreferencePair], images: object, out: Path) -> list[float]:
    config = TrainingConfig(loss="dpo", max_steps=1, lora_r=2, lora_alpha=4)
    PreferenceTrainer(folder / "model", out=out, images=images, config=config).train(pairs)
    return reference_sums(out)


def test_each_completion_is_scored_on_its_own_image(folder: Path, tmp_path: Path):
    records = read_records(folder / "images" / "rows.jsonl")
    pairs = list(records)
    wanted = sorted(
        plain_sum(folder, image, text)
        for image, text in (("0.png", TEXTS[0]), ("1.png", TEXTS[1]), ("2.png", TEXTS[0]), ("3.png", TEXTS[0]))
    )
    assert aligned(folder, pairs, records.images, tmp_path / "own") == pytest.approx(wanted, abs=1e-4)


@pytest.mark.long
def test_what_a_model_drew_on_another_image_is_trained_on_the_prompts(folder: Path, tmp_path: Path):
    records = read_records(folder / "images" / "rows.jsonl")
    first = records[0]
    drawn = [replace(first, rejected=(replace(first.rejected[0], derived_from=None),))]
    on_the_prompt = sorted(plain_sum(folder, "0.png", text) for text in TEXTS)
    assert aligned(folder, drawn, records.images, tmp_path) == pytest.approx(on_the_prompt, abs=1e-4)


def test_log_probs_that_a_dataset_brings_are_compared_with_ours(folder: Path, tmp_path: Path, capsys):
    rows = []
    for number, shift in ((0, 0.0), (1, 0.0), (2, 0.0)):
        row = {"id": f"x{number}", "image": f"{number}.png", "question": {"from": "human", "value": "What is it?"}}
        for name, side, text in (("chosen", "win", TEXTS[0]), ("rejected", "rej", TEXTS[1])):
            logps = [one + shift for one in plain_logps(folder, f"{number}.png", text)]
            row |= {name: {"from": "gpt", "value": text}, f"ref_{side}_logp": sum(logps),
                    f"ref_{side}_avg_logp": sum(logps) / len(logps), f"ref_{side}_per_token_logp": logps}  # fmt: skip
        rows.append(row)
    file = tmp_path / "rows.json"
    arguments = ["align", str(file), "--images", str(folder / "images"), "--model", str(folder / "model"), "--quiet",
                 "--set", "max_steps=1", "--set", "lora_r=2", "--set", "lora_alpha=4"]  # fmt: skip
    file.write_text(json.dumps(rows))
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "mllm-dpo: columns question{from, value}, chosen{from, value}, rejected{from, value}, id, image" in said
    assert "over 6 completions" in said and "it is the same reference" in said, said

    given = read_records(file, Reading(images=str(folder / "images"))).references
    others = [replace(one, chosen=shifted(one.chosen)) for one in given]
    said = compared(tmp_path / "a", others)
    assert "sums by +1.5 on average, +3 at most over 6 completions; means a token by +0.25 on average, +0.5 at" in said
    assert "3 completions have another number of tokens: another model, template or processor" in said
    assert compared(tmp_path / "a", []) == "" and "were not compared" in compared(tmp_path / "gone", others)


def shifted(one: GivenLogps) -> GivenLogps:
    """What another reference would say: lower by 3 in all, by half a nat a token, with one token more."""
    return GivenLogps(one.total - 3.0, one.average - 0.5, (*one.tokens, -1.0))
