"""Tiny random models of the scorers' classes, saved as a user would have them."""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from pairsight.images.source import FileImages
from pairsight.models.scorers.armorm_model import ArmoRMModel
from pairsight.models.scorers.image_reward_model import ImageRewardModel, to_released
from pairsight.records import Completion, Message, Prompt

WORDS = ["a", "an", "the", "red", "blue", "green", "circle", "square", "small", "large", "and", "is", "what", "in"]
WORDS += ["this", "photo", "of", "two", "left"]
LLAMA3_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def pictures(folder: Path) -> tuple[FileImages, list]:
    """Three pictures of unlike sizes and colours, and their `ImageRef`s."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (size, colour) in enumerate([((40, 30), "red"), ((20, 50), "navy"), ((33, 33), "olive")]):
        picture = Image.new("RGB", size, colour)
        picture.paste((255, 255, 255), (3 + number, 4, 15, 18))
        picture.save(folder / f"{number}.png")
    images = FileImages(folder)
    return images, [images.ref(f"{number}.png") for number in range(3)]


def prompt(text: str = "what is in this photo", images: tuple = ()) -> Prompt:
    return Prompt("p", (Message("user", text, images),))


def completion(text: str) -> Completion:
    return Completion("p:0", "p", text, "stop", "m", 0, 0)


def bert_tokenizer() -> BertTokenizer:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocab)})


def word_tokenizer(*special: str, **names: str) -> PreTrainedTokenizerFast:
    vocab = {word: index for index, word in enumerate(["<unk>", *WORDS, "user", "assistant", "\n\n"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **names)
    fast.add_special_tokens({"additional_special_tokens": [*special]})
    return fast


def save_image_reward(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    text = BlipTextConfig(
        vocab_size=64, hidden_size=128, encoder_hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    vision = BlipVisionConfig(
        hidden_size=64, intermediate_size=80, num_hidden_layers=2, num_attention_heads=1, image_size=16, patch_size=8,
        layer_norm_eps=1e-6, initializer_range=0.3,
    )  # fmt: skip
    model = ImageRewardModel(text, vision, (128, 32, 16, 8, 4, 1))
    folder.mkdir(parents=True, exist_ok=True)
    state = to_released(model)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    state["blip.text_proj.weight"] = torch.zeros(3, 128)
    save_file(state, folder / "ImageReward.safetensors", {"format": "pt"})
    bert_tokenizer().save_pretrained(folder)
    return folder


def save_clip(folder: Path, max_length: int = 16) -> Path:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = word_tokenizer(bos_token="<bos>", eos_token="<eos>", pad_token="<eos>")
    ends = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=ends
    )
    config = CLIPConfig(
        text_config={
            **sizes, "vocab_size": len(tokenizer), "max_position_embeddings": max_length,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=24,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    pixels = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


def save_blip(folder: Path) -> Path:
    torch.manual_seed(2)
    config = BlipConfig(
        text_config={
            "vocab_size": 64, "hidden_size": 32, "encoder_hidden_size": 48, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40, "initializer_range": 0.3,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 8, "initializer_range": 0.3,
        },
        image_text_hidden_size=20,
    )  # fmt: skip
    BlipForImageTextRetrieval(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), bert_tokenizer()).save_pretrained(folder)
    return folder


def save_armorm(folder: Path) -> Path:
    torch.manual_seed(3)
    tokenizer = word_tokenizer(
        "<|start_header_id|>", "<|end_header_id|>", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )
    tokenizer.chat_template = LLAMA3_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5, num_objectives=19,
        gating_temperature=3.0, gating_hidden_dim=16, gating_n_hidden=2,
    )  # fmt: skip
    model = ArmoRMModel(config)
    torch.nn.init.normal_(model.reward_transform_matrix, std=0.5)
    model.gating.logit_scale.data.fill_(1.7)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_sequence_reward(folder: Path, labels: tuple[str, ...] = ("LABEL_0",), template: bool = True) -> Path:
    torch.manual_seed(4)
    tokenizer = word_tokenizer("<s>", "</s>", bos_token="<s>", eos_token="</s>")
    if template:
        tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '</s>' }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=48, initializer_range=0.5, num_labels=len(labels),
        id2label=dict(enumerate(labels)), label2id={label: index for index, label in enumerate(labels)},
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
