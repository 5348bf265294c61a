"""ArmoRM as a scorer of (prompt, completion): a text-only reward model with 19 columns. It never sees the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import ModelError, one_line
from pairsight.models.folders import fingerprint, read_model_json, weights_folder
from pairsight.models.load import load_part, pick_device, pick_dtype, quiet
from pairsight.models.scorers.base import Rated, Scorer, Scores, control_token, fill, named_rows, too_long, turns_of
from pairsight.records import ItemError

if TYPE_CHECKING:
    import torch

_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


class ArmoRM(Scorer[Rated]):
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

        folder = weights_folder(model_name)
        self.fingerprint = fingerprint(folder)
        self.device = pick_device(device)
        self.model = _load(folder, pick_dtype(dtype, self.device)).to(self.device)
        self.tokenizer = load_part(folder, "AutoTokenizer")
        if not self.tokenizer.chat_template:
            raise ModelError(f"model {folder} has no chat template; ArmoRM reads Llama 3's: copy its tokenizer files")
        self.header = self.tokenizer(ASSISTANT_HEADER, add_special_tokens=False)["input_ids"]
        count = self.model.regression_layer.out_features
        if count != len(OBJECTIVES):
            raise ModelError(f"model {folder} has {count} objectives; ArmoRM has {len(OBJECTIVES)}")
        self.columns = ("score", *OBJECTIVES, *_HELPSTEER)

    def score(self, items: Sequence[Rated]) -> list[Scores]:
        """One mapping column -> number, or error, per dialogue: too long, a control token in it, not finite."""
        encoded = [self._ids(*item) for item in items]
        rows = [ids for ids in encoded if not isinstance(ids, ItemError)]
        return fill(encoded, named_rows(self.columns, self._rows(rows)) if rows else [])

    def _ids(self, prompt: Any, completion: Any) -> list[int] | ItemError:
        turns = turns_of(prompt, completion)
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        problem = control_token(self.tokenizer, turns) or too_long(len(ids), self.model.config.max_position_embeddings)
        return problem or ids

    def _rows(self, rows: list[list[int]]) -> list[list[float]]:
        import torch

        from pairsight.models.scorers.armorm_model import gate_position

        gates = [gate_position(ids, self.header) for ids in rows]
        if None in gates:
            raise ModelError("the scorer's chat template writes no Llama 3 assistant header, where ArmoRM's gate reads")
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        last = torch.tensor([len(row) - 1 for row in rows])
        with torch.inference_mode():
            rewards, score = self.model(*(tensor.to(self.device) for tensor in (ids, mask, last, torch.tensor(gates))))
        numbers = torch.cat([score[:, None], rewards, 5 * rewards[:, : len(_HELPSTEER)] - 0.5], dim=1)
        listed: list[list[float]] = numbers.float().tolist()
        return listed


def _load(folder: Path, dtype: "torch.dtype") -> Any:
    from pairsight.models.scorers.armorm_model import ArmoRMModel

    found: Mapping[str, object] = read_model_json(folder / "config.json")
    if found.get("model_type") != "llama":
        raise ModelError(f"model {folder} is of type '{found.get('model_type')}'; ArmoRM is a llama with its heads")
    with quiet():
        try:
            model, info = ArmoRMModel.from_pretrained(
                str(folder), dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # noqa: BLE001 - a damaged folder fails in many ways
            raise ModelError(f"ArmoRM cannot be loaded from {folder}: {one_line(error)}") from None
    lacking = sorted(info.get("missing_keys", ())) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if lacking:
        raise ModelError(f"model {folder} is not an ArmoRM: {len(lacking)} tensors are missing, first {lacking[0]}")
    return model.eval()
