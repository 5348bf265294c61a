"""A LLaVA-1.5 folder of `transformers` in the layout of its authors: other names, no `<image>` and `<pad>` rows."""

import json
from dataclasses import dataclass
from pathlib import Path

from pairsight.errors import ModelError
from pairsight.models.checkpoints.files import Planned, WeightFiles, weight_files, write_weights
from pairsight.models.checkpoints.llava import CLIP_L_336, check_complete, published
from pairsight.models.checkpoints.llava_names import to_original
from pairsight.models.folders import read_model_json
from pairsight.store.durable import copy_file, write_file

_FEATURES = {"default": "patch", "full": "cls_patch"}
_TEXT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "max_position_embeddings", "hidden_act", "bos_token_id", "eos_token_id", "attention_bias",
    "initializer_range",
)  # fmt: skip
_ADDED = {"<image>", "<pad>"}
"""What transformers' folders add to the words of LLaMA."""


def is_transformers_llava(folder: Path) -> bool:
    """Whether a folder holds a LLaVA of transformers."""
    file = folder / "config.json"
    return file.is_file() and "text_config" in (config := read_model_json(file)) and config.get("model_type") == "llava"


@dataclass(frozen=True, slots=True)
class Described:
    """A config as the authors' code reads it: its text, how many words there are, and the name of the tower."""

    text: str
    num_words: int
    tower: str


def original_config(folder: Path, vision_tower: str | None) -> Described:
    """The `config.json` that the authors' code reads, for a folder of transformers.

    Args:
        folder: of the model.
        vision_tower: what the authors' code shall load as the tower: a hub name or a folder.

    Raises:
        ModelError: a model that is not LLaVA-1.5, or whose tower has to be named.
    """
    from transformers import AutoConfig

    from pairsight.models.load import quiet

    with quiet():
        config = AutoConfig.from_pretrained(str(folder))
    text, vision = config.text_config, config.vision_config
    if text.model_type != "llama" or vision.model_type != "clip_vision_model":
        raise ModelError(f"{folder} has a {text.model_type} and a {vision.model_type}: LLaVA-1.5 is LLaMA and CLIP")
    if not isinstance(config.vision_feature_layer, int) or config.projector_hidden_act != "gelu":
        raise ModelError(f"{folder} takes several layers' features, or has no gelu: the authors' LLaVA-1.5 has not")
    if vision_tower is None:
        sizes = (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size)
        if sizes != (1024, 24, 336, 14):
            raise ModelError(
                f"the vision tower of {folder} is not {CLIP_L_336}, and the authors' code loads it by name: give that "
                "name, or a folder, as --vision-tower"
            )
        vision_tower = CLIP_L_336
    rope = text.rope_parameters or {}
    scaled = (
        {} if rope.get("rope_type", "default") == "default" else {k: v for k, v in rope.items() if k != "rope_theta"}
    )
    plain = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        **{name: getattr(text, name) for name in _TEXT},
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": scaled or None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": 0,
        "vocab_size": config.image_token_index,
        "torch_dtype": str(config.dtype or "float16").removeprefix("torch."),
        "use_cache": True,
        "image_aspect_ratio": "pad",
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": _FEATURES[config.vision_feature_select_strategy],
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
    }
    return Described(json.dumps(plain, indent=2), config.image_token_index, vision_tower)


def write_original(folder: Path, vision_tower: str | None, draft: Path) -> list[Planned]:
    """Write the authors' layout of a folder of transformers.

    Args:
        folder: of the model.
        vision_tower: see `original_config`.
        draft: where to.

    Returns:
        What was written.

    Raises:
        ModelError: not a LLaVA-1.5, or one with more words than LLaMA's, `<image>` and `<pad>`.
    """
    from transformers import AutoConfig

    config = original_config(folder, vision_tower)
    found = {published(name): one for name, one in WeightFiles(weight_files(folder)).planned.items()}
    check_complete({name: one for name, one in found.items() if to_original(name)}, AutoConfig.from_pretrained(folder))
    rows = config.num_words
    write_words(folder, rows, draft)
    planned = [_named(name, one, rows) for name, one in found.items() if to_original(name)]
    write_file(draft / "config.json", config.text.encode())
    write_weights(draft, planned)
    return planned


def _named(name: str, one: Planned, rows: int) -> Planned:
    """A tensor under its original name, of the vocabulary the first rows only."""
    original = to_original(name) or ""
    if original not in ("model.embed_tokens.weight", "lm_head.weight"):
        return one.renamed(original)
    return Planned(original, (rows, *one.shape[1:]), one.dtype, lambda: one.make()[:rows])


def write_words(folder: Path, rows: int, draft: Path) -> None:
    """Write the tokenizer without the words that transformers' folders add.

    Args:
        folder: of the model.
        rows: how many words remain: the id of `<image>`.
        draft: where to.

    Raises:
        ModelError: words after `<image>` and `<pad>`, which the authors' code would not know.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        words = read_model_json(file)
        added = words.get("added_tokens") or []
        if strange := [one["content"] for one in added if one["id"] >= rows and one["content"] not in _ADDED]:
            raise ModelError(f"{file} has words after <image> and <pad>, first '{strange[0]}', that LLaVA-1.5 has not")
        words["added_tokens"] = [one for one in added if one["id"] < rows]
        write_file(draft / "tokenizer.json", json.dumps(words, ensure_ascii=False).encode())
    if (folder / "tokenizer.model").is_file():
        copy_file(folder / "tokenizer.model", draft / "tokenizer.model")
    settings = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<unk>", "add_bos_token": True, "add_eos_token": False, "legacy": False,
        "model_max_length": 2048, "padding_side": "right",
    }  # fmt: skip
    write_file(draft / "tokenizer_config.json", json.dumps(settings, indent=2).encode())
