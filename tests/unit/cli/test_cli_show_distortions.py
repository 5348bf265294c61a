from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pairsight.cli.main import main
from pairsight.images.contact_sheet import STEPS, views
from pairsight.images.distort import AUGMENTATIONS


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_every_augmentation_and_noise_step_of_one_image(image, capsys):
    assert main(["show", "distortions", str(image)]) == 0
    sheet = Image.open(image.with_name("a-distortions.png"))
    count = 1 + len(AUGMENTATIONS) + len(STEPS)
    assert f"{count} pictures" in capsys.readouterr().out
    assert sheet.size == (4 * 230 + 6, -(-count // 4) * 246 + 6)
    original = np.asarray(Image.open(image))
    assert np.array_equal(np.asarray(sheet)[22:46, 6:46], original), "the image itself comes first"
    assert np.array_equal(np.asarray(sheet)[22:46, 236:276], original[:, ::-1]), "then the flipped one"


def test_chosen_ones_and_their_views(image):
    out = image.with_name("sheet.png")
    words = ["--distortion", "moco_v2+diffusion:500", "--views", "3", "--side", "32", "--seed", "5", "--out", str(out)]
    assert main(["show", "distortions", str(image), *words]) == 0
    assert Image.open(out).size == (4 * 38 + 6, 54 + 6)
    labels = [one.label for one in views(Image.open(image), ["random_resized_crop"], seed=5, views_each=2)]
    assert labels == ["original", "random_resized_crop, seed 5", "random_resized_crop, seed 6"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--distortion", "moco"], "unknown distortion 'moco'; did you mean 'moco_v2'"),
        (["--out", "x.jpg"], "must end in .png"),
        (["--out", "nowhere/x.png"], "a folder that is there"),
    ],
)
def test_what_cannot_be_shown_is_said(image, capsys, words, message):
    assert main(["show", "distortions", str(image), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_an_image(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"x")
    assert main(["show", "distortions", str(tmp_path / "a.png")]) == 1
    assert "is damaged, or not a picture" in capsys.readouterr().err
