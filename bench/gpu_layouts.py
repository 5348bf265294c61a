"""The models that `gpu_checks.py` checks attention with, one for each thing that a layer may do, and their data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llava_shape import SPECIAL, TEMPLATE, Item, Shape, build_items, build_model, text_config, tokenizer

GEMMA = (*SPECIAL, "<start_of_image>", "<end_of_image>")


def items(world: Path) -> list[Item]:
    """Three questions on two images, of a model's own size."""
    shape = json.loads((world / "model" / "config.json").read_text())["vision_config"]
    vocabulary = json.loads((world / "model" / "config.json").read_text())["text_config"]["vocab_size"]
    sized = Shape(vocabulary - 2, pixels=shape["image_size"], patch=shape["patch_size"])
    words = (max(4, sized.image_tokens // 3), max(12, sized.image_tokens))
    return build_items(world / "images", sized, 3, questions_per_image=2, rejected=2, words=words, question=12)


def with_text(**changes: Any) -> Callable[[Path, Shape], Path]:
    """A LLaVA with another language model."""
    return lambda world, shape: build_model(world / "model", replace(shape, **changes)).parent


def windowed(world: Path, shape: Shape) -> Path:
    """Each layer sees a quarter more than an image, less than a sequence; fewer heads of keys than of queries."""
    window = shape.image_tokens * 5 // 4 + 4
    return with_text(text="mistral", key_heads=shape.heads // 2, window=window)(world, shape)


def gemma(world: Path, shape: Shape) -> Path:
    """Gemma 3: an image's tokens see each other, layers with a window and one without, grouped keys."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    named = {"image_token": "<image>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer(shape.vocabulary, GEMMA, **named)
    text = text_config(replace(shape, key_heads=shape.heads // 2, window=shape.image_tokens * 5 // 4 + 4))
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    width = shape.hidden // shape.heads
    text |= {"model_type": "gemma3_text", "head_dim": width, "query_pre_attn_scalar": width}
    text |= {"num_hidden_layers": 3, "layer_types": kinds}
    config = Gemma3Config(
        text_config=text,
        vision_config={
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 4 * shape.vision_hidden,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_heads,
            "image_size": shape.pixels,
            "patch_size": shape.patch,
            "vision_use_head": False,
        },
        mm_tokens_per_image=shape.image_tokens,
        **{f"{name}_index": GEMMA.index(token) for name, token in named.items()},
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.2)  # 0 in a new model
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(world / "model")
    pictures = Gemma3ImageProcessor(size={"height": shape.pixels, "width": shape.pixels})
    template = TEMPLATE.replace("<image>", "<start_of_image>")
    processor = Gemma3Processor(pictures, words, image_seq_length=shape.image_tokens, chat_template=template)
    processor.save_pretrained(world / "model")
    return world


LAYOUTS: dict[str, Callable[[Path, Shape], Path]] = {
    "trees": with_text(),
    "grouped keys": lambda world, shape: with_text(text="qwen2", key_heads=shape.heads // 2)(world, shape),
    "sliding window": windowed,
    "image blocks": gemma,
}
