"""The options of preference training, by the names that are common in the field, and the counts of a finished one."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pairsight.bounded import read_json
from pairsight.config import BaseConfig, Option
from pairsight.errors import ConfigError, MissingExtraError, ModelError, did_you_mean
from pairsight.models.folders import read_model_json
from pairsight.registry import plain_name


class TrainingConfig(BaseConfig):
    """All options of a training, stored beside the adapter as its record."""

    loss: Annotated[str | tuple[str, ...], Option("--loss")] = Field(
        "dpo", description="e.g. dpo; several, repeated or with commas, are summed"
    )
    loss_weights: tuple[float, ...] = Field((), description="one weight per loss; empty: 1 each")
    beta: Annotated[float | None, Option("--beta")] = Field(
        None, gt=0, description="strength of the pull to the reference; default: the loss's own"
    )
    label_smoothing: float | None = Field(None, ge=0, lt=0.5, description="share of pairs assumed to be flipped")
    average_log_prob: bool = Field(False, description="divide log-probs by the completion's length")
    loss_options: dict[str, float] = Field({}, description="further arguments of the losses, by name")

    learning_rate: Annotated[float, Option("--learning-rate")] = Field(
        5e-6, gt=0, le=1, description="the peak learning rate, of the language model's trained weights"
    )
    projector_learning_rate: float | None = Field(None, gt=0, le=1, description="train the projector; None: frozen")
    vision_learning_rate: float | None = Field(None, gt=0, le=1, description="train the vision tower; None: frozen")
    tuning: Literal["lora", "full"] = Field("lora", description="train low-rank adapters, or the weights themselves")
    lora_r: int = Field(128, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(256.0, gt=0, description="the adapters' scale is lora_alpha / lora_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="one draw serves a prefix that completions share")
    lora_target_modules: tuple[str, ...] = Field(
        (), description="names of linear layers; empty: all of the language model"
    )
    reference: Literal["adapter", "base"] | None = Field(
        None, description="with --adapter: what the policy is compared with; default: that adapter"
    )

    per_device_train_batch_size: int = Field(32, ge=1, description="prompts, with all their completions")
    gradient_accumulation_steps: int = Field(1, ge=1, description="batches per optimizer step")
    parallel: Annotated[Literal["ddp", "fsdp2", "zero2", "zero3"], Option(results=False)] = Field(
        "ddp", description="how several processes hold the policy: complete (DDP), or each a part (FSDP2, DeepSpeed)"
    )
    min_steps_per_epoch: int = Field(
        10,
        ge=0,
        description="lower the batch size until an epoch has this many steps, unless you set it or max_steps; 0: never",
    )
    num_train_epochs: float = Field(1.0, gt=0, description="passes over the data")
    repeat: int = Field(
        1, ge=1, le=100, description="times that each example comes in an epoch, in one random order (SeVa's code: 2)"
    )
    max_steps: int = Field(-1, ge=-1, description="optimizer steps, instead of epochs; -1: by epochs")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    lr_scheduler_type: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt"
    ] = Field("cosine", description="the learning rate's schedule, by transformers' names; a warm-up starts above zero")
    optim: Literal["adamw_torch_fused", "adamw_8bit"] = Field(
        "adamw_torch_fused", description="AdamW with moments in 32 bits, or in 8 (of tensors from 4,096 numbers on)"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: never")
    max_length: int = Field(2048, ge=8, description="tokens of prompt and completion; longer completions are cut")
    overlong: Literal["skip", "fail"] = Field("skip", description="what to do with a prompt longer than max_length")
    seed: Annotated[int, Option("--seed")] = Field(
        42, ge=0, description="the random seed of the order of the data, initial adapter weights and dropout"
    )
    load_in_4bit: bool = Field(
        False, description="keep the language model's linear layers in 4 bits (nf4) below adapters: QLoRA"
    )
    bf16: bool | None = Field(None, description="arithmetic in bfloat16; None: where a GPU can")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass to save memory")
    max_tokens_per_pass: int | None = Field(
        None, ge=64, description="tokens in one forward pass; None: by memory, on a CPU twice that for shared prefixes"
    )
    image_cache_mb: int = Field(1024, ge=0, description="memory for image features, or pixels, between epochs")
    group_by_image: bool = Field(
        False, description="put prompts on one image into the same batch, which computes the image once"
    )
    share_prefixes: bool = Field(True, description="compute what sequences share once; false: one sequence at a time")
    check_first_batch: bool = Field(True, description="compare packed log-probs with a separate computation first")

    dataset_num_proc: Annotated[int | None, Option(results=False)] = Field(
        None,
        ge=1,
        description="processes that tokenise, of many examples alone; None: the machine's cores, at most 8",
    )

    eval_fraction: float = Field(0.0, ge=0, lt=1, description="share of the examples, by image, held out to measure on")
    eval_steps: int = Field(20, ge=1, description="optimizer steps between measurements on held-out examples")
    early_stopping_patience: int = Field(
        0, ge=0, description="stop after this many measurements without a better margin, keep the best; 0: never"
    )

    save_steps: Annotated[int, Option(results=False)] = Field(
        50, ge=1, description="optimizer steps between checkpoints"
    )
    save_total_limit: Annotated[int, Option(results=False)] = Field(2, ge=1, description="checkpoints kept")
    logging_steps: Annotated[int, Option(results=False)] = Field(
        1, ge=1, description="optimizer steps between lines of metrics"
    )
    report_to: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], Option(results=False)] = Field(
        ("tensorboard",), description="where metrics go besides metrics.jsonl"
    )

    @property
    def global_batch(self) -> int:
        """Prompts per optimizer step, on one device; of several, see `on_devices`."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def on_devices(self, count: int) -> Self:
        """What one device would take to train with the global batch of `count` devices."""
        return self.model_copy(update={"per_device_train_batch_size": self.per_device_train_batch_size * count})

    def for_examples(self, count: int) -> Self:
        """The same with a global batch small enough that an epoch of `count` has `min_steps_per_epoch` steps.

        `count` are the examples of an epoch, each as often as it comes in it.

        With `max_steps` set, a smaller batch would only mean fewer examples, so the batch is kept.
        """
        if not self.min_steps_per_epoch or self.max_steps > 0:
            return self
        wanted = min(self.global_batch, max(1, count // self.min_steps_per_epoch))
        per_device = min(self.per_device_train_batch_size, wanted)
        sizes = {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": wanted // per_device}
        return self.model_copy(update=sizes)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The losses' names as a tuple, also for a single one."""
        return (self.loss,) if isinstance(self.loss, str) else self.loss

    @property
    def training_name(self) -> str:
        """The training's default name: its losses' names, joined by `+`."""
        return "+".join(plain_name(name) for name in self.loss_names)

    @property
    def weights_by_loss(self) -> dict[str, float]:
        """Loss name -> its weight in the sum."""
        weights = self.loss_weights or (1.0,) * len(self.loss_names)
        return dict(zip(self.loss_names, weights, strict=True))

    @field_validator("loss", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        names = loss_names(value)
        return value if not names or (isinstance(value, str) and len(names) == 1) else names

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be a number of steps, or -1 for as many as the epochs have")
        return value

    @model_validator(mode="after")
    def _early_stop_has_examples(self) -> Self:
        if self.early_stopping_patience and not self.eval_fraction:
            raise ValueError("early_stopping_patience needs held-out examples: set eval_fraction, e.g. 0.1")
        return self

    @model_validator(mode="after")
    def _frozen_where_4_bits(self) -> Self:
        if self.load_in_4bit and self.tuning == "full":
            raise ValueError("load_in_4bit freezes the weights that tuning=full trains: choose tuning=lora")
        return self

    @model_validator(mode="after")
    def _one_weight_per_loss(self) -> Self:
        if not self.loss_names or len(set(self.loss_names)) != len(self.loss_names):
            raise ValueError("name each loss once, and at least one")
        if self.loss_weights and len(self.loss_weights) != len(self.loss_names):
            needed = f"{len(self.loss_names)} numbers, one per loss ({', '.join(self.loss_names)})"
            raise ValueError(f"loss_weights needs {needed}, found {len(self.loss_weights)}")
        if 0.0 in self.loss_weights:
            raise ValueError("a loss with weight 0 trains nothing: leave that loss out")
        return self


def loss_names(value: Any) -> tuple[str, ...]:
    """The names in a user's value of `loss`: a text, with commas between several, or a list; () for anything else."""
    given = [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
    return tuple(name.strip() for one in given if isinstance(one, str) for name in one.split(","))


PRESETS: Mapping[str, TrainingConfig] = MappingProxyType(
    {
        # Measured on the embedded model: with pairs 1e-4 to 2e-4 works, 5e-4 collapses recall.
        "tiny": TrainingConfig(
            learning_rate=2e-4,
            lora_r=16,
            lora_alpha=32.0,
            beta=0.1,
            per_device_train_batch_size=32,
            gradient_accumulation_steps=1,
            num_train_epochs=2.0,
        ),
    }
)
"""The options of a preset; those in `OF_THE_LOSS` are meant for `dpo`."""
SFT_PRESETS: Mapping[str, TrainingConfig] = MappingProxyType(
    # measured: imitation alone needs and tolerates a higher rate than pairs
    {"tiny": TrainingConfig(learning_rate=5e-4)}
)
"""The options of a preset that replace those when the loss is `sft` alone."""
OF_THE_LOSS = ("beta", "label_smoothing", "average_log_prob", "loss_options", "loss_weights")
"""Options that have another meaning, or none, under another loss. A recipe's or preset's value holds for its own loss
only; all others (learning rate, rank, batch size, epochs, ...) belong to the recipe and are kept whatever the loss."""

OF_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
"""Options that have no effect in full fine-tuning."""


def refuse_unused(given: Collection[str], config: TrainingConfig, adapter: bool = False) -> None:
    """Refuse options that the user gave and that have no effect together with the others.

    Args:
        given: the names of the options that the user gave.
        config: the config made with them.
        adapter: whether the training goes on from an adapter.

    Raises:
        ConfigError: names the first such option.
    """
    unused = {
        "tuning=full trains no adapters": OF_ADAPTERS if config.tuning == "full" else (),
        "no adapter is gone on from: give --adapter": () if adapter or config.reference is None else ("reference",),
        "nothing is held out: set eval_fraction": ("eval_steps",) if not config.eval_fraction else (),
        "lr_scheduler_type=constant has no warm-up, but constant_with_warmup has one": (
            ("warmup_ratio",) if config.lr_scheduler_type == "constant" and config.warmup_ratio else ()
        ),
        "max_steps is set": ("num_train_epochs",) if config.max_steps > 0 else (),
        "share_prefixes=false takes one sequence a pass": () if config.share_prefixes else ("max_tokens_per_pass",),
        "share_prefixes=false computes each sequence separately": (
            () if config.share_prefixes or not config.check_first_batch else ("check_first_batch",)
        ),
    }
    for why, names in unused.items():
        for name in names:
            if name in given:
                raise ConfigError(f"{name} changes nothing, {why}; leave {name} out")


def need_bitsandbytes(config: TrainingConfig) -> None:
    """Refuse options for fewer bits where their package is missing.

    Raises:
        MissingExtraError: names the option and the extra.
    """
    wanted = {"load_in_4bit": config.load_in_4bit, f"optim={config.optim}": config.optim == "adamw_8bit"}
    if asking := [option for option, asks in wanted.items() if asks and find_spec("bitsandbytes") is None]:
        raise MissingExtraError(asking[0], "quant")


def is_sft(loss: Any) -> bool:
    """Whether a loss, a name or a list of names, is `sft` alone: what demonstrations are for."""
    return loss_names(loss) == ("sft",)


def model_presets(model: str | Path | None, loss: Any = None) -> tuple[TrainingConfig, ...]:
    """The presets that a model folder's `pairsight.json` names, for a loss; later ones override earlier ones."""
    file = Path(model) / "pairsight.json" if model is not None else None
    if file is None or not file.is_file():
        return ()
    name = read_model_json(file).get("training_preset")
    if name is None:
        return ()
    if not isinstance(name, str) or name not in PRESETS:
        raise ModelError(f"{file}: unknown training_preset {name!r:.60}{did_you_mean(str(name)[:60], list(PRESETS))}")
    own = PRESETS[name]
    if is_sft(loss) and name in SFT_PRESETS:
        return own, SFT_PRESETS[name]
    return (own,)


SUMMARY = "training.json"
FEW_STEPS = 10
"""With fewer optimizer steps than this, the training says how many it took (ours)."""

_UNSEEN = "no example has an image, or "
_CALLED = {
    "language": ("language model", ""),
    "projector": ("projector", _UNSEEN),
    "vision": ("vision tower", _UNSEEN),
}
"""Name of a part in messages, and why it may not have changed."""


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """Counts of a finished training.

    Args:
        num_examples: trained on, without held-out ones, each once.
        num_steps: optimizer steps taken.
        global_batch: prompts per step.
        asked_batch: prompts per step before it was lowered for a small dataset.
        unchanged: trained parts ("language", "projector", "vision") of which no weight changed.
        repeat: times that each example came in an epoch.
    """

    num_examples: int
    num_steps: int
    global_batch: int
    asked_batch: int
    unchanged: tuple[str, ...] = ()
    repeat: int = 1

    def __str__(self) -> str:
        steps = "optimizer step" if self.num_steps == 1 else "optimizer steps"
        times = f", each {self.repeat} times an epoch," if self.repeat > 1 else ""
        return f"{self.num_examples} examples{times} in {self.num_steps} {steps} of up to {self.global_batch}"

    def sentences(self) -> list[str]:
        """What the user should know: few steps, a lowered batch, parts that did not change."""
        found = []
        if self.global_batch < self.asked_batch:
            found.append(
                f"the global batch was lowered from {self.asked_batch} to {self.global_batch}, so that an epoch has "
                "more steps; set per_device_train_batch_size to keep your own"
            )
        if self.num_steps < FEW_STEPS:
            steps = "step" if self.num_steps == 1 else "steps"
            found.append(
                f"only {self.num_steps} optimizer {steps}: more examples, a smaller batch, or a larger "
                "num_train_epochs (or max_steps, where it is set) give more"
            )
        for part in self.unchanged:
            name, why = _CALLED.get(part, (part, ""))
            found.append(f"no weight of the {name} changed: {why}its learning rate is too low to matter")
        return found

    def to_json(self) -> bytes:
        """The content of the file beside the weights."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The summary in a training's folder; None where it is missing or cannot be read."""
        try:
            plain = read_json(folder / SUMMARY)
            counts = {name: int(plain[name]) for name in ("num_examples", "num_steps", "global_batch", "asked_batch")}
            unchanged = tuple(str(part) for part in plain["unchanged"])
            return cls(**counts, unchanged=unchanged, repeat=int(plain.get("repeat", 1)))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
