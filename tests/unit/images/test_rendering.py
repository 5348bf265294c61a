"""Noise drawn as a picture, against the formula of the paper and a plain CLIP processor of transformers."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from pairsight.errors import ConfigError
from pairsight.images.distort import CLIP_MEAN, CLIP_STD, before_processor, make_distortion
from pairsight.images.rendering import RENDERINGS, Rendering, render, rendered, rendering_for, rendering_of, shift

SIGNAL, NOISE = 0.46701, 0.88425
"""√ᾱ and √(1 − ᾱ) at step 800."""


def picture(width=60, height=40):
    values = np.random.default_rng(3).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def processed(image, **options):
    processor = CLIPImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_mean=CLIP_MEAN, image_std=CLIP_STD
    )
    return processor(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("size", [(60, 40), (40, 61), (336, 336)])
def test_a_server_s_processor_leaves_it_as_it_is(size):
    image = picture(*size)
    distortion = rendered(make_distortion("diffusion_weak", seed=5), Rendering())
    sent = render(image, distortion)
    assert (sent.size, distortion.parameters, distortion.space) == ((336, 336), {"step": 800, "size": 336}, "rendered")
    epsilon = torch.randn((3, 336, 336), generator=torch.Generator().manual_seed(5)).numpy()
    unclipped = SIGNAL * processed(image) + NOISE * epsilon
    mean, std = (np.array(one)[:, None, None] for one in (CLIP_MEAN, CLIP_STD))
    by_hand = ((unclipped * std + mean).clip(0, 1) * 255).round()
    received = np.asarray(sent).transpose(2, 0, 1).astype(float)
    assert np.abs(received - by_hand).max() <= 1, "rounding of constants with five digits"
    seen = processed(sent)
    np.testing.assert_allclose(seen, (received / 255 - mean) / std, atol=1e-5)
    greatest, average = shift(image, distortion)
    assert greatest == pytest.approx(np.abs(seen - unclipped).max(), abs=2e-3)
    assert average == pytest.approx(np.abs(seen - unclipped).mean(), abs=2e-3)
    assert average > 0.01, "clipping is no small thing at step 800: it is measured, not assumed away"


def test_little_noise_on_grey_shifts_by_rounding_alone():
    distortion = rendered(make_distortion("diffusion:0", seed=5), Rendering())
    greatest, _ = shift(Image.new("RGB", (9, 9), (128, 128, 128)), distortion)
    assert greatest <= 0.5 / 255 / min(CLIP_STD) + 1e-5


def test_pad_and_stretch():
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    step = make_distortion("diffusion:0", seed=1)
    padded = np.asarray(render(wide, rendered(step, RENDERINGS["llava-1.5-pad"])))
    np.testing.assert_allclose(padded[0, 168], [int(one * 255) for one in CLIP_MEAN], atol=3)
    np.testing.assert_allclose(padded[168, 168], [255, 0, 0], atol=3)
    gemma = rendered(step, RENDERINGS["gemma-3"])
    assert render(wide, gemma).size == (896, 896)
    assert rendering_of(gemma) == RENDERINGS["gemma-3"], "a record says all that made the picture"
    assert all(rendering_of(rendered(step, one)) == one for one in RENDERINGS.values())


def test_bad_renderings():
    for values in ({"size": 3}, {"fit": "zoom"}, {"std": (0, 1, 1)}, {"mean": (0.5, 0.5)}):
        with pytest.raises(ConfigError):
            Rendering(**values)


def test_compositions_come_one_after_the_other():
    image = picture()
    both = make_distortion("random_flip+random_resized_crop", seed=4)
    assert (both.name, both.space) == ("random_flip+random_resized_crop", "image")
    assert before_processor(image, both).size == image.size
    flipped = make_distortion("random_flip+diffusion_weak", seed=4)
    assert (flipped.name, flipped.parameters, flipped.space) == ("random_flip+diffusion", {"step": 800}, "normalised")
    assert np.array_equal(before_processor(image, flipped), np.asarray(image)[:, ::-1])
    mirrored = Image.fromarray(np.asarray(image)[:, ::-1].copy())
    alone = rendered(make_distortion("diffusion_weak", seed=4), Rendering())
    assert np.array_equal(render(image, rendered(flipped, Rendering())), render(mirrored, alone))
    for name in ("diffusion+random_flip", "random_flip+random_flip", "diffusion:50x", "moco_v2:5", "diffusion:1000"):
        with pytest.raises(ConfigError):
            make_distortion(name)


def test_a_model_s_folder_says_its_square(tmp_path):
    from transformers import Gemma3ImageProcessor, Qwen2VLImageProcessor, SiglipImageProcessor

    square = {"height": 336, "width": 336}
    makers = {
        "clip": (CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=square), Rendering()),
        "siglip": (SiglipImageProcessor(size={"height": 448, "width": 448}), RENDERINGS["paligemma-448"]),
        "gemma": (Gemma3ImageProcessor(size={"height": 896, "width": 896}), RENDERINGS["gemma-3"]),
        "qwen": (Qwen2VLImageProcessor(), RENDERINGS["qwen2-vl"]),
    }
    for name, (processor, expected) in makers.items():
        processor.save_pretrained(tmp_path / name)
        assert rendering_for(tmp_path / name) == expected, name
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles/preprocessor_config.json").write_text(
        '{"size": {"height": 4, "width": 4}, "crop_to_patches": true}'
    )
    (tmp_path / "old").mkdir()
    (tmp_path / "old/preprocessor_config.json").write_text('{"do_center_crop": true, "size": 336, "crop_size": 336}')
    assert rendering_for(tmp_path / "old") == Rendering()
    for folder, message in (("tiles", "cuts pictures into tiles"), (".", "has no image processor with a square size")):
        with pytest.raises(ConfigError, match=message):
            rendering_for(tmp_path / folder)
