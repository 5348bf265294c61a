"""A LLaVA-shaped random model, and random pairs on random images: realistic arithmetic without a download.

336 pixels, 576 image tokens, hidden 512 × 6 layers, vision 256 × 6 layers; prompts of 20 words, completions of 30–150.
Each word is a token, so that every trainer sees the same number of tokens.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ ' USER: ' if m['role'] == 'user' else ' ASSISTANT: ' }}"
    "{% for part in m['content'] %}{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% if m['role'] == 'assistant' %} </s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT: {% endif %}"
)
PROJECTIONS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The layers that every side's adapters are put on."""
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its images."""

    vocabulary: int
    hidden: int = 512
    layers: int = 6
    heads: int = 8
    mlp: int = 1376
    vision_hidden: int = 256
    vision_layers: int = 6
    vision_heads: int = 4
    pixels: int = 336
    patch: int = 14

    @property
    def image_tokens(self) -> int:
        return (self.pixels // self.patch) ** 2


TINY = Shape(153, 128, 4, 4, 384, 128, 4, 4, 48, 8)


def build_model(folder: Path, shape: Shape) -> Path:
    """Write the model and its processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = [*SPECIAL, *(f"w{n}" for n in range(shape.vocabulary - len(SPECIAL)))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    text = {
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": shape.vision_hidden,
        "intermediate_size": 4 * shape.vision_hidden,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.vision_heads,
        "image_size": shape.pixels,
        "patch_size": shape.patch,
    }
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=SPECIAL.index("<image>"))
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    sides = {"height": shape.pixels, "width": shape.pixels}
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": shape.pixels}, crop_size=sides),
        tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Item:
    """A question about an image file with its chosen and rejected completions, as text."""

    image: str
    question: str
    chosen: str
    rejected: tuple[str, ...]


def build_items(
    folder: Path,
    shape: Shape,
    prompts: int,
    *,
    questions_per_image: int = 1,
    rejected: int = 1,
    words: tuple[int, int] = (30, 150),
) -> list[Item]:
    """Write images to `folder` and return pairs about them; deterministic."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{chance.randrange(shape.vocabulary - len(SPECIAL))}" for _ in range(length))

    items = []
    for number in range(prompts):
        name = f"{number // questions_per_image}.png"
        if not (folder / name).is_file():
            shaded = np.linspace(0, 200, shape.pixels)[:, None, None]
            noisy = shaded + np.random.default_rng(number).integers(0, 56, (shape.pixels, shape.pixels, 3))
            Image.fromarray(noisy.astype(np.uint8)).save(folder / name)
        completions = [text(chance.randint(*words)) for _ in range(1 + rejected)]
        items.append(Item(name, text(20), completions[0], tuple(completions[1:])))
    return items
