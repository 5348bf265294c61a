"""Any sequence-classification reward model as a scorer of (prompt, completion). It never sees the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.models.folders import read_model_json
from pairsight.models.load import load_part
from pairsight.models.scorers.base import DialogueScorer

if TYPE_CHECKING:
    import torch


class SequenceReward(DialogueScorer):
    """`AutoModelForSequenceClassification`: one label is the column `reward`, several are columns by their names.

    Args:
        model_name: a folder, or a hub name.
        device: default: the GPU where there is one.
        dtype: default: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ModelError: no such model, pickled weights, weights without a classification head.
    """

    def __init__(
        self,
        model_name: str | Path,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | str | None" = None,
    ) -> None:
        super().__init__(model_name, device, dtype)
        self.pad: int | None = self.model.config.pad_token_id
        labels = self.model.config.id2label
        self.columns = ("reward",) if len(labels) == 1 else tuple(str(labels[index]) for index in sorted(labels))

    def network(self, folder: Path, dtype: "torch.dtype") -> Any:
        """The model with its classification head."""
        kind = str(read_model_json(folder / "config.json").get("model_type"))
        return load_part(folder, "AutoModelForSequenceClassification", model_types=(kind,), dtype=dtype)

    def values(self, rows: Sequence[dict[str, list[int]]]) -> list[list[float]]:
        """The logits of dialogues padded on the right."""
        import torch

        longest = max(len(row["input_ids"]) for row in rows)
        pad = self.pad
        if pad is None:
            # Such a model scores the last token that is not padding, so padding must look like no token of the batch.
            used = {token for row in rows for token in row["input_ids"]}
            pad = next(token for token in range(len(used) + 1) if token not in used)
        self.model.config.pad_token_id = pad
        fills = {"input_ids": pad}
        batch = {
            name: torch.tensor([row[name] + [fills.get(name, 0)] * (longest - len(row[name])) for row in rows])
            for name in rows[0]
        }
        with torch.inference_mode():
            out = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()})
        logits: list[list[float]] = out.logits.float().tolist()
        return logits
