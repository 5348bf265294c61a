"""The stages of images and scores: weights are freed at the end, or kept when asked; keys depend on contents alone."""

import gc
import pickle
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pairsight.models.images.diffusion import GenerateImages, ImageRequest
from pairsight.models.load import forget_all
from pairsight.models.scorers.stages import ScoreCompletions, ScoreImages
from pairsight.records import Annotation, ImageCandidate
from pairsight.store.blobs import BlobStore
from scorer_folders import completion, pictures, prompt, save_clip, save_sequence_reward
from tiny_pipelines import save_stable_diffusion

torch.set_num_threads(1)


@pytest.fixture
def stages(tmp_path):
    images, refs = pictures(tmp_path / "images")
    pipeline = save_stable_diffusion(tmp_path / "sd")
    clip, reward = save_clip(tmp_path / "clip"), save_sequence_reward(tmp_path / "reward")
    return [
        (GenerateImages(str(pipeline), BlobStore(tmp_path), 2), [ImageRequest("a", "red", 5.0, 1)]),
        (ScoreImages(f"clip:{clip}", images), [("red", refs[0])]),
        (ScoreCompletions(f"sequence:{reward}", images), [(prompt(), completion("red"))]),
    ]


def test_a_stage_frees_its_model_without_waiting_for_the_collector(stages):
    for stage, items in stages:
        gc.collect()
        gc.disable()
        try:
            stage.setup()
            (result,) = list(stage.process(items))
            held = stage._generator if isinstance(stage, GenerateImages) else stage._loaded
            model = held.pipeline.unet if isinstance(stage, GenerateImages) else getattr(held, "model", None)
            watch = weakref.ref(model)
            del held, model
            stage.close()
            assert watch() is None
        finally:
            gc.enable()
        assert isinstance(result, stage.output)


def test_a_kept_model_is_the_same_in_the_next_stage(tmp_path):
    images, _ = pictures(tmp_path / "images")
    name = f"clip:{save_clip(tmp_path / 'clip')}"
    first, second = (ScoreImages(name, images, keep_loaded=True) for _ in range(2))
    first.setup()
    kept = first._loaded
    first.close()
    second.setup()
    assert second._loaded is kept
    forget_all()
    third = ScoreImages(name, images)
    third.setup()
    assert third._loaded is not kept


def test_keys_are_of_contents(stages, tmp_path):
    for stage, (item,) in stages:
        assert stage.key(item) == pickle.loads(pickle.dumps(stage)).key(item)
        assert str(tmp_path) not in str(stage.key(item))
        assert stage.item_id(item)
    drawing, _ = stages[0]
    moved = shutil.copytree(tmp_path / "sd", tmp_path / "moved")
    item = ImageRequest("a", "red", 5.0, 1)
    other = GenerateImages(str(moved), drawing.blobs, 2)
    assert other.key(item) == drawing.key(ImageRequest("b", "red", 5.0, 1))
    for changed in ({"text": "blue"}, {"guidance_scale": 7.0}, {"seed": 2}):
        assert drawing.key(replace(item, **changed)) != drawing.key(item)
    assert GenerateImages(str(moved), drawing.blobs, 3).key(item) != drawing.key(item)
    assert GenerateImages(str(moved), drawing.blobs, 2, size=16).key(item) != drawing.key(item)


def test_images_lie_among_the_blobs_and_scores_carry_their_scorer(stages, tmp_path):
    (drawing, requests), _, (rating, rated) = stages
    drawing.setup()
    made = list(drawing.process([*requests, ImageRequest("a", "red", 9.0, 1)]))
    assert [one.guidance_scale for one in made] == [5.0, 9.0]
    assert all(isinstance(one, ImageCandidate) and BlobStore(tmp_path).lost([one.image]) == [] for one in made)
    rating.setup()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "reward")(
        "user what is in this photo</s>assistant red</s>", add_special_tokens=False, return_tensors="pt"
    )
    with torch.no_grad():
        reward = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")(**tokens).logits.item()
    assert abs(reward) > 0.01
    assert list(rating.process(rated)) == [Annotation("p:0", "sequence", {"reward": pytest.approx(reward, abs=1e-5)})]


def test_a_judges_items_are_known_by_how_it_is_asked_too(tmp_path, monkeypatch):
    reward = save_sequence_reward(tmp_path / "model")
    plain = ScoreCompletions(f"sequence:{reward}", None).weights()["weights"]
    judge = ScoreCompletions(f"vlm:{reward}", None).weights()["weights"]
    assert plain.startswith("sha256:")
    assert judge.startswith("annotator:")
    monkeypatch.setattr("pairsight.models.annotation.vlm_annotator.READING_VERSION", -1)
    assert ScoreCompletions(f"vlm:{reward}", None).weights()["weights"] != judge
    assert ScoreCompletions(f"sequence:{reward}", None).weights()["weights"] == plain
