"""Folders of three published models at their true size, without weights: a config and a processor of bytes.

The sizes are those of the configs that `llava-hf/llava-1.5-7b-hf`, `Qwen/Qwen2.5-VL-7B-Instruct` and
`OpenGVLab/InternVL3-8B-hf` publish. The tokenizer is that of `families`, so texts are a token a letter.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from family_parts import template, tokenizer

PARAMETERS = {"llava": 7_063_427_072, "qwen2_5_vl": 8_292_166_656, "internvl": 7_944_373_760}
"""Parameters of each, by its published weights."""


def build(name: str, folder: Path, layers: int | None = None) -> Path:
    """Write a model's folder and return it; with so many layers instead of its own, in tower and language model."""
    config, processor = _BUILDERS[name]()
    if layers is not None:
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = ["full_attention"] * layers
        if name == "qwen2_5_vl":
            config.vision_config.depth = layers
        else:
            config.vision_config.num_hidden_layers = layers
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaProcessor

    words = tokenizer(image_token="<image>")
    text = {
        "model_type": "llama",
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
        architectures=["LlavaForConditionalGeneration"],
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return config, processor


_QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLImageProcessor

    from pairsight.models.local.processor import image_only

    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    words = tokenizer(**named)
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": 152064, "rope_parameters": rope, **_QWEN_7B},
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        tie_word_embeddings=False,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        **{f"{name}_id": words.convert_tokens_to_ids(token) for name, token in named.items()},
    )
    sizes = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
    pictures = Qwen2VLImageProcessor(size=sizes, patch_size=14, merge_size=2, temporal_patch_size=2)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return config, image_only(Qwen2_5_VLProcessor)(pictures, words, None, chat_template=template(mark))


def _internvl() -> tuple[Any, Any]:
    from transformers import GotOcr2ImageProcessor, InternVLConfig, InternVLProcessor

    from pairsight.models.local.processor import image_only

    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": 151674,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            **_QWEN_7B,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "attention_bias": True,
            "norm_type": "layer_norm",
            "use_absolute_position_embeddings": True,
        },
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=256,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        architectures=["InternVLForConditionalGeneration"],
    )
    pictures = GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=12)
    processor = image_only(InternVLProcessor)(
        pictures, words, image_seq_length=256, chat_template=template("<IMG_CONTEXT>\n")
    )
    return config, processor


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "qwen2_5_vl": _qwen2_5_vl,
    "internvl": _internvl,
}
NAMES = tuple(_BUILDERS)
