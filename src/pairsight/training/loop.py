"""The training loop: `transformers.Trainer`, told how a step computes its loss from packed rows."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from pairsight.errors import TrainingError
from pairsight.training.config import TrainingConfig
from pairsight.training.held_out import HeldOut
from pairsight.training.image_groups import ImageGroups
from pairsight.training.objective import Objective, loss_inputs
from pairsight.training.policy import parameter_groups
from pairsight.training.reference import ReferenceStore, reference_sums
from pairsight.training.scorer import SequenceScorer
from pairsight.training.step_metrics import StepMetrics, offenders, preference_metrics

_LOG = logging.getLogger("pairsight.training")

COMPLETE = "complete.json"
"""Written last into a checkpoint: one without it was cut short and is not resumed from."""

_EXPLODED = 1e4
"""How many times its own scale (at least 1) a loss may reach."""


class Loop(Trainer):  # type: ignore[misc]
    """Trains on examples named by number.

    Args:
        model: the policy, trainable parts marked.
        args: from `training_arguments`.
        config: the options args were made from.
        scorer: the dataset and how to score it.
        objective: the losses.
        reference: log-probs under the reference; None when no loss needs them.
        metrics_file: one JSON line a logged step.
        train_numbers: the examples trained on.
        held_out: measures on the others.
        on_step: called after each step with (step, its metrics).
    """

    optimizer: Any

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        config: TrainingConfig,
        scorer: SequenceScorer,
        objective: Objective,
        reference: ReferenceStore | None,
        metrics_file: Path,
        train_numbers: Sequence[int],
        held_out: HeldOut | None = None,
        on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    ) -> None:
        self.config = config
        self._scorer, self._objective, self._reference = scorer, objective, reference
        self._metrics, self.metrics_file, self._on_step = StepMetrics(), metrics_file, on_step
        self.held_out = held_out
        self.loss_state: dict[str, float] = {}
        self._state_sums: dict[str, float] = {}
        self._step_ids: list[str] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=list(train_numbers),
            data_collator=lambda numbers: {"examples": torch.tensor(numbers)},
            callbacks=[_Marks(self)],
        )
        self.remove_callback(PrinterCallback)
        if "tensorboard" in config.report_to:
            from torch.utils.tensorboard import SummaryWriter

            self.add_callback(TensorBoardCallback(SummaryWriter(str(metrics_file.parent / "tensorboard"))))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate for each part that is trained."""
        if self.optimizer is None:
            groups = parameter_groups(self.model if model is None else model, self.config)
            self.optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        return self.optimizer  # type: ignore[no-any-return]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Examples in random order, or images in random order with their examples together."""
        if not self.config.group_by_image:
            return super()._get_train_sampler(train_dataset)
        units = [self._scorer.examples[number].first_unit for number in self.train_dataset]
        keys = [-1 - place if unit is None else unit for place, unit in enumerate(units)]
        return ImageGroups(keys, self.config.per_device_train_batch_size, self.config.seed)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Prompts, and chosen completion tokens, of the whole global batch."""
        numbers = torch.cat([batch["examples"] for batch in batch_samples]).tolist()
        tokens = sum(self._scorer.examples[n].chosen_length for n in numbers)
        return self.accelerator.reduce(torch.tensor([float(len(numbers)), float(tokens)], device=device))  # type: ignore[no-any-return]

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Tensor) -> Tensor:
        """Forward and backward of all passes of a batch; the gradient is that of the global batch's mean loss."""
        model.train()
        num_prompts, num_tokens = num_items_in_batch.tolist()
        total = torch.zeros((), device=self.args.device)
        for rows in self._scorer.passes(inputs["examples"].tolist()):
            with self.compute_loss_context_manager():
                loss = self._loss(model, rows, num_prompts, num_tokens)
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _loss(self, model: Any, rows: Any, num_prompts: float, num_tokens: float) -> Tensor:
        scores = self._scorer.score(model, rows)
        examples = [self._scorer.examples[n] for n in scores.examples]
        reference_Q = None if self._reference is None else reference_sums(self._reference, examples)
        x = loss_inputs(examples, scores.sums_Q, reference_Q, self.loss_state)
        step = self._objective(x, num_prompts, num_tokens)
        ids = [example.id for example in examples]
        self._step_ids += ids
        if bad := offenders(ids, step.loss_B):
            raise TrainingError(f"the loss is not finite at step {self.state.global_step + 1} for {_some(bad)}")
        largest = float(step.loss_B.abs().max())
        exploded = largest > _EXPLODED and self._objective.needs_reference
        if exploded and largest > _EXPLODED * self._objective.at_reference(x):
            worst = ids[int(step.loss_B.abs().argmax())]
            raise TrainingError(
                f"the loss exploded to {largest:.3g} at step {self.state.global_step + 1} for '{worst}'; "
                "lower learning_rate"
            )
        self._metrics.add(preference_metrics(x, step.rewards_BK))
        for name, value_B in step.state.items():
            self._state_sums[name] = self._state_sums.get(name, 0.0) + float(value_B.sum()) / num_prompts
        return step.total

    def finish_step(self) -> None:
        """After an optimizer step: running numbers of coupled losses move on."""
        done = self.state.global_step - 1
        for name, mean in self._state_sums.items():
            before = self.loss_state.get(name, 0.0)
            running = self._objective.running[name]
            self.loss_state[name] = mean if running == "last" else before + (mean - before) / (done + 1)
        self._state_sums.clear()
        self._step_ids.clear()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(
                f"the gradient is not finite at step {self.state.global_step + 1} for {_some(self._step_ids)}"
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our metrics to each logged step, and keep them as JSON lines."""
        if "loss" in logs:
            logs.update(self._metrics.take())
            self._on_step(self.state.global_step, logs)
        if "loss" in logs or "eval_loss" in logs:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        super().log(logs, start_time)


class _Marks(TrainerCallback):  # type: ignore[misc]
    """Moves running numbers on after each step, and marks checkpoints that are whole."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._loop.finish_step()
        held_out = self._loop.held_out
        if held_out is not None and state.global_step % self._loop.config.eval_steps == 0:
            metrics = held_out.measure(self._loop.model)
            self._loop.log(metrics)
            control.should_training_stop |= held_out.should_stop(self._loop.model, state.global_step, metrics)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        held_out = self._loop.held_out.state() if self._loop.held_out is not None else None
        about = {"step": state.global_step, "loss_state": self._loop.loss_state, "held_out": held_out}
        draft = folder / f".{COMPLETE}"
        draft.write_text(json.dumps(about), encoding="utf-8")
        draft.replace(folder / COMPLETE)


def training_arguments(config: TrainingConfig, folder: Path, *, use_cpu: bool, autocast: bool) -> TrainingArguments:
    """Our options as `transformers` takes them; checkpoints go to `folder`."""
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps if config.max_steps > 0 else -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=config.save_total_limit,
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[name for name in config.report_to if name != "tensorboard"] or "none",
        use_cpu=use_cpu,
        bf16=autocast,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def resume_point(loop: Loop, checkpoint: Path | None) -> None:
    """Bring running numbers back to a checkpoint, and drop lines of metrics written after it."""
    step = 0
    if checkpoint is not None:
        about = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        step, loop.loss_state = int(about["step"]), dict(about["loss_state"])
        if loop.held_out is not None and about["held_out"] is not None:
            loop.held_out.load_state(about["held_out"])
    if loop.metrics_file.is_file():
        lines = loop.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        loop.metrics_file.write_text("".join(kept), encoding="utf-8")


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(f"'{i}'" for i in ids[:5]) + more
