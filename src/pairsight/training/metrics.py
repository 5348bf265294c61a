"""The numbers that a training reports: of each prompt, their means over steps, and the file that keeps them.

Shapes: B prompts, K completions, M metrics.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pairsight.bounded import load_json
from pairsight.store.durable import sync_file, write_file, written_by_a_library
from pairsight.training.loss_grid import LossInputs


class StepMetrics:
    """Collects per-prompt numbers and returns their means."""

    def __init__(self) -> None:
        self._added: list[Mapping[str, Tensor]] = []

    def add(self, values_B: Mapping[str, Tensor]) -> None:
        """Add numbers of B prompts, metric -> [B]; NaN means that a prompt has none. Nothing is read from a device."""
        self._added.append(values_B)

    def take(self, total: Callable[[Mapping[str, float]], dict[str, float]] = dict) -> dict[str, float]:
        """The means since the last call.

        Args:
            total: adds up sums of several processes, by name.
        """
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        for values_B in self._added:
            for name, value_B in _on_cpu(values_B).items():
                known_B = ~torch.isnan(value_B)
                sums[name] = sums.get(name, 0.0) + float(value_B[known_B].sum())
                counts[name] = counts.get(name, 0) + int(known_B.sum())
        self._added = []
        sums, counts = total(sums), total(counts)
        return {name: sums[name] / count for name, count in counts.items() if count}


def _on_cpu(values_B: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same numbers on the CPU, copied from a device at once."""
    if all(value_B.device.type == "cpu" for value_B in values_B.values()):
        return values_B
    together_MB = torch.stack([value_B.float() for value_B in values_B.values()]).cpu()
    return dict(zip(values_B, together_MB, strict=True))


def preference_metrics(x: LossInputs, rewards_BK: Tensor) -> dict[str, Tensor]:
    """Metrics of B prompts from the inputs of their losses, each [B].

    `rewards/*` and `logps/*` by the field's names; rejected ones are means over a prompt's rejected completions, and
    `rewards/accuracies` the share of them below the chosen. `drift/chosen` is log π_θ − log π_ref of the chosen
    completion (DPO may lower both); `drift/length` how the expected length changes, in tokens, when each prompt's
    completions are reweighted from reference to policy by exp(Δ) (ours).
    """
    here_BK = x.mask_BNK[:, 0]
    logps_BK = x.policy_logps_BNK[:, 0].detach()
    chosen_B, several = rewards_BK[:, 0], here_BK.shape[1] > 1
    metrics = {"rewards/chosen": chosen_B, "logps/chosen": logps_BK[:, 0], "lengths/chosen": x.lengths_BK[:, 0]}
    if several:
        others_BK = here_BK[:, 1:]
        rejected_B = _mean(rewards_BK[:, 1:], others_BK)
        metrics |= {
            "rewards/rejected": rejected_B,
            "rewards/margins": chosen_B - rejected_B,
            "rewards/accuracies": _mean((chosen_B[:, None] > rewards_BK[:, 1:]).float(), others_BK),
            "logps/rejected": _mean(logps_BK[:, 1:], others_BK),
            "lengths/rejected": _mean(x.lengths_BK[:, 1:], others_BK),
        }
    if x.reference_logps_BNK is not None:
        drift_BK = logps_BK - x.reference_logps_BNK[:, 0]
        metrics["drift/chosen"] = drift_BK[:, 0]
        if several:
            tilted_BK = torch.softmax(drift_BK.masked_fill(~here_BK, -torch.inf), dim=1)
            metrics["drift/length"] = (tilted_BK * x.lengths_BK).sum(1) - _mean(x.lengths_BK, here_BK)
    return metrics


def _mean(values_BK: Tensor, mask_BK: Tensor) -> Tensor:
    return (values_BK * mask_BK).sum(1) / mask_BK.sum(1)


class MetricsFile:
    """A training's `metrics.jsonl`: one line per logged step.

    Args:
        folder: of the training; the file need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line."""
        with written_by_a_library(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def sync(self) -> None:
        """Make all lines durable."""
        if self.path.is_file():
            sync_file(self.path)

    def remove_after(self, step: int) -> None:
        """Remove lines of later steps, and one that was cut short."""
        if self.path.is_file():
            lines = self.path.read_bytes().splitlines(keepends=True)
            write_file(self.path, b"".join(line for line in lines if _step(line) <= step))

    def last(self) -> dict[str, float]:
        """The last line's values; empty where there is none, or where it is not a line of ours."""
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        return _values(lines[-1]) if lines else {}


def _step(line: bytes) -> float:
    """The step of a line; infinite for one that was cut short, or is not ours."""
    return _values(line).get("step", math.inf) if line.endswith(b"\n") else math.inf


def _values(line: bytes) -> dict[str, float]:
    """The numbers of a line by name; empty where it is not a JSON object of numbers."""
    try:
        values = load_json(line)
    except ValueError:
        return {}
    numbers = isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())
    return values if numbers else {}
