"""The tiny models' shapes: a real LLaVA of a CLIP vision tower, a projector and a Llama, with its processor."""

from dataclasses import dataclass
from typing import Any

from pairsight.tiny.world.render import IMAGE_SIZE
from pairsight.tiny.world.vocabulary import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, build_fast_tokenizer

PATCH_SIZE = 8
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2


@dataclass(frozen=True, slots=True)
class Size:
    """Widths and depths: `width` of tower and language model alike, their layers, and the language model's MLP."""

    width: int
    vision_layers: int
    language_layers: int
    language_mlp: int
    heads: int


SIZES = {
    "base": Size(width=128, vision_layers=4, language_layers=4, language_mlp=384, heads=4),
    "large": Size(width=160, vision_layers=4, language_layers=4, language_mlp=480, heads=5),
}


def build_model(size: Size) -> Any:
    """A `LlavaForConditionalGeneration` with fresh weights, in the order given by torch's seed."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = build_fast_tokenizer()
    token_id = tokenizer.convert_tokens_to_ids
    vision = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.heads,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=size.width,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.language_mlp,
        num_hidden_layers=size.language_layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=4096,
        initializer_range=0.06,  # 0.02, the default, learns about a third slower at this width
        tie_word_embeddings=False,
        pad_token_id=token_id(PAD),
        bos_token_id=token_id(BOS),
        eos_token_id=token_id(EOS),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=token_id(IMAGE),
        image_seq_length=NUM_PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        pad_token_id=token_id(PAD),
        bos_token_id=token_id(BOS),
        eos_token_id=token_id(EOS),
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = token_id(PAD)
    model.generation_config.bos_token_id = token_id(BOS)
    model.generation_config.eos_token_id = token_id(EOS)
    model.generation_config.max_new_tokens = 64
    return model


def build_processor() -> Any:
    """The `LlavaProcessor` of every tiny model: CLIP's image processor at 48 pixels, the tokenizer, the template."""
    from transformers import LlavaProcessor
    from transformers.models.clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_fast_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )
