"""Any sequence-classification reward model as a scorer of (prompt, completion). It never sees the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pairsight.models.folders import fingerprint, read_model_json, weights_folder
from pairsight.models.load import load_part, pick_device, pick_dtype
from pairsight.models.scorers.base import Rated, Scorer, Scores, control_token, fill, named_rows, too_long, turns_of
from pairsight.records import Completion, ItemError, Prompt

if TYPE_CHECKING:
    import torch


class SequenceReward(Scorer[Rated]):
    """`AutoModelForSequenceClassification`: one label is the column `reward`, several are columns by their names.

    The dialogue goes through the tokenizer's chat template; a model without one reads (prompt, completion) as a pair of
    texts, as the first reward models did.

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
        folder = weights_folder(model_name)
        self.fingerprint = fingerprint(folder)
        self.device = pick_device(device)
        self.model = load_part(
            folder,
            "AutoModelForSequenceClassification",
            model_types=(str(read_model_json(folder / "config.json").get("model_type")),),
            dtype=pick_dtype(dtype, self.device),
        ).to(self.device)
        self.tokenizer = load_part(folder, "AutoTokenizer")
        self.limit = getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.pad: int | None = self.model.config.pad_token_id
        labels = self.model.config.id2label
        self.columns = ("reward",) if len(labels) == 1 else tuple(str(labels[index]) for index in sorted(labels))

    def score(self, items: Sequence[Rated]) -> list[Scores]:
        """One mapping column -> number, or error, per dialogue: too long, a control token in it, not finite."""
        encoded = [self._ids(*item) for item in items]
        rows = [ids for ids in encoded if not isinstance(ids, ItemError)]
        return fill(encoded, named_rows(self.columns, self._rows(rows)) if rows else [])

    def _ids(self, prompt: Prompt, completion: Completion) -> dict[str, list[int]] | ItemError:
        turns = turns_of(prompt, completion)
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
            inputs = dict(self.tokenizer(text, add_special_tokens=False))
        else:
            inputs = dict(self.tokenizer("\n".join(turn["content"] for turn in turns[:-1]), turns[-1]["content"]))
        return control_token(self.tokenizer, turns) or too_long(len(inputs["input_ids"]), self.limit) or inputs

    def _rows(self, rows: list[dict[str, list[int]]]) -> list[list[float]]:
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
