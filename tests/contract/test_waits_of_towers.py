"""No vision tower makes the CPU wait for its device, and what it gives is what `get_image_features` alone gives.

The device is PyTorch's `privateuseone`, to which tensors without values can belong on every machine. What registers it
holds for the process, so the towers run in a fork of this one.
"""

import multiprocessing
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import families
from cuda_walk import Walk
from pairsight.images.source import FileImages
from pairsight.models.load import load_model
from pairsight.models.local.processor import load_processor
from pairsight.records import Message, Prompt
from pairsight.training.config import TrainingConfig
from pairsight.training.families import describe, inner_model
from pairsight.training.forecast.fake_training import Device, base_without_weights
from pairsight.training.policy import open_parts
from pairsight.training.vision.units import ImageUnits, TextEncoder

BY_GRID = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
IN_TRANSFORMERS = {"idefics3": 7, "smolvlm": 7}
"""Two selections of images that are not padding, of pixels and masks, and three images' numbers."""
SIZES = [(28, 28), (40, 28), (28, 60)]


def image_units(model: Any, folder: Path) -> ImageUnits:
    """Three images of a family's folder."""
    (folder / "images").mkdir(exist_ok=True)
    pixels = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        Image.fromarray(pixels.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"images/{number}.png")
    images = FileImages(folder / "images")
    text = TextEncoder(load_processor(folder / "model"), images)
    units = ImageUnits(text, describe(model).placeholder, 64)
    for number in range(len(SIZES)):
        units.add(Prompt(str(number), (Message("user", "What?", (images.ref(f"{number}.png"),)),)))
    return units


def on_the_device(model: Any) -> None:
    """Replace a model's tensors, inside a run, by those of the device."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    made = torch.empty(tensor.shape, dtype=tensor.dtype, device="privateuseone:0")
                    trained = tensors is module._parameters
                    tensors[name] = torch.nn.Parameter(made, requires_grad=False) if trained else made


def count(names: tuple[str, ...], folder: Path, out: Connection) -> None:
    """Send, in a process of its own, where each family's tower waits, with its projector and without."""
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend()
    config = TrainingConfig(bf16=False, projector_learning_rate=1e-4)
    for name in names:
        run = Walk()
        with mock.patch.object(FakeTensorMode, "avoid_device_init", new=True), run:
            model = base_without_weights(str(folder / name / "model"), config, Device(True, 2**33).precision(config))
            on_the_device(model)
            units = image_units(model, folder / name)
            run.take()
            with torch.no_grad():
                (*_, features) = units.features(model, range(len(SIZES)), frozen=True)
                frozen = run.take().waits
                projectors = open_parts(model, config)["projector"]
                for _ in range(2):
                    units.features(model, [0], frozen=False, projectors=projectors)
        out.send((features.embeddings.device.type, frozen, run.take().waits))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    for name in BY_GRID:
        families.build(name, folder / name / "model")
    return folder


OTHERS = tuple(name for name in families.IMAGE_FAMILIES if name not in BY_GRID)


@pytest.mark.parametrize("names", [BY_GRID, pytest.param(OTHERS, marks=pytest.mark.long)])
def test_no_tower_waits_for_its_device(names: tuple[str, ...], built: Path):
    for name in names:
        if not (built / name).exists():
            families.build(name, built / name / "model")
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=count, args=(names, built, theirs))
    process.start()
    theirs.close()
    found: dict[str, tuple[str, Counter[str], Counter[str]]] = {name: ours.recv() for name in names}
    process.join()
    for name, (device, frozen, projected) in found.items():
        assert device == "privateuseone"
        assert frozen.total() == IN_TRANSFORMERS.get(name, 0), (name, frozen)
        if name not in IN_TRANSFORMERS:
            assert not projected, (name, projected)


@pytest.mark.parametrize("name", BY_GRID)
def test_what_is_computed_of_a_grid_beforehand_changes_no_bit(name: str, built: Path):
    model = load_model(built / name / "model", dtype="float32", device="cpu")
    units = image_units(model, built / name)
    with torch.no_grad():
        features = units.features(model, range(len(SIZES)), frozen=True)
        tensors = [units._tensors(unit) for unit in range(len(SIZES))]
        joined = {key: torch.cat([one[key] for one in tensors]) for key in ("pixel_values", "image_grid_thw")}
        expected = inner_model(model).get_image_features(**joined, return_dict=True)
    assert torch.equal(torch.cat([one.embeddings for one in features]), torch.cat(list(expected.pooler_output)))
    for layer, other in enumerate(expected.get("deepstack_features", [])):
        assert torch.equal(torch.cat([one.deepstack[layer] for one in features]), torch.cat(list(other)))
