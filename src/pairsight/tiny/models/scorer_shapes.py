"""The tiny scorers' shapes: real CLIP, BLIP, ImageReward and reward-model classes, small enough to ship."""

from typing import Any

from pairsight.tiny.world.picture_texts import build_caption_tokenizer
from pairsight.tiny.world.render import IMAGE_SIZE
from pairsight.tiny.world.vocabulary import build_fast_tokenizer

CAPTION_TOKENS = 32
_PATCH = IMAGE_SIZE // 3  # a patch is a cell of the world's grid


def build_clip() -> Any:
    """A `CLIPModel`: two towers that meet in a shared space."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = caption_tokenizer()
    return CLIPModel(
        CLIPConfig(
            text_config={
                **_sizes(64, 2, 2),
                "vocab_size": len(tokenizer),
                "max_position_embeddings": CAPTION_TOKENS,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={**_sizes(64, 4, 2), "image_size": IMAGE_SIZE, "patch_size": _PATCH},
            projection_dim=64,
        )
    )


def build_blip() -> Any:
    """A `BlipForImageTextRetrieval`: BLIP's matching and contrastive heads."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    tokenizer = caption_tokenizer()
    config = BlipConfig(
        text_config={
            **_sizes(64, 3, 2),
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": 64,
            "max_position_embeddings": CAPTION_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "sep_token_id": tokenizer.eos_token_id,
        },
        vision_config={**_sizes(64, 4, 2), "image_size": IMAGE_SIZE, "patch_size": _PATCH},
        image_text_hidden_size=64,
    )
    config._attn_implementation = "eager"
    return BlipForImageTextRetrieval(config)


def build_image_reward() -> Any:
    """ImageReward's network with one head of 64 a layer, its head's layers narrowed as the towers are."""
    from transformers import BlipTextConfig, BlipVisionConfig

    from pairsight.models.scorers.image_reward_model import ImageRewardModel

    tokenizer = caption_tokenizer()
    text = BlipTextConfig(
        **_sizes(64, 3, 1),
        vocab_size=len(tokenizer),
        encoder_hidden_size=64,
        max_position_embeddings=CAPTION_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        sep_token_id=tokenizer.eos_token_id,
    )
    vision = BlipVisionConfig(**_sizes(64, 4, 1), image_size=IMAGE_SIZE, patch_size=_PATCH, layer_norm_eps=1e-6)
    return ImageRewardModel(text, vision, (64, 64, 32, 16, 8, 1))


def build_reward_model() -> Any:
    """A `LlamaForSequenceClassification` with one label, which reads the dialogue and never the image."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = build_fast_tokenizer()
    return LlamaForSequenceClassification(
        LlamaConfig(
            **_sizes(48, 2, 2),
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=256,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def caption_tokenizer() -> Any:
    """The word tokenizer with room for captions of four objects."""
    tokenizer = build_caption_tokenizer()
    tokenizer.model_max_length = CAPTION_TOKENS
    return tokenizer


def clip_processor() -> Any:
    """CLIP's image processor at the world's size, with the word tokenizer."""
    from transformers import CLIPImageProcessor, CLIPProcessor

    pixels = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return CLIPProcessor(pixels, caption_tokenizer())


def blip_processor() -> Any:
    """BLIP's image processor at the world's size, with the word tokenizer."""
    from transformers import BlipImageProcessor, BlipProcessor

    return BlipProcessor(BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}), caption_tokenizer())


def _sizes(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
