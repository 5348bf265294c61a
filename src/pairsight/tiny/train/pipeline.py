"""Train the tiny text-to-image pipeline from scratch: `python -m pairsight.tiny.train.pipeline --out DIR`.

Two stages, counted in steps: the autoencoder on rendered scenes; then the transformer and its text encoders together,
by flow matching on latents computed once, a tenth of the texts left out so that guidance has something to lean on.
Pictures are of the part "train". At the end the pipeline's own pictures are read (`read_picture`) at several guidance
scales, and the numbers go into the model card.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from pairsight.tiny.models.cards import measure_guidance, write_pipeline_card
from pairsight.tiny.models.pipeline_shape import (
    PipelineSize,
    assemble,
    build_text_encoder,
    build_transformer,
    build_vae,
    save_pipeline,
)
from pairsight.tiny.train.resumable import Averages, Log, Stepper, start_log, step_generator, train_steps
from pairsight.tiny.world.picture_texts import TOPICS, build_caption_tokenizer, draw_kinds, picture_text
from pairsight.tiny.world.render import render, shape_mask
from pairsight.tiny.world.scenes import Scene, Thing, stream

_OBJECT_WEIGHT = 4.0
_LATENT_NOISE = 0.05
_LATENT_WEIGHT = 1e-3
_EMA = 0.999
_TEXT_DROPPED = 0.1
_EVEN = 0.5  # share of pictures whose objects are drawn alike, so that rare ones are learned too


@dataclass(frozen=True, slots=True)
class PipelineRecipe:
    """Steps, batches and rates of both stages."""

    vae_steps: int = 3000
    vae_batch: int = 16
    vae_rate: float = 3e-3
    vae_pictures: int = 8000
    pictures: int = 30_000
    steps: int = 6000
    batch: int = 48
    rate: float = 1.5e-3


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """N texts as token ids [N, tokens], the empty text's [tokens], and the pictures' latents [N, channels, 12, 12]."""

    ids: Tensor
    no_text: Tensor
    latents: Tensor


def train(out: Path, seed: int, recipe: PipelineRecipe, log: Log) -> None:
    """Train and write the pipeline in half precision, with its card; continues where an earlier call was cut off.

    Args:
        out: the pipeline's folder; checkpoints are kept beside it in `<out>.work/`.
        seed: of weights, pictures and noise.
        recipe: steps, batches and rates.
        log: called with progress lines.
    """
    work = out.with_name(f"{out.name}.work")
    torch.manual_seed(seed)
    vae = build_vae()
    train_vae(vae, seed, recipe, work / "vae.safetensors", log)
    pictures = encoded_pictures(vae, seed, recipe.pictures)
    scaling, shift = round(float(1 / pictures.latents.std()), 4), round(float(pictures.latents.mean()), 4)
    log(f"latents: scaling {scaling}, shift {shift}")
    vae.register_to_config(scaling_factor=scaling, shift_factor=shift)
    pictures = EncodedPictures(pictures.ids, pictures.no_text, (pictures.latents - shift) * scaling)
    torch.manual_seed(seed)
    pipeline = assemble(vae, build_transformer(PipelineSize()), build_text_encoder(), build_text_encoder())
    train_transformer(pipeline, pictures, seed, recipe, checkpoint=work / "transformer.safetensors", log=log)
    save_pipeline(pipeline, out)
    write_pipeline_card(out, seed, recipe, measure_guidance(out, log))


def draw_picture(seed: int, index: int) -> tuple[str, Scene]:
    """A training picture and a text for it; reproducible from seed and index."""
    rng = stream("train", 900 + seed, index)
    scene_type = int(rng.integers(len(TOPICS)))
    kinds = draw_kinds(scene_type, rng, _EVEN)
    cells = rng.permutation(9)[: len(kinds)]
    things = tuple(
        Thing(kind, bool(rng.random() < 0.5), int(cell), float(dx), float(dy))
        for kind, cell, (dx, dy) in zip(kinds, cells, rng.uniform(-1.5, 1.5, (len(kinds), 2)), strict=True)
    )
    scene = Scene(f"picture-{seed}-{index}", scene_type, things, (48_2027, seed, index))
    return picture_text(TOPICS[scene_type], kinds), scene


def train_vae(vae: Any, seed: int, recipe: PipelineRecipe, checkpoint: Path, log: Log) -> None:
    """Absolute and squared error of the reconstruction, more on objects than on ground, from latents with some noise.

    Three quarters of the steps see cells, most with an object in them; the others see complete pictures.
    """
    scenes = [draw_picture(seed, index)[1] for index in range(recipe.vae_pictures)]
    complete = (_bytes(scenes), np.stack([_objects(scene) for scene in scenes]))
    cells = _cells(scenes, *complete)
    stepper = Stepper([{"params": list(vae.parameters()), "lr": recipe.vae_rate}], recipe.vae_steps)

    def step(index: int) -> None:
        early = index < 0.75 * recipe.vae_steps
        pictures, objects = cells if early else complete
        size = recipe.vae_batch * (4 if early else 1)
        chosen = stream("train", 900 + seed, index, 1).integers(len(pictures), size=size)
        pixels, weights = _pixels(pictures[chosen]), 1 + _OBJECT_WEIGHT * torch.from_numpy(objects[chosen])[:, None]
        latents = vae.encode(pixels).latents
        noise = torch.randn(latents.shape, generator=step_generator(seed, index))
        error = vae.decode(latents + _LATENT_NOISE * noise).sample - pixels
        stepper.step(((error.abs() + error**2) * weights).mean() + _LATENT_WEIGHT * (latents**2).mean())
        if index % 250 == 0:
            log(f"vae {index}: error {error.abs().mean().item():.4f}")

    train_steps(checkpoint, recipe.vae_steps, {"vae": vae, "stepper": stepper}, step)
    vae.eval()


@torch.no_grad()
def encoded_pictures(vae: Any, seed: int, number: int) -> EncodedPictures:
    """The texts and the latents of pictures."""
    texts, latents = [""], []
    for start in range(0, number, 100):
        drawn = [draw_picture(seed, 1_000_000 + i) for i in range(start, min(start + 100, number))]
        texts += [text for text, _ in drawn]
        latents.append(vae.encode(_pixels(_bytes([scene for _, scene in drawn]))).latents)
    tokenizer = build_caption_tokenizer()
    ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")[
        "input_ids"
    ]
    return EncodedPictures(ids[1:], ids[0], torch.cat(latents))


def train_transformer(
    pipeline: Any, pictures: EncodedPictures, seed: int, recipe: PipelineRecipe, *, checkpoint: Path, log: Log
) -> None:
    """Flow matching: the transformer learns ε − x₀ at x = (1 − σ)·x₀ + σ·ε, σ logistic-normal (SD3, 2403.03206).

    What is left in the pipeline are exponential averages of the weights.
    """
    parts = {name: getattr(pipeline, name) for name in ("transformer", "text_encoder", "text_encoder_2")}
    weights = [weight for part in parts.values() for weight in part.train().parameters()]
    averages = Averages(weights, _EMA)
    stepper = Stepper([{"params": weights, "lr": recipe.rate}], recipe.steps)
    losses: list[float] = []

    def step(index: int) -> None:
        rng = stream("train", 900 + seed, index, 2)
        chosen = torch.from_numpy(rng.integers(len(pictures.ids), size=recipe.batch))
        dropped = torch.from_numpy(rng.random((recipe.batch, 1)) < _TEXT_DROPPED)
        clean, random = pictures.latents[chosen], step_generator(seed, index)
        noise = torch.randn(clean.shape, generator=random)
        sigma = torch.sigmoid(torch.randn(recipe.batch, generator=random))
        mixed = torch.lerp(clean, noise, sigma[:, None, None, None])
        words, pooled = _encode(pipeline, torch.where(dropped, pictures.no_text, pictures.ids[chosen]))
        loss = mse_loss(pipeline.transformer(mixed, words, pooled, 1000 * sigma).sample, noise - clean)
        stepper.step(loss)
        averages.follow(index)
        losses.append(loss.item())
        if index % 250 == 0:
            log(f"transformer {index}: {float(np.mean(losses)):.4f}")
            losses.clear()

    train_steps(checkpoint, recipe.steps, {**parts, "averages": averages, "stepper": stepper}, step)
    averages.copy_to_weights()
    for part in parts.values():
        part.eval()


def _encode(pipeline: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Text states and pooled states as `StableDiffusion3Pipeline` makes them; without room for a third encoder."""
    made = [encoder(ids, output_hidden_states=True) for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)]
    words = torch.cat([one.hidden_states[-2] for one in made], dim=-1)
    return words, torch.cat([one.text_embeds for one in made], dim=-1)


def _objects(scene: Scene) -> NDArray[np.float32]:
    """How far objects cover each pixel, 48 × 48, 0–1."""
    return np.clip(sum(shape_mask(thing) for thing in scene.things), 0, 1).astype(np.float32)


def _cells(
    scenes: list[Scene], pictures: NDArray[np.uint8], objects: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The pictures' cells that have an object, and of every second scene one that has none."""
    chosen = []
    for index, scene in enumerate(scenes):
        filled = {thing.cell for thing in scene.things}
        chosen += [(index, cell) for cell in sorted(filled)]
        chosen += [(index, min(set(range(9)) - filled))] * (index % 2)
    cut = [(index, slice(cell // 3 * 16, cell // 3 * 16 + 16), slice(cell % 3 * 16, cell % 3 * 16 + 16))
           for index, cell in chosen]  # fmt: skip
    return (
        np.stack([pictures[index, :, rows, columns] for index, rows, columns in cut]),
        np.stack([objects[index, rows, columns] for index, rows, columns in cut]),
    )


def _bytes(scenes: list[Scene]) -> NDArray[np.uint8]:
    """Pictures, N × 3 × 48 × 48."""
    return np.stack([render(scene) for scene in scenes]).transpose(0, 3, 1, 2)


def _pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures in [−1, 1], shape [N, 3, 48, 48]."""
    return torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m pairsight.tiny.train.pipeline")
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--seed", type=int, default=1, help="of weights, pictures and noise")
    parser.add_argument("--threads", type=int, default=1, help="the order of sums depends on it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    log = start_log()
    train(options.out, options.seed, PipelineRecipe(), log)


if __name__ == "__main__":
    main()
