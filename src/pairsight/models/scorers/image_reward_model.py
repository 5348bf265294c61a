"""ImageReward's network on `transformers`' BLIP parts, and its released weights' names in ours.

A caption's tokens attend to the image's patches; the first token's last state goes through five linear layers without
an activation between them; the result is standardised. Source: Xu et al. 2304.05977 and the authors' code.

Shapes: B pairs, L caption tokens, P pixels a side, D text width.
"""

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from pairsight.errors import ModelError

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""What the authors' code standardises by: the reward's mean and standard deviation on their training data."""

CAPTION_TOKENS = 35
"""A caption is cut after this many tokens, its two special ones included (the authors' code)."""

_HEAD_WIDTH = 64
"""Width of an attention head in BLIP, base and large, in both towers."""

_PARTS = (("blip.visual_encoder.", "vision."), ("blip.text_encoder.", "text."), ("mlp.layers.", "head."))
_VISION = (
    ("vision.cls_token", "vision.embeddings.class_embedding"),
    ("vision.pos_embed", "vision.embeddings.position_embedding"),
    ("vision.patch_embed.proj", "vision.embeddings.patch_embedding"),
    ("vision.norm.", "vision.post_layernorm."),
    ("vision.blocks.", "vision.encoder.layers."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)
_UNUSED = re.compile(r"^blip\.(text_proj|vision_proj)\.|^blip\.text_encoder\.embeddings\.position_ids$")


class ImageRewardModel(nn.Module):
    """BLIP's image-grounded text encoder with ImageReward's head.

    Args:
        text: sizes of the text encoder; its `encoder_hidden_size` is the vision tower's width.
        vision: sizes of the vision tower.
        head_sizes: widths of the head's layers from the text encoder's to 1.
    """

    def __init__(self, text: BlipTextConfig, vision: BlipVisionConfig, head_sizes: tuple[int, ...]) -> None:
        super().__init__()
        text._attn_implementation = vision._attn_implementation = "eager"
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.vision = BlipVisionModel(vision)
        linears = [nn.Linear(a, b) for a, b in pairwise(head_sizes)]
        dropouts = [nn.Dropout(p) for p in (0.2, 0.2, 0.1)]
        self.head = nn.Sequential(
            linears[0], dropouts[0], linears[1], dropouts[1], linears[2], dropouts[2], linears[3], linears[4]
        )

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor, pixels_B3PP: Tensor) -> Tensor:
        """The rewards, shape [B], standardised and unbounded."""
        patches_BND = self.vision(pixel_values=pixels_B3PP).last_hidden_state
        states_BLD = self.text(
            input_ids=input_ids_BL,
            attention_mask=attention_mask_BL,
            encoder_hidden_states=patches_BND,
            encoder_attention_mask=torch.ones(patches_BND.shape[:2], dtype=torch.long, device=patches_BND.device),
        ).last_hidden_state
        reward_B1: Tensor = self.head(states_BLD[:, 0].float())
        return (reward_B1[:, 0] - MEAN) / STD


def from_released(state: Mapping[str, Tensor], where: str) -> ImageRewardModel:
    """The network with weights under the names of the authors' release; all sizes follow from the tensors' shapes.

    Args:
        state: released name -> tensor.
        where: what to call the source in an error.

    Raises:
        ModelError: tensors are missing, of other shapes or unknown.
    """
    renamed = {_renamed(name): value for name, value in state.items() if not _UNUSED.search(name)}
    try:
        model = ImageRewardModel(*_sizes(renamed))
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{where} holds no ImageReward weights: it lacks {error}") from None
    try:
        missing, unknown = model.load_state_dict({k: v.float() for k, v in renamed.items()}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{where}: ImageReward's weights do not fit: {' '.join(str(error).split())[:200]}") from None
    if missing or unknown:
        wrong = [f"lacks {len(missing)} tensors, e.g. {missing[0]}"] if missing else []
        wrong += [f"has {len(unknown)} unknown tensors, e.g. {unknown[0]}"] if unknown else []
        raise ModelError(f"{where} {' and '.join(wrong)}: it is not ImageReward as released")
    return model.eval()


def to_released(model: ImageRewardModel) -> dict[str, Tensor]:
    """The weights under the names of the authors' release: the inverse of `from_released`."""
    state = {}
    for name, value in model.state_dict().items():
        for released, ours in reversed((*_PARTS, *_VISION) if name.startswith("vision.") else _PARTS):
            name = name.replace(ours, released)  # noqa: PLW2901
        state[name] = value.contiguous()
    return state


def _renamed(name: str) -> str:
    for released, ours in _PARTS:
        if name.startswith(released):
            name = ours + name.removeprefix(released)
            break
    if name.startswith("vision."):
        for released, ours in _VISION:
            name = name.replace(released, ours)
    return name


def _sizes(state: Mapping[str, Tensor]) -> tuple[BlipTextConfig, BlipVisionConfig, tuple[int, ...]]:
    words = state["text.embeddings.word_embeddings.weight"]
    positions = state["vision.embeddings.position_embedding"]
    patch = state["vision.embeddings.patch_embedding.weight"].shape[-1]
    vision_width, text_width = positions.shape[-1], words.shape[1]
    vision = BlipVisionConfig(
        hidden_size=vision_width,
        intermediate_size=state["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count(state, r"^vision\.encoder\.layers\.(\d+)\."),
        num_attention_heads=vision_width // _HEAD_WIDTH,
        image_size=round((positions.shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=words.shape[0],
        hidden_size=text_width,
        encoder_hidden_size=vision_width,
        intermediate_size=state["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count(state, r"^text\.encoder\.layer\.(\d+)\."),
        num_attention_heads=text_width // _HEAD_WIDTH,
        max_position_embeddings=state["text.embeddings.position_embeddings.weight"].shape[0],
    )
    head = [state[f"head.{layer}.weight"].shape[0] for layer in (0, 2, 4, 6, 7)]
    return text, vision, (text_width, *head)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match.group(1) for name in state if (match := re.match(pattern, name))})
