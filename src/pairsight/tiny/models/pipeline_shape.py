"""The tiny text-to-image pipeline's shape: a `StableDiffusion3Pipeline`, the paper's class, small enough to ship.

An autoencoder turns 48 × 48 pixels into 12 × 12 × 6 latents; a multimodal diffusion transformer of 9 image tokens, one
per cell of the world's grid, reads two small CLIP text encoders; there is no T5.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairsight.tiny.world.picture_texts import MAX_TOKENS, build_caption_tokenizer
from pairsight.tiny.world.render import IMAGE_SIZE

LATENT_CHANNELS = 6
LATENT_SIZE = IMAGE_SIZE // 4
TEXT_WIDTH = 64


@dataclass(frozen=True, slots=True)
class PipelineSize:
    """The transformer's layers, heads and width of a head."""

    layers: int = 4
    heads: int = 4
    head_width: int = 32


def build_vae() -> Any:
    """An `AutoencoderTiny` (TAESD's class: convolutions and ReLU, no sampling) with fresh weights."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 1, 2),
        num_decoder_blocks=(2, 1, 0),
        latent_channels=LATENT_CHANNELS,
    )


def build_transformer(size: PipelineSize) -> Any:
    """An `SD3Transformer2DModel` with fresh weights."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=LATENT_SIZE // 3,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=size.layers,
        num_attention_heads=size.heads,
        attention_head_dim=size.head_width,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=size.heads * size.head_width,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=3,
    )


def build_text_encoder() -> Any:
    """A `CLIPTextModelWithProjection` with fresh weights."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = build_caption_tokenizer()
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def assemble(vae: Any, transformer: Any, text_encoder: Any, text_encoder_2: Any) -> Any:
    """The pipeline of these parts."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=build_caption_tokenizer(),
        text_encoder_2=text_encoder_2,
        tokenizer_2=build_caption_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Write the pipeline in half precision, and that it is to be called without positions for T5's tokens."""
    import torch
    from diffusers.utils import logging

    logging.set_verbosity_error()
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    note = {"pipeline_options": {"max_sequence_length": 0}}
    (folder / "pairsight.json").write_text(json.dumps(note) + "\n", encoding="utf-8")
    for file in folder.rglob("*.*"):
        file.chmod(0o644)
