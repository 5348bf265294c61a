"""Any diffusers text-to-image pipeline: seeds, guidance, filtered and black images, over-long prompts, bad folders."""

import shlex
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pairsight.cli.main import main
from pairsight.errors import MissingExtraError, ModelError
from pairsight.models.images.diffusion import DiffusersGenerator, pipeline_fingerprint, pipeline_folder
from pairsight.records import ItemError
from tiny_pipelines import CLIP_LENGTH, save_stable_diffusion, save_stable_diffusion_3

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "stable_diffusion": save_stable_diffusion(folder / "sd"),
        "stable_diffusion_3": save_stable_diffusion_3(folder / "sd3"),
    }


def pixels(image):
    return np.asarray(image, dtype=int)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3"])
def test_seed_and_guidance_make_the_image_not_the_batch(folders, name):
    generator = DiffusersGenerator(folders[name], num_inference_steps=3, device="cpu")
    texts = ["red", "blue cat"]
    first, second = generator.generate(texts, 5.0, [7, 8])
    assert first.mode == "RGB"
    assert first.size == (16, 16)
    (again,) = generator.generate(["blue cat"], 5.0, [8])
    assert np.abs(pixels(again) - pixels(second)).max() <= 1
    (other_seed,) = generator.generate(["red"], 5.0, [9])
    (other_guidance,) = generator.generate(["red"], 11.0, [7])
    (other_text,) = generator.generate(["blue cat"], 5.0, [7])
    for other in (other_seed, other_guidance, other_text):
        assert np.abs(pixels(other) - pixels(first)).max() > 1


def test_size_and_steps_are_the_callers(folders):
    (image,) = DiffusersGenerator(
        folders["stable_diffusion"], num_inference_steps=2, height=8, width=24, device="cpu"
    ).generate(["red"], 5.0, [0])
    assert image.size == (24, 8)


def test_a_prompt_that_no_text_encoder_reads_whole_is_its_own_error(folders, tmp_path):
    long = "a" * (CLIP_LENGTH - 1)
    generator = DiffusersGenerator(folders["stable_diffusion"], num_inference_steps=2, device="cpu")
    error, image = generator.generate([long, "a" * (CLIP_LENGTH - 2)], 5.0, [0, 0])
    assert error == ItemError("prompt_too_long", "17 tokens; the text encoder reads 16", retryable=False)
    assert isinstance(image, Image.Image)
    assert generator.generate([long], 5.0, [0]) == [error]
    # Stable Diffusion 3's third encoder reads 256 tokens of what the first two cut.
    with_t5 = DiffusersGenerator(folders["stable_diffusion_3"], num_inference_steps=2, device="cpu")
    assert isinstance(with_t5.generate([long], 5.0, [0])[0], Image.Image)
    assert with_t5.generate(["a " * 200], 5.0, [0])[0].detail == "401 tokens; the text encoder reads 256"
    without = save_stable_diffusion_3(tmp_path / "sd3", with_t5=False)
    (error,) = DiffusersGenerator(without, num_inference_steps=2, device="cpu").generate([long], 5.0, [0])
    assert error.reason == "prompt_too_long"


class Filtering:
    """A safety checker that finds fault with the second image, as Stable Diffusion's does: it blackens it."""

    def __call__(self, images, clip_input):
        images = images.clone()
        images[1] = 0
        return images, [False, True]


def test_filtered_and_black_images_are_errors(folders, monkeypatch):
    generator = DiffusersGenerator(folders["stable_diffusion"], num_inference_steps=2, device="cpu")
    monkeypatch.setattr(generator.pipeline, "run_safety_checker", lambda image, device, dtype: Filtering()(image, None))
    fine, filtered = generator.generate(["red", "blue"], 5.0, [0, 1])
    assert isinstance(fine, Image.Image)
    assert filtered.reason == "filtered"
    monkeypatch.setattr(
        generator.pipeline, "run_safety_checker", lambda image, device, dtype: (torch.full_like(image, -1), None)
    )
    (black,) = generator.generate(["red"], 5.0, [0])
    assert black == ItemError("black", "the pipeline returned a black image", retryable=False)


def test_the_fingerprint_is_of_the_contents(folders, tmp_path):
    same = save_stable_diffusion(tmp_path / "same")
    other = save_stable_diffusion(tmp_path / "other", seed=5)
    assert pipeline_fingerprint(same) == pipeline_fingerprint(folders["stable_diffusion"])
    assert pipeline_fingerprint(other) != pipeline_fingerprint(same)
    assert pipeline_fingerprint(same).startswith("sha256:")


def test_what_is_no_pipeline_is_refused_in_one_line(folders, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="there is no model folder"):
        pipeline_folder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        pipeline_folder(tmp_path)
    pickled = save_stable_diffusion(tmp_path / "pickled")
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match=r"part 'unet' has only the pickle .* none of its code: pairsight") as refused:
        pipeline_folder(pickled)
    assert main(shlex.split(str(refused.value).partition(": pairsight ")[2])) == 0
    converted = pipeline_folder(tmp_path / "pickled-safetensors")
    assert pipeline_fingerprint(converted) == pipeline_fingerprint(save_stable_diffusion(tmp_path / "again"))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pairsight\[synthetic\]'"):
        DiffusersGenerator(folders["stable_diffusion"], device="cpu")


def test_a_pipeline_without_text_or_guidance_is_refused(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ModelError, match="takes no prompt and no guidance_scale"):
        DiffusersGenerator(tmp_path / "ddpm", device="cpu")


def test_a_pipelines_own_options_are_used_and_count(tmp_path):
    folder = save_stable_diffusion_3(tmp_path / "sd3", with_t5=False)
    plain = DiffusersGenerator(folder, num_inference_steps=2, device="cpu")
    (folder / "pairsight.json").write_text('{"pipeline_options": {"max_sequence_length": 0}}')
    told = DiffusersGenerator(folder, num_inference_steps=2, device="cpu")
    assert told.fingerprint != plain.fingerprint
    first, second = (one.generate(["red"], 5.0, [0])[0] for one in (plain, told))
    assert np.abs(pixels(first) - pixels(second)).max() > 0
    (folder / "pairsight.json").write_text('{"pipeline_options": 3}')
    with pytest.raises(ModelError, match="pipeline_options must be an object, found int"):
        DiffusersGenerator(folder, device="cpu")
