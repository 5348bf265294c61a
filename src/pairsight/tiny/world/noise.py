"""What the tiny models see in training: the processor's normalised pixels, clean or with SeVa's diffusion noise."""

import numpy as np
from numpy.typing import NDArray

from pairsight.images.distort import signal_and_noise
from pairsight.tiny.world.render import render
from pairsight.tiny.world.scenes import Scene

# CLIP's normalisation, as the processor of the tiny models applies it.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def pixels(scene: Scene, noise_step: int | None, rng: np.random.Generator) -> NDArray[np.float32]:
    """The processor's pixel array of a scene's picture, 3 × 48 × 48, noised at a step (0–999) or clean (None)."""
    values = ((render(scene) / 255.0 - _MEAN) / _STD).transpose(2, 0, 1)
    if noise_step is not None:
        signal, noise = signal_and_noise(noise_step)
        values = signal * values + noise * rng.standard_normal(values.shape)
    return np.asarray(values, dtype=np.float32)
