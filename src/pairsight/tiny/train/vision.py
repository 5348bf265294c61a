"""Stage 1: the vision tower learns what is in each patch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pairsight.tiny.models.architecture import PATCH_SIZE
from pairsight.tiny.train.resumable import Log, Stepper
from pairsight.tiny.world.noise import pixels
from pairsight.tiny.world.render import IMAGE_SIZE
from pairsight.tiny.world.scenes import COLOURS, SHAPES, Scene, scenes, stream

_SIDE = IMAGE_SIZE // PATCH_SIZE
_PATCHES_A_CELL = _SIDE // 3
_NOISED, _MAX_STEP = 0.25, 600


def patch_labels(scene: Scene) -> np.ndarray[Any, np.dtype[np.int64]]:
    """What each patch shows, 3 × 36: colour (0 none, 1–6), shape (0 none, 1–5), grid cell (0–8)."""
    rows, columns = np.divmod(np.arange(_SIDE * _SIDE), _SIDE)
    cells = 3 * (rows // _PATCHES_A_CELL) + columns // _PATCHES_A_CELL
    colours, shapes = np.zeros_like(cells), np.zeros_like(cells)
    for thing in scene.things:
        colours[cells == thing.cell] = 1 + COLOURS.index(thing.colour)
        shapes[cells == thing.cell] = 1 + SHAPES.index(thing.shape)
    return np.stack([colours, shapes, cells])


def train_vision(model: Any, seed: int, steps: int, log: Log, batch_size: int = 64) -> None:
    """Train the vision tower in place on per-patch labels of `steps` × `batch_size` fresh scenes.

    Args:
        model: a `LlavaForConditionalGeneration`.
        seed: of the scenes.
        steps: optimiser steps; peak learning rate 1.5e-3.
        log: called with progress lines.
    """
    tower = model.model.vision_tower
    heads = torch.nn.ModuleList(
        torch.nn.Linear(tower.config.hidden_size, n) for n in (len(COLOURS) + 1, len(SHAPES) + 1, 9)
    )
    stepper = Stepper([{"params": [*tower.parameters(), *heads.parameters()], "lr": 1.5e-3}], steps)
    for step in range(steps):
        images, labels = _batch(seed, step, batch_size)
        hidden = tower(pixel_values=images).last_hidden_state[:, 1:]
        losses = [
            torch.nn.functional.cross_entropy(head(hidden).flatten(0, 1), labels[:, i].flatten())
            for i, head in enumerate(heads)
        ]
        loss = losses[0] + losses[1] + 0.3 * losses[2]
        stepper.step(loss)
        if step % 50 == 0 or step == steps - 1:
            shown = labels[:, 0] > 0
            right = (heads[0](hidden).argmax(-1) == labels[:, 0]) & (heads[1](hidden).argmax(-1) == labels[:, 1])
            log(f"vision {step}/{steps} loss {loss.item():.3f} patches right {right[shown].float().mean():.3f}")


def _batch(seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
    rng = stream("train", seed, step, 2)
    batch = scenes("train", batch_size, seed, start=step * batch_size)
    noise_steps = [int(rng.integers(_MAX_STEP)) if rng.random() < _NOISED else None for _ in batch]
    images = np.stack([pixels(scene, noise, rng) for scene, noise in zip(batch, noise_steps, strict=True)])
    return torch.from_numpy(images), torch.from_numpy(np.stack([patch_labels(scene) for scene in batch]))
