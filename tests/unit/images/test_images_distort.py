import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pairsight.errors import ConfigError, DataError
from pairsight.images.distort import apply_normalised, distort, make_distortion, preview, signal_and_noise

torch.set_num_threads(1)
IN_IMAGE = ("random_flip", "random_resized_crop", "autoaugment", "moco_v2")


def picture(width: int = 20, height: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("step", "signal", "noise"),
    [(200, 0.99388, 0.11048), (500, 0.86302, 0.50517), (800, 0.46701, 0.88425), (999, 0.28504, 0.95851)],
)
def test_signal_and_noise_of_the_schedule(step, signal, noise):
    assert signal_and_noise(step) == pytest.approx((signal, noise), abs=6e-6)


def test_schedule_equals_its_formula_in_torch():
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.005 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, 0)
    for step in (0, 1, 499, 999):
        assert signal_and_noise(step)[0] == pytest.approx(kept[step].sqrt().item(), abs=1e-12)


def test_noise_is_elementwise_seeded_and_keeps_dtype():
    distortion = make_distortion("diffusion", 5, step=500)
    x = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    noisy = apply_normalised(x, distortion)
    epsilon = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(noisy, 0.86302 * x + 0.50517 * epsilon, atol=5e-5)
    assert torch.equal(noisy, apply_normalised(x, distortion))
    assert not torch.equal(noisy, apply_normalised(x, make_distortion("diffusion", 6, step=500)))
    flat = apply_normalised(x.reshape(6, 64), distortion)
    assert torch.equal(flat.reshape(x.shape), noisy)
    assert apply_normalised(x.bfloat16(), distortion).dtype == torch.bfloat16


def test_noise_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    first = torch.rand(2)
    torch.manual_seed(3)
    apply_normalised(torch.zeros(3, 4, 4), make_distortion("diffusion_weak", 1))
    distort(picture(), make_distortion("moco_v2", 1))
    assert torch.equal(first, torch.rand(2))


@pytest.mark.parametrize("name", IN_IMAGE)
@pytest.mark.parametrize("size", [(20, 12), (1, 1), (2, 1), (3, 50)])
def test_same_seed_same_picture_at_every_size(name, size):
    image = picture(*size)
    pictures = [np.asarray(distort(image, make_distortion(name, seed))) for seed in (0, 1, 2, 0)]
    assert pictures[0].shape == (size[1], size[0], 3)
    assert np.array_equal(pictures[0], pictures[3])


@pytest.mark.parametrize("name", IN_IMAGE[1:])
def test_other_seed_other_picture(name):
    image = picture(32, 32)
    pictures = {distort(image, make_distortion(name, seed)).tobytes() for seed in range(8)}
    assert len(pictures) >= 4


def test_flip_mirrors_left_and_right():
    flipped = np.asarray(distort(picture(), make_distortion("random_flip", 7)))
    assert np.array_equal(flipped, np.asarray(picture())[:, ::-1])


def test_crop_shows_a_part():
    ramp = np.zeros((40, 40, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(40)[None] * 6
    spans = []
    for seed in range(20):
        row = np.asarray(distort(Image.fromarray(ramp), make_distortion("random_resized_crop", seed)))[20, :, 0]
        spans.append(int(row.max()) - int(row.min()))
    assert min(spans) < 120
    assert max(spans) <= 234


def test_grey_share_of_moco_is_a_fifth():
    image = Image.new("RGB", (4, 4), (200, 40, 90))
    greys = 0
    for seed in range(200):
        red, green, blue = distort(image, make_distortion("moco_v2", seed)).getpixel((2, 2))
        greys += red == green == blue
    assert 22 <= greys <= 62  # 40 expected, ± 4 standard deviations of 5.7


def test_threads_do_not_disturb_each_other():
    image, results = picture(16, 16), {}

    def work(seed: int) -> None:
        results[seed] = distort(image, make_distortion("autoaugment", seed)).tobytes()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        assert results[seed] == distort(image, make_distortion("autoaugment", seed)).tobytes()


@pytest.mark.parametrize("name", ["random_resized_crop", "moco_v2", "autoaugment"])
def test_the_number_of_torch_threads_changes_no_pixel(name):
    image, results = picture(320, 240), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append([distort(image, make_distortion(name, seed)).tobytes() for seed in range(4)])
    torch.set_num_threads(1)
    assert results[0] == results[1]


def test_presets_are_steps():
    assert make_distortion("diffusion_weak").parameters == {"step": 800}
    assert make_distortion("diffusion_strong").parameters == {"step": 999}
    assert make_distortion("diffusion_weak", step=500) == make_distortion("diffusion", step=500)
    assert make_distortion("diffusion").space == "normalised"


def test_wrong_names_parameters_and_spaces():
    with pytest.raises(ConfigError, match="did you mean 'diffusion_weak'"):
        make_distortion("difusion_weak")
    with pytest.raises(ConfigError, match="takes: none"):
        make_distortion("random_flip", step=3)
    for step in (-1, 1000, 2.5):
        with pytest.raises(ConfigError, match="0…999"):
            make_distortion("diffusion", step=step)
    with pytest.raises(DataError, match="preview"):
        distort(picture(), make_distortion("diffusion"))
    with pytest.raises(DataError, match="distort"):
        apply_normalised(torch.zeros(3, 2, 2), make_distortion("random_flip"))


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 999), seed=st.integers(0, 2**31 - 1))
def test_preview_is_a_picture_of_the_same_size(step, seed):
    image = picture(9, 7)
    shown = preview(image, make_distortion("diffusion", seed, step=step))
    assert (shown.size, shown.mode) == (image.size, "RGB")


def test_preview_of_hardly_any_noise_is_the_picture():
    shown = np.asarray(preview(picture(), make_distortion("diffusion", step=0)), dtype=int)
    assert np.abs(shown - np.asarray(picture(), dtype=int)).max() <= 3
