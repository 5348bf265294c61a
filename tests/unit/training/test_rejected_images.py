"""A rejected completion that a dataset gives on other images is trained on these; checked with plain transformers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

import preference_pairs
from pairsight.formats.datasets.reading import read_records
from pairsight.models.local.processor import load_processor
from pairsight.records import PreferencePair
from pairsight.store.tensors import read_tensors
from pairsight.training.config import TrainingConfig
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
    """The log-prob of a completion on an image, by the model's own forward pass."""
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
    return float(logps[torch.arange(len(said)), torch.tensor(said)].sum())


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

    drawn = [replace(pairs[0], rejected=(replace(pairs[0].rejected[0], derived_from=None),))]
    on_the_prompt = sorted(plain_sum(folder, "0.png", text) for text in TEXTS)
    got = aligned(folder, drawn, records.images, tmp_path / "drawn")
    assert got == pytest.approx(on_the_prompt, abs=1e-4), (
        "what a model drew on another image is trained on the prompt's"
    )
    assert not np.allclose(got, wanted[:2], atol=1e-3)
