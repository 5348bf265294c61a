"""Scorers of (text, image): values by hand, one item's failure, what is refused."""

import math
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import gelu, layer_norm
from transformers import BlipForImageTextRetrieval, BlipProcessor, CLIPModel, CLIPProcessor

from pairsight.cli.main import main
from pairsight.errors import ModelError
from pairsight.models.load import weights_folder
from pairsight.models.scorers.blip import BlipCosine, BlipMatch
from pairsight.models.scorers.clip import ClipScore
from pairsight.models.scorers.image_reward import ImageReward, pixel_tensor
from pairsight.models.scorers.names import load_image_scorer
from pairsight.records import ImageRef, ItemError
from pairsight.tiny.models.shipped import shipped_scorer
from scorer_folders import bert_tokenizer, pictures, save_blip, save_clip, save_image_reward

torch.set_num_threads(1)
TEXTS = ["a red circle", "two small blue square and a green circle", "the photo"]


def attention(query, key, value, heads):
    """softmax(q kᵀ / √d) v, head by head."""
    width = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        weights = (query[:, at] @ key[:, at].T / math.sqrt(width)).softmax(-1)
        parts.append(weights @ value[:, at])
    return torch.cat(parts, -1)


def image_reward_by_hand(state, ids, pixels):
    """The released network written out for one caption and picture, from the released names."""

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x, eps):
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    v = "blip.visual_encoder"
    side = state[f"{v}.patch_embed.proj.weight"].shape[-1]
    cut = pixels.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).reshape(-1, 3 * side * side)
    kernel = state[f"{v}.patch_embed.proj.weight"]
    patches = cut @ kernel.reshape(len(kernel), -1).T + state[f"{v}.patch_embed.proj.bias"]
    x = torch.cat([state[f"{v}.cls_token"][0], patches]) + state[f"{v}.pos_embed"][0]
    for block in (f"{v}.blocks.0", f"{v}.blocks.1"):
        q, k, values = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(f"{block}.attn.proj", attention(q, k, values, 1))
        x = x + linear(f"{block}.mlp.fc2", gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    seen = norm(f"{v}.norm", x, 1e-6)

    t = "blip.text_encoder"
    words = state[f"{t}.embeddings.word_embeddings.weight"][ids]
    h = norm(
        f"{t}.embeddings.LayerNorm", words + state[f"{t}.embeddings.position_embeddings.weight"][: len(ids)], 1e-12
    )
    for layer in (f"{t}.encoder.layer.0", f"{t}.encoder.layer.1"):
        for part, source in (("attention", None), ("crossattention", seen)):
            other = h if source is None else source
            q = linear(f"{layer}.{part}.self.query", h)
            k, values = linear(f"{layer}.{part}.self.key", other), linear(f"{layer}.{part}.self.value", other)
            mixed = linear(f"{layer}.{part}.output.dense", attention(q, k, values, 2))
            h = norm(f"{layer}.{part}.output.LayerNorm", mixed + h, 1e-12)
        wide = gelu(linear(f"{layer}.intermediate.dense", h))
        h = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", wide) + h, 1e-12)
    reward = h[0]
    for layer in (0, 2, 4, 6, 7):
        reward = linear(f"mlp.layers.{layer}", reward)
    return (reward.item() - 0.16717362830052426) / 1.0333394966054072


def test_image_reward_equals_the_network_written_out(tmp_path):
    folder = save_image_reward(tmp_path / "model")
    images, refs = pictures(tmp_path / "images")
    scorer = ImageReward(folder, images, device="cpu")
    got = [row["image_reward"] for row in scorer.score(list(zip(TEXTS, refs, strict=True)))]
    state = load_file(folder / "ImageReward.safetensors")
    for text, ref, value in zip(TEXTS, refs, got, strict=True):
        ids = torch.tensor(bert_tokenizer()(text)["input_ids"])
        expected = image_reward_by_hand(state, ids, pixel_tensor(images.open(ref), 16))
        assert value == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in got}) == 3


def test_image_reward_cuts_a_caption_at_35_tokens(tmp_path):
    images, refs = pictures(tmp_path / "images")
    scorer = ImageReward(save_image_reward(tmp_path / "model"), images, device="cpu")
    long, longer = " ".join(["red"] * 33), " ".join(["red"] * 33 + ["blue"] * 9)
    short = " ".join(["red"] * 32)
    a, b, c = (row["image_reward"] for row in scorer.score([(long, refs[0]), (longer, refs[0]), (short, refs[0])]))
    assert a == pytest.approx(b, abs=1e-6)
    assert a != pytest.approx(c, abs=1e-4)


def test_pixels_are_scaled_by_the_shorter_side_and_cut_from_the_centre(tmp_path):
    from PIL import Image

    picture = Image.new("RGB", (64, 16))
    picture.paste((255, 0, 0), (24, 0, 40, 16))
    pixels = pixel_tensor(picture, 16)
    assert pixels.shape == (3, 16, 16)
    assert torch.allclose(pixels[0], torch.full((16, 16), (1 - 0.48145466) / 0.26862954))
    assert torch.allclose(pixels[2], torch.full((16, 16), -0.40821073 / 0.27577711))


def test_clip_score_is_the_cosine_of_the_models_own_logits(tmp_path):
    folder = save_clip(tmp_path / "model")
    images, refs = pictures(tmp_path / "images")
    got = [row["clip"] for row in ClipScore(folder, images, device="cpu").score(list(zip(TEXTS, refs, strict=True)))]
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    for text, ref, value in zip(TEXTS, refs, got, strict=True):
        inputs = processor(text=[text], images=[images.open(ref)], return_tensors="pt")
        with torch.no_grad():
            expected = (model(**inputs).logits_per_image / model.logit_scale.exp()).item()
        assert value == pytest.approx(expected, abs=1e-5)


def test_clip_cuts_a_long_text(tmp_path):
    images, refs = pictures(tmp_path / "images")
    scorer = ClipScore(save_clip(tmp_path / "model", max_length=16), images, device="cpu")
    (row,) = scorer.score([(" ".join(["red"] * 99), refs[0])])
    assert -1 <= row["clip"] <= 1


@pytest.mark.parametrize("kind", ["clip", "blip_match", "image_reward"])
def test_a_text_longer_than_the_tiny_scorers_positions_is_cut(tmp_path, kind):
    images, refs = pictures(tmp_path / "images")
    long, longer = "red " * 40, "red " * 40 + "blue"
    rows = load_image_scorer(shipped_scorer(kind), images, "cpu").score([(long, refs[0]), (longer, refs[0])])
    assert rows[0][kind] == pytest.approx(rows[1][kind], abs=1e-6)


@pytest.mark.parametrize(("cls", "column"), [(BlipMatch, "blip_match"), (BlipCosine, "blip_cosine")])
def test_blip_scores_equal_the_models_own_heads(tmp_path, cls, column):
    folder = save_blip(tmp_path / "model")
    images, refs = pictures(tmp_path / "images")
    got = [row[column] for row in cls(folder, images, device="cpu").score(list(zip(TEXTS, refs, strict=True)))]
    model = BlipForImageTextRetrieval.from_pretrained(folder, attn_implementation="eager").eval()
    processor = BlipProcessor.from_pretrained(folder)
    for text, ref, value in zip(TEXTS, refs, got, strict=True):
        inputs = processor(text=[text], images=[images.open(ref)], return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs, use_itm_head=column == "blip_match").itm_score
        expected = (out[0, 1].exp() / out[0].exp().sum()).item() if column == "blip_match" else out.item()
        assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("cls", "save"), [(ImageReward, save_image_reward), (ClipScore, save_clip), (BlipMatch, save_blip)]
)
def test_a_missing_image_is_its_items_error_alone(tmp_path, cls, save):
    images, refs = pictures(tmp_path / "images")
    scorer = cls(save(tmp_path / "model"), images, device="cpu")
    first, second, third = scorer.score([(TEXTS[0], refs[0]), (TEXTS[1], ImageRef("0" * 64)), (TEXTS[2], refs[2])])
    assert isinstance(second, ItemError)
    assert second.reason == "missing_image"
    alone = scorer.score([(TEXTS[2], refs[2])])[0]
    assert third[scorer.column] == pytest.approx(alone[scorer.column], abs=1e-5)
    assert first[scorer.column] != third[scorer.column]
    assert scorer.score([(TEXTS[1], ImageRef("0" * 64))])[0].reason == "missing_image"


def test_a_score_that_is_no_number_is_an_error(tmp_path):
    folder = save_image_reward(tmp_path / "model")
    state = load_file(folder / "ImageReward.safetensors")
    state["mlp.layers.7.bias"] = torch.tensor([float("nan")])
    save_file(state, folder / "ImageReward.safetensors")
    images, refs = pictures(tmp_path / "images")
    (error,) = ImageReward(folder, images, device="cpu").score([(TEXTS[0], refs[0])])
    assert error == ItemError("not_finite", "the scorer gave nan in column image_reward", retryable=False)


def test_a_pickle_is_refused_with_a_command_that_converts_it(tmp_path):
    folder = save_image_reward(tmp_path / "model")
    state = load_file(folder / "ImageReward.safetensors")
    images, refs = pictures(tmp_path / "images")
    expected = ImageReward(folder, images, device="cpu").score([(TEXTS[0], refs[0])])
    (folder / "ImageReward.safetensors").unlink()
    torch.save(state, folder / "ImageReward.pt")
    for given in (folder, folder / "ImageReward.pt"):
        with pytest.raises(ModelError, match=r"pickle.* convert .*: pairsight convert-weights ") as refused:
            ImageReward(given, images, device="cpu")
        assert "\n" not in str(refused.value)
        verb, source, target = shlex.split(str(refused.value).partition(": pairsight ")[2])
        assert main([verb, source, target]) == 0
        assert set(load_file(Path(target) / "model.safetensors")) == set(state)
        assert ImageReward(target, images, device="cpu").score([(TEXTS[0], refs[0])]) == expected


def test_what_the_hub_has_as_a_pickle_is_converted_once_into_the_cache(tmp_path, monkeypatch, caplog):
    """The hub's own cache, laid out as its client does, with the files that zai-org/ImageReward publishes."""
    images, refs = pictures(tmp_path / "images")
    plain = save_image_reward(tmp_path / "plain")
    hub, commit = tmp_path / "hub" / "models--zai-org--ImageReward", "0123456789abcdef" * 2
    snapshot = hub / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(commit)
    torch.save(load_file(plain / "ImageReward.safetensors"), snapshot / "ImageReward.pt")
    (snapshot / "med_config.json").write_text('{"hidden_size": 768}')
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_bytes((plain / name).read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    item = [(TEXTS[0], refs[0])]
    expected = ImageReward(plain, images, device="cpu").score(item)
    for _ in range(2):
        assert ImageReward("zai-org/ImageReward", images, device="cpu").score(item) == expected
    assert caplog.text.count("has only pickled weights: converted, running none of their code") == 1
    (found,) = (tmp_path / "cache" / "pairsight" / "converted").glob("[!.]*")
    assert found.name == "zai-org--ImageReward-0123456789ab"
    assert {"model.safetensors", "med_config.json"} <= {path.name for path in found.iterdir()}
    with pytest.raises(ModelError, match=r"neither \*.safetensors nor pytorch_model.bin"):
        weights_folder("zai-org/ImageReward")


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    images, _ = pictures(tmp_path / "images")
    clip, blip = save_clip(tmp_path / "clip"), save_blip(tmp_path / "blip")
    with pytest.raises(ModelError, match="of type 'blip'; CLIPModel needs clip"):
        ClipScore(blip, images, device="cpu")
    with pytest.raises(ModelError, match="of type 'clip'; BlipForImageTextRetrieval needs blip"):
        BlipMatch(clip, images, device="cpu")
    with pytest.raises(ModelError, match="holds no ImageReward weights"):
        ImageReward(clip, images, device="cpu")
    folder = save_image_reward(tmp_path / "model")
    state = load_file(folder / "ImageReward.safetensors")
    del state["blip.visual_encoder.norm.weight"]
    save_file(state | {"stranger": torch.zeros(1)}, folder / "ImageReward.safetensors")
    with pytest.raises(ModelError, match=r"lacks 1 tensors, e.g. vision.post_layernorm.weight and has 1 unknown"):
        ImageReward(folder, images, device="cpu")


def test_weights_saved_in_half_precision_are_computed_in_single(tmp_path):
    images, _ = pictures(tmp_path / "images")
    folder = save_clip(tmp_path / "clip")
    CLIPModel.from_pretrained(folder).half().save_pretrained(folder)
    assert ClipScore(folder, images, device="cpu").model.dtype == torch.float32
