"""An original LLaVA-1.5 folder as one of `transformers`: the same weights under other names, and a processor.

Two tokens join the vocabulary, `<image>` and `<pad>`, as in the published `llava-hf` folders, and its rows are filled
up to a multiple of 64. A new row is the mean of all others, so that by Jensen's inequality no new token gets more than
one V-th of the probability. Source of the layouts: see `llava_names`; the mean: ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pairsight.errors import MissingExtraError, ModelError, one_line
from pairsight.models.checkpoints.files import Planned, WeightFiles, weight_files, write_weights
from pairsight.models.checkpoints.llava_names import to_original, to_transformers
from pairsight.models.folders import local_folder, read_model_json
from pairsight.models.load import quiet
from pairsight.models.local.named_templates import BEGINNING, TEMPLATES
from pairsight.store.durable import copy_file

if TYPE_CHECKING:
    from torch import Tensor

CLIP_L_336 = "openai/clip-vit-large-patch14-336"
"""The vision tower of LLaVA-1.5."""
_CLIP_L_336 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_OF_LLAMA = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "max_position_embeddings", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "attention_bias", "initializer_range", "bos_token_id", "eos_token_id",
)  # fmt: skip
"""What an original config says of its language model, under LlamaConfig's names."""
ROWS = 64
"""The vocabulary's rows are a multiple of this."""
_PROJECTOR = ("model.mm_projector.0.weight", "model.mm_projector.2.weight")


def is_original(folder: Path) -> bool:
    """Whether a folder's config is one of LLaVA's authors' code."""
    file = folder / "config.json"
    if not file.is_file():
        return False
    config = read_model_json(file)
    return "mm_vision_tower" in config and "text_config" not in config


@dataclass(frozen=True, slots=True)
class OriginalConfig:
    """What an original config says, checked.

    Args:
        llama: the `LlamaConfig` of the language model.
        tower: the name of the vision tower.
        layer: whose states are the image's features.
        strategy: `default` leaves out the class token, `full` keeps it.
        pads: whether images are padded to a square.
    """

    llama: Any
    tower: str
    layer: int
    strategy: str
    pads: bool

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The config in a folder.

        Raises:
            ModelError: a kind of LLaVA that `transformers` has no equal class for.
        """
        from transformers import LlamaConfig

        file = folder / "config.json"
        config = read_model_json(file)

        def refuse(what: str) -> ModelError:
            return ModelError(
                f"{file}: {what}; only LLaVA-1.5 on LLaMA is converted, others are published for transformers"
            )

        classes = config.get("architectures") or ["LlavaLlamaForCausalLM"]
        if classes != ["LlavaLlamaForCausalLM"]:
            raise refuse(f"its class is {one_line(classes, 60)}")
        if (projector := config.get("mm_projector_type", "linear")) != "mlp2x_gelu":
            raise refuse(f"its mm_projector_type is '{one_line(projector, 40)}', not 'mlp2x_gelu'")
        ratio = config.get("image_aspect_ratio")
        if ratio not in (None, "pad", "square") or "unpad" in str(config.get("mm_patch_merge_type", "")):
            raise refuse(f"its image_aspect_ratio '{one_line(ratio, 40)}' divides images into tiles, as LLaVA-1.6 does")
        if config.get("mm_use_im_start_end") or config.get("mm_use_im_patch_token"):
            raise refuse("it writes tokens around images (mm_use_im_start_end, mm_use_im_patch_token)")
        feature = config.get("mm_vision_select_feature", "patch")
        if feature not in ("patch", "cls_patch"):
            raise refuse(f"its mm_vision_select_feature is '{one_line(feature, 40)}', not patch or cls_patch")
        llama = LlamaConfig(**{name: config[name] for name in _OF_LLAMA if config.get(name) is not None})
        layer = int(config.get("mm_vision_select_layer", -2))
        return cls(llama, str(config["mm_vision_tower"]), layer, _STRATEGIES[feature], ratio == "pad")


_STRATEGIES = {"patch": "default", "cls_patch": "full"}


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision tower: its `CLIPVisionConfig`, its image processor, and its weights under the published names."""

    config: Any
    pictures: Any
    weights: Mapping[str, Planned]

    def differs(self, weights: Mapping[str, Planned]) -> bool:
        """Whether a model's own weights, by original names, hold another tower than this one's."""
        pairs = [(one, self.weights.get(to_transformers(name) or "")) for name, one in weights.items()]
        return any(
            other is not None and (one.shape != other.shape or bool((one.make() != other.make()).any()))
            for one, other in pairs
        )


def open_tower(named: str | Path | None, original: OriginalConfig, folder: Path, has_weights: bool) -> Tower:
    """The vision tower of an original model.

    Args:
        named: the folder or hub name that the user gave.
        original: the model's config.
        folder: the model's folder.
        has_weights: whether the model's own weights have the tower's.

    Raises:
        ModelError: it is not here, or another kind than CLIP.
    """
    beside = Path(original.tower)
    if named is None and (beside.is_dir() or (folder / beside).is_dir()):
        named = beside if beside.is_dir() else folder / beside
    if named is None:
        if has_weights and original.tower == CLIP_L_336:
            return Tower(_vision(_CLIP_L_336), _pictures(_CLIP_L_336, None, original.pads), {})
        raise ModelError(
            f"{folder} takes its vision tower from {original.tower}, which is not here: give its folder as "
            f"--vision-tower DIR, or --vision-tower {original.tower} to fetch it from the hub"
        )
    here = local_folder(named)
    if here is None:
        from pairsight.models.checkpoints.from_hub import converted_from_hub

        here = converted_from_hub(str(named), "pytorch_model.bin")
    config = read_model_json(here / "config.json")
    vision = config.get("vision_config", config)
    if "clip" not in str(vision.get("model_type", config.get("model_type", ""))):
        raise ModelError(f"vision tower {here} is of type '{config.get('model_type')}'; LLaVA-1.5 has a CLIP tower")
    found = WeightFiles(weight_files(here)).planned
    prefixed = any(name.startswith("vision_model.") for name in found)
    weights = {}
    for name, one in found.items():
        bare = name.removeprefix("vision_model.") if prefixed == name.startswith("vision_model.") else ""
        if (
            bare.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm."))
            and "position_ids" not in bare
        ):
            weights[f"vision_tower.vision_model.{bare}"] = one.renamed(f"vision_tower.vision_model.{bare}")
    return Tower(_vision(vision), _pictures(vision, here / "preprocessor_config.json", original.pads), weights)


def _vision(said: Mapping[str, int]) -> Any:
    """The config of a tower, of all that a file says."""
    from transformers import CLIPVisionConfig

    known = CLIPVisionConfig().to_dict().keys() - {"architectures", "model_type", "transformers_version", "dtype"}
    return CLIPVisionConfig(**{name: value for name, value in said.items() if name in known})


def _pictures(vision: Mapping[str, int], file: Path | None, pads: bool) -> Any:
    """The image processor of a tower: as its file says, else CLIP's at the tower's size; it pads to a square first."""
    with quiet():  # it says which of two image processors is imported
        from transformers import LlavaImageProcessor

    side = vision.get("image_size", 224)
    said = read_model_json(file) if file is not None and file.is_file() else {"size": side, "crop_size": side}
    names = ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor")
    shown = {name: said[name] for name in names if name in said}
    if isinstance(shown.get("size"), int):  # older files give one number
        shown["size"] = {"shortest_edge": shown["size"]}
    if isinstance(shown.get("crop_size"), int):
        shown["crop_size"] = {"height": shown["crop_size"], "width": shown["crop_size"]}
    return LlavaImageProcessor(**shown, do_pad=pads)


def original_weights(folder: Path) -> dict[str, Planned]:
    """The tensors of an original folder by their names; of a projector in a file of its own, too."""
    found = dict(WeightFiles(weight_files(folder)).planned)
    beside = folder / "mm_projector.bin"
    if beside.is_file() and not any(name in found for name in _PROJECTOR):
        found |= WeightFiles([beside]).planned
    return found


def write_transformers(
    original: OriginalConfig, weights: Mapping[str, Planned], tower: Tower, words: Path, draft: Path
) -> list[Planned]:
    """Write a folder of `transformers`.

    Args:
        original: the config.
        weights: tensors by original names.
        tower: the vision tower.
        words: the folder of the tokenizer.
        draft: where to.

    Returns:
        What was written.

    Raises:
        ModelError: tensors that are missing, unknown or of another shape than the configs say.
    """
    renamed = dict(tower.weights)
    for name, one in weights.items():
        new = to_transformers(name)
        if new is None:
            raise ModelError(f"the weights hold '{one_line(name, 80)}', which LLaVA-1.5 does not have: another model")
        if new and new not in tower.weights:  # a tower that the user gave counts more
            renamed[new] = one.renamed(new)
    tokenizer = _tokenizer(words)
    config, rows = _config(original, tower, tokenizer, renamed)
    for name in _OF_WORDS:
        if name in renamed:
            renamed[name] = _with_rows(renamed[name], rows)
    check_complete(renamed, config)
    processor = _processor(original, tower, tokenizer, config)
    with quiet():
        config.save_pretrained(draft)
        processor.save_pretrained(draft)
        _generation(config).save_pretrained(draft)
    if (words / "tokenizer.model").is_file():
        copy_file(words / "tokenizer.model", draft / "tokenizer.model")  # for the way back
    planned = list(renamed.values())
    write_weights(draft, planned)
    return planned


_OF_WORDS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")


def _tokenizer(folder: Path) -> Any:
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import AddedToken

    whole = (folder / "tokenizer.json").is_file()
    with quiet():
        try:
            tokenizer: Any = (PreTrainedTokenizerFast if whole else LlamaTokenizer).from_pretrained(str(folder))
        except ImportError:
            raise MissingExtraError(f"a tokenizer.model without a tokenizer.json ({folder})", "sentencepiece") from None
        except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways
            raise ModelError(f"{folder}: its tokenizer cannot be loaded: {one_line(error)}") from None
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": AddedToken("<pad>", special=True, normalized=False)})
    tokenizer.padding_side = "left"
    return tokenizer


def _config(original: OriginalConfig, tower: Tower, tokenizer: Any, weights: Mapping[str, Planned]) -> tuple[Any, int]:
    """The config, and the rows of the vocabulary."""
    from transformers import LlavaConfig

    if _OF_WORDS[0] not in weights:
        raise ModelError("the weights lack model.embed_tokens.weight: the language model is not complete")
    embeddings = weights[_OF_WORDS[0]]
    needed = max(embeddings.shape[0], len(tokenizer))
    rows = -(-needed // ROWS) * ROWS
    image = tokenizer.convert_tokens_to_ids("<image>")
    text, vision = original.llama, tower.config
    text.vocab_size, text.pad_token_id = rows, tokenizer.pad_token_id
    side = (vision.image_size // vision.patch_size) ** 2 + (original.strategy == "full")
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=image,
        image_seq_length=side,
        vision_feature_layer=original.layer,
        vision_feature_select_strategy=original.strategy,
        projector_hidden_act="gelu",
        tie_word_embeddings=text.tie_word_embeddings,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = embeddings.dtype
    return config, rows


def _with_rows(one: Planned, rows: int) -> Planned:
    """A tensor of the vocabulary with more rows, each the mean of those that it has."""

    def make() -> "Tensor":
        import torch

        before = one.make()
        mean = before.float().mean(dim=0, keepdim=True).to(before.dtype)
        return torch.cat([before, mean.expand(rows - len(before), -1)])

    return one if one.shape[0] >= rows else Planned(one.name, (rows, *one.shape[1:]), one.dtype, make)


def check_complete(weights: Mapping[str, Planned], config: Any) -> None:
    """Refuse weights that are not exactly those that the class of a config has; nothing of them is read.

    Args:
        weights: by the published names.
        config: a `LlavaConfig`.

    Raises:
        ModelError: the first tensor that is missing, unknown or of another shape.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"), quiet():
        made = LlavaForConditionalGeneration(config).state_dict()
    expected = {published(name): tuple(tensor.shape) for name, tensor in made.items()}
    if config.tie_word_embeddings:
        expected.pop(_OF_WORDS[1])
    for name, shape in expected.items():
        if name not in weights:
            raise ModelError(f"the weights lack '{to_original(name)}' ({name}): LLaVA-1.5 is not complete")
        if weights[name].shape != shape:
            raise ModelError(f"'{to_original(name)}' is {list(weights[name].shape)}, the configs say {list(shape)}")
    if strange := sorted(weights.keys() - expected.keys() - {_OF_WORDS[1]}):
        raise ModelError(f"the weights hold '{to_original(strange[0])}' ({strange[0]}), which the configs do not have")


def published(name: str) -> str:
    """A tensor's name in the published folders, whatever version of transformers calls it."""
    return to_transformers(to_original(name) or "") or name


def _processor(original: OriginalConfig, tower: Tower, tokenizer: Any, config: Any) -> Any:
    with quiet():
        from transformers import LlavaProcessor

    return LlavaProcessor(
        tower.pictures,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=original.strategy,
        num_additional_image_tokens=1,
        chat_template=TEMPLATES["vicuna_v1"].removeprefix(BEGINNING),
    )


def _generation(config: Any) -> Any:
    from transformers import GenerationConfig

    text = config.text_config
    return GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
