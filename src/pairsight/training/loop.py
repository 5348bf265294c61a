"""The training loop: `transformers.Trainer`, told how a step computes its loss from packed rows."""

import json
import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.integrations import TensorBoardCallback

from pairsight.errors import TrainingError
from pairsight.store.durable import sync_file, write_file, written_by_a_library
from pairsight.training import checkpoints
from pairsight.training.config import TrainingConfig
from pairsight.training.held_out import HeldOut
from pairsight.training.objective import StepMetrics, offenders
from pairsight.training.policy import parameter_groups
from pairsight.training.preference_step import PreferenceStep, StepResult


class ImageGroups(Sampler[int]):
    """Groups in random order, their members in random order; another order each epoch, the same for the same seed.

    A group larger than a batch comes in several runs of a batch's size, each with a place of its own in the order.

    Args:
        keys: what stands for each example's image; examples of one key belong together.
        batch_size: the longest run of one group.
        seed: of the order.

    Source: ours.
    """

    def __init__(self, keys: Sequence[Hashable], batch_size: int, seed: int) -> None:
        self._groups: dict[Hashable, list[int]] = {}
        for place, key in enumerate(keys):
            self._groups.setdefault(key, []).append(place)
        self._num_examples, self._batch_size, self._seed, self._epoch = len(keys), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._num_examples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self._seed << 20) + self._epoch)
        runs: list[list[int]] = []
        for members in self._groups.values():
            mixed = [members[i] for i in torch.randperm(len(members), generator=generator).tolist()]
            runs += [mixed[i : i + self._batch_size] for i in range(0, len(mixed), self._batch_size)]
        for number in torch.randperm(len(runs), generator=generator).tolist():
            yield from runs[number]


_LOG = logging.getLogger("pairsight.training")

_EXPLODED = 1e4
"""How many times its own scale (at least 1) a loss may reach."""


class Loop(Trainer):  # type: ignore[misc]
    """Trains on examples named by number.

    Args:
        model: the policy, trainable parts marked.
        args: from `training_arguments`.
        config: the options args were made from.
        step: from a pass to its loss.
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
        step: PreferenceStep,
        metrics_file: Path,
        train_numbers: Sequence[int],
        held_out: HeldOut | None = None,
        on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    ) -> None:
        self.config = config
        self._step, self._scorer = step, step.scorer
        self._metrics, self.metrics_file, self._on_step = StepMetrics(), metrics_file, on_step
        self.held_out = held_out
        self.loss_state: dict[str, float] = {}
        self._window = _Window()
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

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule asked for, with a warm-up that starts above zero: step i of W is taken at (i + 1) / (W + 1).

        At least the last step is no warm-up.
        """
        warmup = min(self.args.get_warmup_steps(num_training_steps), num_training_steps - 1)
        kind, options = self.args.lr_scheduler_type, {}
        if kind == "polynomial" and self.args.learning_rate <= 1e-7:  # the end that transformers has
            options["lr_end"] = self.args.learning_rate / 10
        optimizer = optimizer or self.optimizer
        scheduler = get_scheduler(kind, optimizer, warmup, num_training_steps, scheduler_specific_kwargs=options)
        scheduler.lr_lambdas = [_rising(rule, warmup) for rule in scheduler.lr_lambdas]
        for group, base, rule in zip(
            scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * rule(0)
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
        self.lr_scheduler = scheduler
        return scheduler

    def _wrap_model(self, model: Any, *arguments: Any, **options: Any) -> Any:
        """The model itself: training runs on one device."""
        return model

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
        """Forward and backward of all passes of a batch; the gradient is that of the global batch's mean loss.

        Where memory does not hold a pass, the gradients of the global batch so far are dropped, for they may be those
        of half a pass, and computed again in smaller passes.
        """
        model.train()
        num_prompts, num_tokens = num_items_in_batch.tolist()
        window = self._window
        window.batches.append(inputs["examples"].tolist())
        total = self._backward(model, window.batches[-1], num_prompts, num_tokens)
        while total is None:
            self._scorer.use_smaller_passes()
            model.zero_grad()
            window.results.clear()
            totals = [self._backward(model, batch, num_prompts, num_tokens) for batch in window.batches]
            total = None if any(one is None for one in totals) else totals[-1]
        return total

    def _backward(self, model: Any, numbers: list[int], num_prompts: float, num_tokens: float) -> Tensor | None:
        """Gradients of a batch, and its part of the loss; None where memory was short."""
        total = torch.zeros((), device=self.args.device)
        try:
            for rows in self._scorer.passes(numbers):
                result = self._step.run(model, rows, self.loss_state, num_prompts, num_tokens)
                self._check(result)
                self.accelerator.backward(result.total)
                result = replace(result, total=result.total.detach(), at_reference=float)
                self._window.results.append(result)
                total += result.total
        except torch.OutOfMemoryError:
            return None
        return total

    def _check(self, result: StepResult) -> None:
        """Stop where a loss is not finite or has exploded.

        Raises:
            TrainingError: with the ids to blame.
        """
        loss_B, step = result.loss_B, self.state.global_step + 1
        if bad := offenders(result.ids, loss_B):
            raise TrainingError(f"the loss is not finite at step {step} for {_some(bad)}")
        largest = float(loss_B.abs().max())
        if largest > _EXPLODED and self._step.objective.needs_reference and largest > _EXPLODED * result.at_reference():
            worst = result.ids[int(loss_B.abs().argmax())]
            raise TrainingError(f"the loss exploded to {largest:.3g} at step {step} for '{worst}'; lower learning_rate")

    def finish_step(self) -> None:
        """After an optimizer step: running numbers of coupled losses move on."""
        done = self.state.global_step - 1
        for name, mean in self._window.state_means().items():
            before = self.loss_state.get(name, 0.0)
            running = self._step.objective.running[name]
            self.loss_state[name] = mean if running == "last" else before + (mean - before) / (done + 1)
        for result in self._window.results:
            self._metrics.add(result.metrics_B)
        self._window = _Window()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise TrainingError(
                f"the gradient is not finite at step {self.state.global_step + 1} for {_some(self._window.ids)}"
            )
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's weights: what is trained, by the model's own names."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save_weights(self.model, folder / checkpoints.WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoints.load_weights(self.model, Path(resume_from_checkpoint) / checkpoints.WEIGHTS)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write, mark, and only then remove older ones."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with written_by_a_library(folder):
            checkpoints.clear(folder)
            super()._save_checkpoint(model, trial)
            if self.held_out is not None:
                self.held_out.keep_best_in(folder)
            if self.metrics_file.is_file():
                sync_file(self.metrics_file)
            checkpoints.mark_complete(
                folder,
                ended=self.control.should_training_stop,
                loss_state=self.loss_state,
                held_out=None if self.held_out is None else self.held_out.state(),
            )
            checkpoints.rotate(folder.parent, self.state.global_step, self.config.save_total_limit)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our metrics to each logged step, and keep them as JSON lines."""
        if "loss" in logs:
            logs.update(self._metrics.take())
            self._on_step(self.state.global_step, logs)
        if "loss" in logs or "eval_loss" in logs:
            with written_by_a_library(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.global_step, **logs}) + "\n")
        super().log(logs, start_time)


def _rising(rule: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """A schedule's factor by step; a warm-up that starts at zero is replaced by one that does not."""
    if rule(0) > 0:
        return rule
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else rule(step)


@dataclass(slots=True)
class _Window:
    """The global batch at work: its batches of examples, and what their passes gave."""

    batches: list[list[int]] = field(default_factory=list)
    results: list[StepResult] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """Of all examples so far."""
        return [name for result in self.results for name in result.ids]

    def state_means(self) -> dict[str, float]:
        """Means over prompts of the losses' running numbers."""
        sums: dict[str, float] = {}
        for result in self.results:
            for name, value_B in result.state.items():
                sums[name] = sums.get(name, 0.0) + float(value_B.sum())
        count = sum(len(batch) for batch in self.batches)
        return {name: total / count for name, total in sums.items()}


class _Marks(TrainerCallback):  # type: ignore[misc]
    """Moves running numbers on after each step, and measures on held-out examples."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._loop.finish_step()
        held_out = self._loop.held_out
        if held_out is not None and state.global_step % self._loop.config.eval_steps == 0:
            metrics = held_out.measure(self._loop.model)
            self._loop.log(metrics)
            control.should_training_stop |= held_out.should_stop(self._loop.model, state.global_step, metrics)
        # A line covers the steps since the last: begun anew at each checkpoint, it is the same after resuming.
        control.should_log |= control.should_save


def training_arguments(config: TrainingConfig, folder: Path, *, use_cpu: bool) -> TrainingArguments:
    """Our options as `transformers` takes them; checkpoints go to `folder`."""
    arguments = TrainingArguments(
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
        save_total_limit=None,  # see `checkpoints.rotate`
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[name for name in config.report_to if name != "tensorboard"] or "none",
        use_cpu=use_cpu,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # else transformers copies the model to every GPU it sees
    return arguments


def resume_point(loop: Loop, checkpoint: checkpoints.Checkpoint | None) -> None:
    """Bring running numbers back to a checkpoint, and drop lines of metrics written after it."""
    if checkpoint is not None:
        loop.loss_state = dict(checkpoint.loss_state)
        if loop.held_out is not None and checkpoint.held_out is not None:
            loop.held_out.load_state(checkpoint.held_out, checkpoint.folder)
    if loop.metrics_file.is_file():
        lines = loop.metrics_file.read_bytes().splitlines(keepends=True)
        last = 0 if checkpoint is None else checkpoint.step
        write_file(loop.metrics_file, b"".join(line for line in lines if _metrics_step(line) <= last))


def _metrics_step(line: bytes) -> float:
    """The step of a line of metrics; infinite for one that was cut short."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(f"'{i}'" for i in ids[:5]) + more
