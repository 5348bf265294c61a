"""Texts as unit vectors, by any encoder of `transformers`, for studies of similarity."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pairsight.models.folders import fingerprint, read_model_json
from pairsight.models.load import load_part, pick_device, weights_folder

if TYPE_CHECKING:
    import torch

_BATCH = 64


class TextEmbedder:
    """The mean of an encoder's last hidden states over a text's tokens, as in sentence encoders; CLIP's text embedding.

    Texts longer than the encoder's context are truncated.

    Args:
        model_name: a folder or a hub name, e.g. `sentence-transformers/all-MiniLM-L6-v2`.
        device: None: the GPU if there is one.

    Raises:
        ModelError: no such model, or pickled weights.
    """

    def __init__(self, model_name: str | Path, device: "torch.device | str | None" = None) -> None:
        folder = weights_folder(model_name)
        self.name = Path(model_name).name
        self.fingerprint = fingerprint(folder)
        self.device = pick_device(device)
        model_type = str(read_model_json(folder / "config.json").get("model_type"))
        self._is_clip = model_type == "clip"
        self.model = load_part(folder, "CLIPModel" if self._is_clip else "AutoModel", (model_type,)).to(self.device)
        self.tokenizer = load_part(folder, "AutoTokenizer")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        config = self.model.config.text_config if self._is_clip else self.model.config
        self._limit = min(int(getattr(config, "max_position_embeddings", 512)), self.tokenizer.model_max_length)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape [N, D]."""
        parts = [self._embed(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        return np.concatenate(parts)

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._limit, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            if self._is_clip:
                vectors = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
            else:
                states_bld = self.model(**tokens).last_hidden_state.float()
                mask_bl1 = tokens["attention_mask"][..., None].to(states_bld.dtype)
                vectors = (states_bld * mask_bl1).sum(1) / mask_bl1.sum(1).clamp(min=1)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
        return unit
