"""CLIP score: the cosine between a text and an image in CLIP's shared space. Higher is better."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pairsight.images.source import ImageSource
from pairsight.models.folders import fingerprint
from pairsight.models.load import load_part, pick_device, weights_folder
from pairsight.models.scorers.base import ImageTextScorer, processed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class ClipScore(ImageTextScorer):
    """Any CLIP model of `transformers`; a text is cut at the text encoder's length, as the field does.

    Source: Radford et al. 2103.00020; as an image selector, supplement A of PDS-DPO (2412.17417).

    Args:
        model_name: a folder, or a hub name.
        images: where the images of the items are.
        device: default: the GPU where there is one.

    Raises:
        ModelError: no such model, pickled weights, or a model of another class.
    """

    column: ClassVar[str] = "clip"

    def __init__(self, model_name: str | Path, images: ImageSource, device: "torch.device | str | None" = None) -> None:
        folder = weights_folder(model_name)
        super().__init__(images, fingerprint(folder))
        self.device = pick_device(device)
        self.model = load_part(folder, "CLIPModel", model_types=("clip",)).to(self.device)
        self.processor = load_part(folder, "CLIPProcessor")
        self.max_tokens = self.model.config.text_config.max_position_embeddings

    def values(self, texts: Sequence[str], pictures: "Sequence[Image]") -> "torch.Tensor":
        """The cosines in [−1, 1], shape [B]."""
        import torch
        from torch.nn.functional import cosine_similarity

        tokens, pixels = processed(self.processor, texts, pictures, self.max_tokens, self.device)
        with torch.inference_mode():
            text = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
            image = self.model.get_image_features(pixels).pooler_output
        return cosine_similarity(text, image, dim=-1)
