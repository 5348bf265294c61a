"""ArmoRM as a scorer of (prompt, completion): a text-only reward model with 19 columns. It never sees the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import ModelError
from pairsight.models.load import load_part
from pairsight.models.scorers.base import DialogueScorer
from pairsight.records import ATTRIBUTES

if TYPE_CHECKING:
    import torch


class ArmoRM(DialogueScorer):
    """The released ArmoRM (Wang et al. 2406.12845), or a model of its shape, natively and from safetensors.

    Its columns: `score`, which selects; the 19 rewards under their own names; and the first five on HelpSteer's 0–4
    scale (5·r − 0.5) as `helpfulness`, `correctness`, `coherence`, `complexity`, `verbosity`.

    Args:
        model_name: a folder, or a hub name.
        device: default: the GPU where there is one.
        dtype: default: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ModelError: no such model, pickled weights, weights of another model, no chat template.
    """

    def __init__(
        self,
        model_name: str | Path,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | str | None" = None,
    ) -> None:
        from pairsight.models.scorers.armorm_model import ASSISTANT_HEADER, OBJECTIVES

        super().__init__(model_name, device, dtype)
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"model {model_name} has no chat template; ArmoRM reads Llama 3's: copy its tokenizer files"
            )
        self.header = self.tokenizer(ASSISTANT_HEADER, add_special_tokens=False)["input_ids"]
        count = self.model.regression_layer.out_features
        if count != len(OBJECTIVES):
            raise ModelError(f"model {model_name} has {count} objectives; ArmoRM has {len(OBJECTIVES)}")
        self.columns = ("score", *OBJECTIVES, *ATTRIBUTES)

    def network(self, folder: Path, dtype: "torch.dtype") -> Any:
        """A Llama with ArmoRM's heads."""
        from pairsight.models.scorers.armorm_model import ArmoRMModel

        return load_part(folder, ArmoRMModel, model_types=("llama",), dtype=dtype)

    def values(self, rows: Sequence[dict[str, list[int]]]) -> list[list[float]]:
        """The columns of dialogues padded on the right."""
        import torch

        from pairsight.models.scorers.armorm_model import gate_position

        tokens = [row["input_ids"] for row in rows]
        gates = [gate_position(ids, self.header) for ids in tokens]
        if None in gates:
            raise ModelError("the scorer's chat template writes no Llama 3 assistant header, where ArmoRM's gate reads")
        longest = max(map(len, tokens))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in tokens])
        last = torch.tensor([len(row) - 1 for row in tokens])
        with torch.inference_mode():
            rewards, score = self.model(*(tensor.to(self.device) for tensor in (ids, mask, last, torch.tensor(gates))))
        numbers = torch.cat([score[:, None], rewards, 5 * rewards[:, : len(ATTRIBUTES)] - 0.5], dim=1)
        listed: list[list[float]] = numbers.float().tolist()
        return listed
