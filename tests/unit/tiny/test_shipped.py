"""The shipped models: small, loaded by plain transformers, useful on the world and unbroken by anything else."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pairsight.errors import ModelError
from pairsight.models.folders import base_of_adapter
from pairsight.models.load import load_model
from pairsight.tiny.models.shipped import ADAPTERS, MODELS, SCORERS, shipped_model, shipped_pipeline, shipped_scorer
from pairsight.tiny.train.measure import benchmark_set, complete, measure
from pairsight.tiny.train.scorer_card import measure_scorers
from pairsight.tiny.world.world_files import write_world


@pytest.fixture(scope="module")
def base():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = shipped_model("base")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def test_all_weights_together_are_at_most_twelve_megabytes():
    sizes = [path.stat().st_size for name in MODELS for path in shipped_model(name).glob("*.safetensors")]
    assert len(sizes) == len(MODELS)
    assert sum(sizes) <= 12e6


def test_the_pipeline_and_the_scorers_are_at_most_ten_megabytes():
    folders = [shipped_pipeline(), *(Path(shipped_scorer(kind).partition(":")[2]) for kind in SCORERS)]
    assert all((folder / "README.md").is_file() for folder in folders)
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()) <= 10e6


def test_the_scorers_beat_chance_and_those_that_look_by_far():
    found = measure_scorers(shipped_pipeline().parent, num_scenes=60)
    assert min(found["blip"], found["image_reward"]) > 0.85
    assert min(found["clip"], found["reward"]) > 0.55
    with pytest.raises(ModelError, match="no tiny scorer of the kind 'armorm'"):
        shipped_scorer("armorm")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_names_its_training_preset_and_has_a_card(name):
    folder = shipped_model(name)
    assert json.loads((folder / "pairsight.json").read_text()) == {"training_preset": "tiny"}
    assert "## Measured" in (folder / "README.md").read_text()


def test_an_unknown_model_is_refused():
    with pytest.raises(ModelError, match="unknown tiny model 'huge'; known: base"):
        shipped_model("huge")


def test_the_base_is_useful_and_imperfect(base):
    asked = benchmark_set("validation", 20, 21)
    scores = measure(asked, complete(*base, asked))
    assert 0.6 < scores["accuracy"] < 0.95
    assert scores["recall"] > 0.75
    assert 0.02 < scores["chair_i"] < 0.4
    assert scores["text_accuracy"] > 0.5


def test_four_models_answer_differently_and_the_careful_one_makes_up_least(base):
    asked = [one for one in benchmark_set("validation", 25, 0) if one.question.kind == "caption"]
    said = {}
    for name in ("base", "second", *ADAPTERS):
        folder = shipped_model(name)
        under = base_of_adapter(folder)
        model = load_model(under or folder, adapter=folder if under else None, dtype="float32")
        said[name] = complete(model, base[1], asked)
    assert all(sum(a == b for a, b in zip(said[x], said[y], strict=True)) < 20 for x, y in combinations(said, 2))
    scores = {name: measure(asked, texts) for name, texts in said.items()}
    assert min(scores, key=lambda name: scores[name]["chair_i"]) == "careful"
    assert min(scores, key=lambda name: scores[name]["recall"]) == "terse"


def test_a_photograph_and_a_foreign_question_do_no_harm(base):
    model, processor = base
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (337, 451, 3), dtype=np.uint8))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Qué ves? 日本 🙂"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=text, images=photo, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert isinstance(processor.decode(made[0, inputs["input_ids"].shape[1] :]), str)


def test_a_world_carries_a_copy_of_the_model(tmp_path):
    world = write_world(tmp_path / "w", 1, model="base")
    assert (world / "model" / "model.safetensors").read_bytes() == (
        shipped_model("base") / "model.safetensors"
    ).read_bytes()
