"""What surrounds the steps of a training: options, optimizer, schedule, order of examples, checkpoints and metrics.

Built on `transformers.Trainer`.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.integrations import TensorBoardCallback

from pairsight.errors import TrainingError, one_line
from pairsight.store.durable import written_by_a_library
from pairsight.training import checkpoints
from pairsight.training.config import TrainingConfig
from pairsight.training.data.held_out import HeldOut
from pairsight.training.metrics import MetricsFile, StepMetrics
from pairsight.training.policy import parameter_groups
from pairsight.training.ranks.world import Replica, by_name
from pairsight.training.tokens import Examples


class LoopBase(Trainer):  # type: ignore[misc]
    """A training without its step, which a subclass defines.

    Args:
        replica: the policy, with its trainable parts marked.
        args: from `training_arguments`.
        config: the options from which args were made.
        examples: the full dataset.
        train_numbers: the examples to train on.
        metrics_file: where logged steps are added.
        held_out: measures on the other examples.
        on_step: called after each step with (step, its metrics).
    """

    optimizer: Any

    def __init__(
        self,
        replica: Replica,
        args: TrainingArguments,
        *,
        config: TrainingConfig,
        examples: Examples,
        train_numbers: Sequence[int],
        metrics_file: MetricsFile,
        held_out: HeldOut | None = None,
        on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    ) -> None:
        self.replica, self.config, self.held_out = replica, config, held_out
        self.step_metrics, self.metrics_file = StepMetrics(), metrics_file
        self.loss_state: dict[str, float] = {}
        self._examples, self._on_step = examples, on_step
        super().__init__(
            model=replica.packed,
            args=args,
            train_dataset=list(train_numbers),
            data_collator=lambda numbers: {"examples": numbers},
            callbacks=[_AfterStep(self)],
        )
        self.remove_callback(PrinterCallback)
        if "tensorboard" in config.report_to and replica.world.first:
            from torch.utils.tensorboard import SummaryWriter

            self.add_callback(TensorBoardCallback(SummaryWriter(str(metrics_file.path.parent / "tensorboard"))))

    def finish_step(self) -> None:
        """Called after each optimizer step."""
        raise NotImplementedError

    def resume(self, checkpoint: checkpoints.Checkpoint | None) -> None:
        """Restore running numbers from a checkpoint, and remove lines of metrics written after it."""
        if checkpoint is not None:
            self.loss_state = dict(checkpoint.loss_state)
            if self.held_out is not None and checkpoint.held_out is not None:
                self.held_out.resume(checkpoint.held_out, checkpoint.folder, copy=self.replica.world.first)
        if self.replica.world.first:
            self.metrics_file.remove_after(0 if checkpoint is None else checkpoint.step)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate for each trained part."""
        if self.optimizer is None:
            groups = parameter_groups(self.replica.policy, self.config)
            if self.config.optim == "adamw_8bit":
                self.optimizer = _adamw_8bit(groups, self.config.learning_rate, self.replica.policy)
            else:
                self.optimizer = self.replica.optimizer(groups, self.config.learning_rate)
        return self.optimizer  # type: ignore[no-any-return]

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = self.replica.norm()
        return super()._clip_grad_norm(model) if norm is None else norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:
            grad_norm = self.replica.norm()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule asked for, with a warm-up that starts above zero: step i of W is taken at (i + 1) / (W + 1).

        The last step is never part of the warm-up.
        """
        warmup = min(self.args.get_warmup_steps(num_training_steps), num_training_steps - 1)
        kind, options = self.args.lr_scheduler_type, {}
        if kind == "polynomial" and self.args.learning_rate <= 1e-7:  # transformers' own final rate
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
        """The policy as this rank holds it; nothing is left to accelerate."""
        return self.replica.module

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Examples in random order, or images in random order with their examples together."""
        if not self.config.group_by_image:
            return super()._get_train_sampler(train_dataset)
        units = self._examples.first_units_E[self.train_dataset].tolist()
        image_ids = [-1 - index if unit < 0 else unit for index, unit in enumerate(units)]
        return ImageGroups(image_ids, self.config.per_device_train_batch_size, self.config.seed)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's weights: the trained ones, under the model's own names."""
        trained = by_name(self.replica.trained(), keep=self.replica.world.first)
        if self.replica.world.first:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            checkpoints.save_weights(trained, folder / checkpoints.WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoints.load_weights(
            self.replica.policy, Path(resume_from_checkpoint) / checkpoints.WEIGHTS, self.replica.assign
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _read_from(checkpoint, "optimizer"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _read_from(checkpoint, "random generator"):
            super()._load_rng_state(checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write, mark, and only then remove older ones; ranks other than the first give it what they hold."""
        if not self.replica.world.first:
            self.save_model()
            self.optimizer.state_dict()
            self.replica.world.wait()
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with written_by_a_library(folder):
            checkpoints.clear(folder)
            super()._save_checkpoint(model, trial)
            if self.held_out is not None:
                self.held_out.keep_best_in(folder)
            self.metrics_file.sync()
            checkpoints.mark_complete(
                folder,
                ended=self.control.should_training_stop,
                loss_state=self.loss_state,
                held_out=None if self.held_out is None else self.held_out.best,
            )
            checkpoints.rotate(folder.parent, self.state.global_step, self.config.save_total_limit)
        self.replica.world.wait()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our metrics to each logged step, and keep them in the metrics file."""
        if "loss" in logs:
            logs.update(self.replica.world.total({"loss": logs["loss"]}))
            logs.update(self.step_metrics.take(self.replica.world.total))
            self._on_step(self.state.global_step, logs)
        if self.replica.world.first and ("loss" in logs or "eval_loss" in logs):
            self.metrics_file.append(self.state.global_step, logs)
        super().log(logs, start_time)


def _adamw_8bit(groups: Any, rate: float, policy: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes; embeddings that are trained keep moments of 32 bits, as bitsandbytes advises."""
    from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

    optimizer = AdamW8bit(groups, lr=rate, weight_decay=0.0)
    optimizer.mng = GlobalOptimManager.__new__(GlobalOptimManager)  # its own: the shared one never forgets a weight
    optimizer.mng.initialize()
    embeddings = [module.weight for module in policy.modules() if isinstance(module, torch.nn.Embedding)]
    optimizer.mng.override_config(embeddings, "optim_bits", 32)
    return optimizer  # type: ignore[no-any-return]


@contextmanager
def _read_from(checkpoint: str | None, what: str) -> Iterator[None]:
    """While PyTorch reads a state from a checkpoint, which may hold anything: what it refuses is one clear error."""
    try:
        yield
    except (UnpicklingError, EOFError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        why = "not only numbers" if isinstance(error, UnpicklingError) else one_line(error, 120)
        raise TrainingError(
            f"{checkpoint} holds no state of this training's {what} ({why}); remove that folder to "
            "resume from an earlier checkpoint, or to start over"
        ) from None


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    """Finishes each optimizer step, and measures on held-out examples."""

    def __init__(self, loop: LoopBase) -> None:
        self._loop = loop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._loop.finish_step()
        held_out = self._loop.held_out
        if held_out is not None and state.global_step % self._loop.config.eval_steps == 0:
            metrics = held_out.measure(self._loop.replica)
            self._loop.log(metrics)
            control.should_training_stop |= held_out.should_stop(self._loop.replica, state.global_step, metrics)
        # A line covers the steps since the last: as one ends at each checkpoint, lines are the same after resuming.
        control.should_log |= control.should_save


class ImageGroups(Sampler[int]):
    """Images in random order, their examples together and in random order; the order depends on seed and epoch.

    An image with more examples than a batch comes in several runs of a batch's size, each at its own position.

    Args:
        image_ids: one per example, the same for examples on one image.
        batch_size: the longest run of one image.
        seed: of the order.

    Source: ours.
    """

    def __init__(self, image_ids: Sequence[Hashable], batch_size: int, seed: int) -> None:
        self._groups: dict[Hashable, list[int]] = {}
        for index, image_id in enumerate(image_ids):
            self._groups.setdefault(image_id, []).append(index)
        self._num_examples, self._batch_size, self._seed, self._epoch = len(image_ids), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next."""
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


def training_arguments(config: TrainingConfig, folder: Path, *, use_cpu: bool) -> TrainingArguments:
    """Our options as those of `transformers`; checkpoints go to `folder`."""
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


def _rising(rule: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """A schedule's factor by step, with a warm-up that starts above zero."""
    if rule(0) > 0:
        return rule
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else rule(step)
