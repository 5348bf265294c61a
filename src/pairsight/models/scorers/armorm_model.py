"""ArmoRM's network: 19 reward columns at the last token, mixed by a gate that has read the prompt alone.

score = Σ_k rewards_k · (gate @ transformᵀ)_k, gate = scale · softmax(MLP(h_g) / temperature), where h_g is the state at
the token that begins the last assistant header (Llama 3: the `<|eot_id|>` before it), so it knows no completion.
Source: Wang et al. 2406.12845 and the released config. No remote code: the names are those of the release.

Shapes: B dialogues, L tokens, D width, K = 19 objectives.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel

OBJECTIVES = (
    "helpsteer-helpfulness",
    "helpsteer-correctness",
    "helpsteer-coherence",
    "helpsteer-complexity",
    "helpsteer-verbosity",
    "ultrafeedback-overall_score",
    "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness",
    "ultrafeedback-honesty",
    "ultrafeedback-helpfulness",
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    "code-complexity",
    "code-style",
    "code-explanation",
    "code-instruction-following",
    "code-readability",
)
"""The columns of the regression layer, in the order of the model's card."""

ASSISTANT_HEADER = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
"""Where the gate is read: at the first token of the last one of these."""


class Gate(nn.Module):
    """The MLP from a prompt's state to the weights of the objectives."""

    def __init__(self, width: int, hidden: int, layers: int, objectives: int, temperature: float) -> None:
        super().__init__()
        sizes = [width, *[hidden] * layers]
        steps = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList([*steps, nn.Linear(sizes[-1], objectives)])
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = temperature

    def forward(self, state_BD: Tensor) -> Tensor:
        """Weights of the objectives, shape [B, K]; each row sums to `logit_scale`."""
        for layer in self.layers[:-1]:
            state_BD = layer(state_BD).relu()
        logits_BK: Tensor = self.layers[-1](state_BD)
        return (logits_BK / self.temperature).softmax(-1) * self.logit_scale


class ArmoRMModel(LlamaPreTrainedModel):  # type: ignore[misc]
    """A Llama with ArmoRM's heads; `from_pretrained` loads the released folder."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        objectives = int(getattr(config, "num_objectives", len(OBJECTIVES)))
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives), requires_grad=False)
        self.gating = Gate(
            config.hidden_size,
            int(getattr(config, "gating_hidden_dim", 1024)),
            int(getattr(config, "gating_n_hidden", 3)),
            objectives,
            float(getattr(config, "gating_temperature", 10)),
        )
        self.post_init()

    def forward(
        self, input_ids_BL: Tensor, attention_mask_BL: Tensor, last_B: Tensor, gate_B: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """The objectives' rewards and the score.

        Args:
            input_ids_BL, attention_mask_BL: dialogues, padded on the right.
            last_B: position of each dialogue's last token.
            gate_B: position of the first token of its last assistant header.

        Returns:
            rewards [B, K] and score [B].
        """
        states_BLD = self.model(input_ids=input_ids_BL, attention_mask=attention_mask_BL).last_hidden_state
        rows = torch.arange(len(last_B), device=states_BLD.device)
        rewards_BK: Tensor = self.regression_layer(states_BLD[rows, last_B])
        weights_BK = self.gating(states_BLD[rows, gate_B]) @ self.reward_transform_matrix.T
        return rewards_BK, (rewards_BK * weights_BK).sum(-1)


def gate_position(ids: list[int], header: list[int]) -> int | None:
    """Where the last occurrence of `header` in `ids` begins; None when there is none."""
    starts = range(len(ids) - len(header), -1, -1)
    return next((start for start in starts if ids[start : start + len(header)] == header), None)
