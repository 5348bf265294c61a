"""The training loop: plan passes, score, loss, backward, step."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from pairsight.errors import TrainingError
from pairsight.training.loop_base import LoopBase
from pairsight.training.preference_step import PreferenceStep, StepResult, some
from pairsight.training.ranks.world import Replica


class Loop(LoopBase):
    """Trains on examples named by number.

    Args:
        replica: the policy, with its trainable parts marked.
        args: from `training_arguments`.
        step: computes the loss of a pass.
        options: those of `LoopBase`.
    """

    def __init__(self, replica: Replica, args: TrainingArguments, step: PreferenceStep, **options: Any) -> None:
        self._step, self._global_batch = step, _GlobalBatch()
        super().__init__(replica, args, examples=step.scorer.examples, **options)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Prompts, and chosen completion tokens, of the full global batch, which every rank knows; on the CPU."""
        numbers = [number for batch in batch_samples for number in batch["examples"]]
        tokens = int(self._examples.chosen_lengths_E[numbers].sum())
        return torch.tensor([float(len(numbers)), float(tokens)])

    def training_step(self, model: Any, inputs: dict[str, list[int]], num_items_in_batch: Tensor) -> Tensor:
        """Forward and backward of all passes of a batch; the gradient is that of the global batch's mean loss.

        If a pass does not fit into memory, the gradients of the global batch so far are dropped, because they may
        include half a pass, and computed again in smaller passes; among several processes it is an error.
        """
        model.train()
        num_prompts, num_tokens = num_items_in_batch.tolist()
        done = self._global_batch
        if not done.batches:
            self.replica.start_step(self.config.seed, self.state.global_step)
        done.batches.append(list(inputs["examples"]))
        total = self._backward(model, done.batches[-1], num_prompts, num_tokens)
        while total is None:
            self._step.scorer.use_smaller_passes()
            model.zero_grad()
            done.results.clear()
            totals = [self._backward(model, batch, num_prompts, num_tokens) for batch in done.batches]
            total = None if any(one is None for one in totals) else totals[-1]
        if self.accelerator.sync_gradients:
            self.replica.complete_gradients(self._examples[n] for batch in done.batches for n in batch)
        return total

    def _backward(self, model: Any, numbers: list[int], num_prompts: float, num_tokens: float) -> Tensor | None:
        """Gradients of a batch, and its part of the loss; None if memory ran out."""
        total = torch.zeros((), device=self.args.device)
        try:
            for turn in self.replica.turns(self._step.scorer, numbers, last=self.accelerator.sync_gradients):
                with self.replica.pass_of(turn):
                    if not turn.counts:
                        scores = self._step.scorer.score(model, turn.rows, turn.calls)
                        self.replica.backward(scores.sums_Q.sum(), turn)
                        continue
                    result = self._step.run(model, turn.rows, self.loss_state, num_prompts, num_tokens, turn.calls)
                    if total.device.type == "cpu":
                        self._step.check([result], self.state.global_step + 1)
                    self.replica.backward(result.total, turn)
                result = result.detached()
                self._global_batch.results.append(result)
                total += result.total
        except torch.OutOfMemoryError:
            if self.replica.world.size > 1:
                raise
            return None
        return total

    def finish_step(self) -> None:
        """After an optimizer step: update the running numbers of coupled losses."""
        done = self.state.global_step - 1
        for name, mean in self._state_means().items():
            before = self.loss_state.get(name, 0.0)
            running = self._step.objective.running[name]
            self.loss_state[name] = mean if running == "last" else before + (mean - before) / (done + 1)
        for result in self._global_batch.results:
            self.step_metrics.add(result.metrics_B)
        self._global_batch = _GlobalBatch()

    def _state_means(self) -> dict[str, float]:
        """Means over the prompts of all ranks of the losses' running numbers."""
        if not self._step.objective.running:
            return {}
        sums: dict[str, float] = {}
        for result in self._global_batch.results:
            for name, value_B in result.state.items():
                sums[name] = sums.get(name, 0.0) + float(value_B.sum())
        count = sum(len(batch) for batch in self._global_batch.batches)
        return {name: total / count for name, total in self.replica.world.total(sums).items()}

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        results = self._global_batch.results
        if results and results[0].loss_B.device.type != "cpu":
            self._step.check(results, self.state.global_step + 1)  # a device is waited for once a step
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(
                f"the gradient is not finite at step {self.state.global_step + 1} for {some(self._global_batch.ids)}"
            )
        return norm


@dataclass(slots=True)
class _GlobalBatch:
    """The current global batch: its batches of examples, and the results of their passes."""

    batches: list[list[int]] = field(default_factory=list)
    results: list[StepResult] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids of all examples so far."""
        return [name for result in self.results for name in result.ids]
