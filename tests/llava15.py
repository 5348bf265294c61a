"""A tiny model of LLaVA-1.5's classes: a LLaMA tokenizer of sentence pieces, a CLIP tower, a LLaMA text model.

Its sizes are small; its vocabulary is as large as the real one, by which the family is recognised.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from family_parts import HIDDEN, PATCH, SIZE, text_config, vision_config
from pairsight.models.load import quiet

VOCABULARY = 32064
_MERGED = (
    "▁U",
    "▁US",
    "ER",
    "▁A",
    "▁W",
    "SS",
    "ASS",
    "▁t",
    "th",
    "he",
    "▁the",
    "in",
    "is",
    "▁is",
    "▁a",
    "▁r",
    "▁re",
    "▁red",
)
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer() -> Any:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(33, 127)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = []
    for word in _MERGED:
        vocabulary[word] = len(vocabulary)
        cut = next(n for n in range(len(word) - 1, 0, -1) if word[:n] in vocabulary and word[n:] in vocabulary)
        merges.append((word[:cut], word[cut:]))
    words = LlamaTokenizer(vocab=vocabulary, merges=merges, pad_token="<unk>", add_bos_token=True)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return words


def build(folder: Path) -> Path:
    """Write the model's folder, with a processor and a chat template as HF publishes them: centre crop, no system."""
    torch.manual_seed(3)
    words = tokenizer()
    wide = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}  # in blocks of 64, as 4 bits are kept
    layers = text_config(VOCABULARY, max_position_embeddings=2048, num_hidden_layers=2, **wide)
    config = LlavaConfig(
        text_config={"model_type": "llama", **layers},
        vision_config={"model_type": "clip_vision_model", **vision_config(projection_dim=HIDDEN)},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    with quiet():
        model = LlavaForConditionalGeneration(config)
        with torch.no_grad():  # it says words that its tokenizer has, other ones of other images
            for parameter in model.parameters():
                parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
            model.lm_head.weight[:262] = model.lm_head.weight[len(words) :] = 0
        model.generation_config.eos_token_id = 2
        model.generation_config.pad_token_id = 0
        model.generation_config.bos_token_id = 1
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder
