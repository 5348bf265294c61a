"""Tiny random models of every family, with processors, for the suites of sampling and of training.

`build(name, folder)` writes a model folder as the family's real checkpoints look; `FAMILIES` names them all and
`IMAGE_FAMILIES` those that see. Weights are random but fixed, and peaked, so that greedy decoding has no near ties.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from family_parts import (
    HIDDEN,
    PATCH,
    SIZE,
    TEXT_TEMPLATE,
    processor_tokenizer,
    template,
    text_config,
    tokenizer,
    vision_config,
)
from pairsight.models.load import quiet


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the family's tiny model into `folder` and return it."""
    torch.manual_seed(seed)
    with quiet():
        model, processor = _BUILDERS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0) if parameter.any() else parameter.normal_(
                    std=0.2
                )  # Gemma 3's projector starts at 0
    stops = processor_tokenizer(processor).eos_token_id
    model.generation_config.eos_token_id = stops
    model.generation_config.pad_token_id = processor_tokenizer(processor).pad_token_id
    model.generation_config.bos_token_id = None
    with quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


_PINPOINTS = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]


def _llava() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    words = tokenizer(image_token="<image>")
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_config(len(words))},
        vision_config={"model_type": "clip_vision_model", **vision_config(projection_dim=HIDDEN)},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next() -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    words = tokenizer(image_token="<image>")
    config = LlavaNextConfig(
        text_config={"model_type": "llama", **text_config(len(words))},
        vision_config={"model_type": "clip_vision_model", **vision_config(projection_dim=HIDDEN)},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_PINPOINTS,
    )
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=_PINPOINTS
    )
    processor = LlavaNextProcessor(
        pictures,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return LlavaNextForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
    )

    words = tokenizer(image_token="<image>", video_token="<video>")
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text_config(len(words))},
        vision_config={"model_type": "siglip_vision_model", **vision_config(vision_use_head=False)},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS,
        vision_aspect_ratio="anyres_max_4",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    pictures = LlavaOnevisionImageProcessor(size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=_PINPOINTS)
    processor = _image_only(LlavaOnevisionProcessor)(
        pictures,
        words,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=template("<image>"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def _qwen_ids(words: Any) -> dict[str, int]:
    return {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in _QWEN.items()}


def _qwen_processor(cls: Any, words: Any, **pictures: Any) -> Any:
    from transformers import Qwen2VLImageProcessor

    sizes = {"shortest_edge": SIZE * SIZE, "longest_edge": 4 * SIZE * SIZE}
    made = Qwen2VLImageProcessor(size=sizes, patch_size=PATCH, merge_size=2, temporal_patch_size=2, **pictures)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return _image_only(cls)(made, words, None, chat_template=template(mark))


def _qwen2_vl() -> tuple[Any, Any]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    words = tokenizer(**_QWEN)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        text_config=text_config(len(words), rope_parameters=rope),
        vision_config={
            "depth": 2,
            "embed_dim": HIDDEN,
            "num_heads": 2,
            "hidden_size": HIDDEN,
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=False,
        **_qwen_ids(words),
    )
    return Qwen2VLForConditionalGeneration(config), _qwen_processor(Qwen2VLProcessor, words)


def _qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    words = tokenizer(**_QWEN)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config=text_config(len(words), rope_parameters=rope),
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 28,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
        **_qwen_ids(words),
    )
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor(Qwen2_5_VLProcessor, words)


def _qwen3_vl() -> tuple[Any, Any]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    words = tokenizer(**_QWEN)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=text_config(len(words), rope_parameters=rope, num_hidden_layers=3),
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        tie_word_embeddings=False,
        **_qwen_ids(words),
    )
    return Qwen3VLForConditionalGeneration(config), _qwen_processor(Qwen3VLProcessor, words)


def _internvl() -> tuple[Any, Any]:
    from transformers import GotOcr2ImageProcessor, InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor

    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_config(len(words))},
        vision_config={
            **vision_config(),
            "image_size": [SIZE, SIZE],
            "patch_size": [PATCH, PATCH],
        },
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    pictures = GotOcr2ImageProcessor(size={"height": SIZE, "width": SIZE}, crop_to_patches=True, max_patches=4)
    processor = _image_only(InternVLProcessor)(
        pictures, words, image_seq_length=4, chat_template=template("<IMG_CONTEXT>\n")
    )
    return InternVLForConditionalGeneration(config), processor


_IDEFICS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
_ROWS = tuple(f"<row_{row + 1}_col_{column + 1}>" for row in range(6) for column in range(6))


def _idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    words = tokenizer(*_IDEFICS, *_ROWS)
    config = Idefics3Config(
        text_config={"model_type": "llama", **text_config(len(words))},
        vision_config=vision_config(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    pictures = Idefics3ImageProcessor(size={"longest_edge": 2 * SIZE}, max_image_size={"longest_edge": SIZE})
    processor = Idefics3Processor(pictures, words, image_seq_len=4, chat_template=template("<image>"))
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm() -> tuple[Any, Any]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessor, SmolVLMProcessor

    words = tokenizer(*_IDEFICS, *_ROWS, image_token="<image>")
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **text_config(len(words))},
        vision_config=vision_config(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    pictures = SmolVLMImageProcessor(size={"longest_edge": 2 * SIZE}, max_image_size={"longest_edge": SIZE})
    processor = _image_only(SmolVLMProcessor)(pictures, words, None, image_seq_len=4, chat_template=template("<image>"))
    return SmolVLMForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    words = tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    layers = text_config(len(words), num_hidden_layers=3, sliding_window=24, query_pre_attn_scalar=8)
    layers["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3Config(
        text_config=layers,
        vision_config=vision_config(vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    pictures = Gemma3ImageProcessor(size={"height": SIZE, "width": SIZE})
    processor = Gemma3Processor(pictures, words, image_seq_length=4, chat_template=template("<start_of_image>"))
    return Gemma3ForConditionalGeneration(config), processor


def _paligemma() -> tuple[Any, Any]:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    words = tokenizer(image_token="<image>")
    pictures = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    pictures.image_seq_length = 16
    processor = PaliGemmaProcessor(pictures, words, chat_template=template("<image>"))
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **text_config(len(words))},
        vision_config={"model_type": "siglip_vision_model", **vision_config(vision_use_head=False)},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=HIDDEN,
        tie_word_embeddings=False,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _llama() -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    words.chat_template = TEXT_TEMPLATE
    return LlamaForCausalLM(LlamaConfig(**text_config(len(words)))), words


def _image_only(cls: Any) -> Any:
    from pairsight.models.local.processor import image_only

    return image_only(cls)


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "llama": _llama,
}
FAMILIES = tuple(_BUILDERS)
IMAGE_FAMILIES = tuple(name for name in FAMILIES if name != "llama")
