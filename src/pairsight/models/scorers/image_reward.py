"""ImageReward as a scorer of (caption, image): what people would say of a generated picture. Higher is better."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pairsight.errors import ModelError, one_line
from pairsight.images.source import ImageSource
from pairsight.models.folders import fingerprint
from pairsight.models.load import pick_device, quiet, read_weights, weights_folder
from pairsight.models.scorers.base import ImageTextScorer

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_TOKENIZER = "google-bert/bert-base-uncased"


class ImageReward(ImageTextScorer):
    """The released ImageReward (or one of its names and shapes) from safetensors.

    The release has no tokenizer: BERT's, uncased, is taken from the folder when it is there and from the hub when not.

    Args:
        model_name: a folder, or a hub name.
        images: where the images of the items are.
        device: default: the GPU where there is one.

    Raises:
        ModelError: a pickle (the message has the command that converts it), weights that do not fit, no tokenizer.
    """

    column: ClassVar[str] = "image_reward"

    def __init__(self, model_name: str | Path, images: ImageSource, device: "torch.device | str | None" = None) -> None:
        from pairsight.models.scorers.image_reward_model import CAPTION_TOKENS, from_released

        folder = weights_folder(model_name, published_as="ImageReward.pt")
        super().__init__(images, fingerprint(folder))
        self.device = pick_device(device)
        self.model = from_released(read_weights(folder), str(model_name)).to(self.device)
        self.tokenizer = _tokenizer(folder)
        self.max_tokens = min(CAPTION_TOKENS, self.model.text.config.max_position_embeddings)

    def values(self, texts: Sequence[str], pictures: "Sequence[Image]") -> "torch.Tensor":
        """The standardised rewards, shape [B]."""
        import torch

        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        side = self.model.vision.config.image_size
        pixels = torch.stack([pixel_tensor(picture, side) for picture in pictures]).to(self.device)
        with torch.inference_mode():
            rewards: torch.Tensor = self.model(tokens["input_ids"], tokens["attention_mask"], pixels)
        return rewards


def pixel_tensor(picture: "Image", side: int) -> "torch.Tensor":
    """A picture as the network takes it: its shorter side scaled to `side` (bicubic), the centre cut out, normalised.

    Returns:
        float32 [3, side, side].
    """
    import numpy as np
    import torch
    from PIL.Image import Resampling
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    width, height = picture.size
    short = min(width, height)
    scaled = picture.convert("RGB").resize((width * side // short, height * side // short), Resampling.BICUBIC)
    left, top = round((scaled.width - side) / 2), round((scaled.height - side) / 2)
    values = np.asarray(scaled.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    normalised = (values - np.array(OPENAI_CLIP_MEAN, np.float32)) / np.array(OPENAI_CLIP_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


def _tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    own = whole or (folder / "vocab.txt").is_file()
    with quiet():
        try:
            if whole:
                return PreTrainedTokenizerFast.from_pretrained(str(folder))
            return BertTokenizer.from_pretrained(str(folder) if own else _TOKENIZER)
        except Exception as error:  # noqa: BLE001 - a damaged file and an absent hub fail in many ways
            raise ModelError(
                f"ImageReward's tokenizer ({_TOKENIZER}) is neither in {folder} nor given by the hub; "
                f"put its tokenizer.json there: {one_line(error, 120)}"
            ) from None
