"""BLIP image-text scores: whether a text and an image match, by BLIP's two retrieval heads. Higher is better."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pairsight.images.source import ImageSource
from pairsight.models.folders import fingerprint
from pairsight.models.load import load_part, pick_device, weights_folder
from pairsight.models.scorers.base import ImageTextScorer, processed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_CAPTION_TOKENS = 35
"""BLIP's captions are cut here in its authors' and in ImageReward's code."""


class _Blip(ImageTextScorer):
    """A `BlipForImageTextRetrieval` of `transformers`; the subclasses are its two heads.

    Args:
        model_name: a folder, or a hub name.
        images: where the images of the items are.
        device: default: the GPU where there is one.

    Raises:
        ModelError: no such model, pickled weights, or a model of another class.
    """

    def __init__(self, model_name: str | Path, images: ImageSource, device: "torch.device | str | None" = None) -> None:
        folder = weights_folder(model_name)
        super().__init__(images, fingerprint(folder))
        self.device = pick_device(device)
        # Eager: BLIP adds its mask to the scores, which a boolean SDPA mask would spoil.
        self.model = load_part(
            folder, "BlipForImageTextRetrieval", model_types=("blip",), attn_implementation="eager"
        ).to(self.device)
        self.processor = load_part(folder, "BlipProcessor")
        self.max_tokens = min(_CAPTION_TOKENS, self.model.config.text_config.max_position_embeddings)

    def _inputs(self, texts: Sequence[str], pictures: "Sequence[Image]") -> tuple[Any, "torch.Tensor"]:
        """The tokens and the patches' states [B, N, D]."""
        tokens, pixels = processed(self.processor, texts, pictures, self.max_tokens, self.device)
        return tokens, self.model.vision_model(pixel_values=pixels).last_hidden_state


class BlipMatch(_Blip):
    """P(match) by the image-text matching head, whose text encoder attends to the image's patches.

    Source: Li et al. 2201.12086, §3.2.
    """

    column: ClassVar[str] = "blip_match"

    def values(self, texts: Sequence[str], pictures: "Sequence[Image]") -> "torch.Tensor":
        """Probabilities, shape [B]."""
        import torch

        with torch.inference_mode():
            tokens, patches_bnd = self._inputs(texts, pictures)
            states = self.model.text_encoder(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                encoder_hidden_states=patches_bnd,
                encoder_attention_mask=torch.ones(patches_bnd.shape[:2], dtype=torch.long, device=self.device),
            ).last_hidden_state
            logits_b2 = self.model.itm_head(states[:, 0])
        match_b: torch.Tensor = logits_b2.float().softmax(-1)[:, 1]
        return match_b


class BlipCosine(_Blip):
    """The cosine of BLIP's contrastive head: the BLIP score of ImageReward's code.

    Source: Li et al. 2201.12086, §3.2; `BLIPScore` beside ImageReward (Xu et al. 2304.05977).
    """

    column: ClassVar[str] = "blip_cosine"

    def values(self, texts: Sequence[str], pictures: "Sequence[Image]") -> "torch.Tensor":
        """The cosines in [−1, 1], shape [B]."""
        import torch
        from torch.nn.functional import cosine_similarity

        with torch.inference_mode():
            tokens, patches_bnd = self._inputs(texts, pictures)
            states = self.model.text_encoder(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).last_hidden_state
            text = self.model.text_proj(states[:, 0])
            image = self.model.vision_proj(patches_bnd[:, 0])
        return cosine_similarity(text, image, dim=-1)
