"""A LLaVA-shaped random model, and random pairs on random images: realistic arithmetic without a download.

336 pixels, 576 image tokens, hidden 512 × 6 layers, vision 256 × 6 layers; prompts of 20 words, completions of 30–150.
Each word is a token, so that every trainer sees the same number of tokens.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Sizes of a model and of its images.

    Args:
        key_heads: heads of keys and values; 0: as many as of queries.
        text: the language model's type.
        window: tokens that each layer sees; 0: all.
    """

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
    key_heads: int = 0
    text: str = "llama"
    window: int = 0

    @property
    def image_tokens(self) -> int:
        return (self.pixels // self.patch) ** 2


TINY = Shape(153, 128, 4, 4, 384, 128, 4, 4, 48, 8)
SMALLEST = Shape(153, 32, 2, 2, 48, 16, 2, 2, 16, 8)
LLAVA_7B = Shape(32064, 4096, 32, 32, 11008, 1024, 24, 16)
LLAVA_13B = Shape(32064, 5120, 40, 40, 13824, 1024, 24, 16)
"""LLaVA-1.5."""


def build_model(folder: Path, shape: Shape) -> Path:
    """Write the model and its processor."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(model_config(shape))
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor(shape).save_pretrained(folder)
    return folder


def build_folder(folder: Path, shape: Shape) -> Path:
    """Write what `build_model` writes, without weights."""
    model_config(shape).save_pretrained(folder)
    processor(shape).save_pretrained(folder)
    return folder


def tokenizer(vocabulary: int, special: tuple[str, ...] = SPECIAL, **named: str) -> Any:
    """A tokenizer with a token for each word, so that every trainer sees the same number of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*special, *(f"w{n}" for n in range(vocabulary - len(special)))]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )


def model_config(shape: Shape) -> Any:
    """The model's configuration."""
    from transformers import LlavaConfig

    return LlavaConfig(
        text_config=text_config(shape),
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": shape.vision_hidden,
            "intermediate_size": 4 * shape.vision_hidden,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_heads,
            "image_size": shape.pixels,
            "patch_size": shape.patch,
        },
        image_token_index=SPECIAL.index("<image>"),
    )


def text_config(shape: Shape) -> dict[str, Any]:
    """The language model's configuration."""
    return {
        "model_type": shape.text,
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        **({"num_key_value_heads": shape.key_heads} if shape.key_heads else {}),
        **({"sliding_window": shape.window} if shape.window else {}),
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def processor(shape: Shape) -> Any:
    """The processor of images and text."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    sides = {"height": shape.pixels, "width": shape.pixels}
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": shape.pixels}, crop_size=sides),
        tokenizer(shape.vocabulary, image_token="<image>"),
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


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
    question: int = 20,
) -> list[Item]:
    """Write images to `folder` and return pairs about them; deterministic."""
    folder.mkdir(parents=True, exist_ok=True)
    items = build_texts(shape, prompts, questions_per_image, rejected, words, question)
    for number, item in enumerate(items):
        if not (folder / item.image).is_file():
            shaded = np.linspace(0, 200, shape.pixels)[:, None, None]
            noisy = shaded + np.random.default_rng(number).integers(0, 56, (shape.pixels, shape.pixels, 3))
            Image.fromarray(noisy.astype(np.uint8)).save(folder / item.image)
    return items


def build_texts(  # noqa: PLR0917
    shape: Shape, prompts: int, questions_per_image: int, rejected: int, words: tuple[int, int], question: int
) -> list[Item]:
    """The pairs of `build_items`, without their images.

    Args:
        words: of a completion, from and to.
        question: words of a question.
    """
    chance = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{chance.randrange(shape.vocabulary - len(SPECIAL))}" for _ in range(length))

    items = []
    for number in range(prompts):
        completions = [text(chance.randint(*words)) for _ in range(1 + rejected)]
        name = f"{number // questions_per_image}.png"
        items.append(Item(name, text(question), completions[0], tuple(completions[1:])))
    return items
