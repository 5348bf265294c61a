"""A training on tensors without values: its model, adapters and passes, and what each pass computes and holds."""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from pairsight.images.source import ImageSource
from pairsight.models.load import free_bytes, from_config, pick_device, state_dtype
from pairsight.training.adapter import Origin
from pairsight.training.batch import pack_row
from pairsight.training.config import TrainingConfig
from pairsight.training.examples import Record
from pairsight.training.families import evaluating, language_model
from pairsight.training.forecast.fake import FakeRun, Part
from pairsight.training.kernels.layers import fuse_lora
from pairsight.training.objective import Objective
from pairsight.training.policy import float32_parts, make_policy, num_trained, use_fast_paths
from pairsight.training.precision import Precision
from pairsight.training.ranks.world import World
from pairsight.training.scorer import Pass, Scores, pass_limits
from pairsight.training.trainer import PreferenceTrainer

GIB = 2**30
_CPU = torch.device("cpu")
_USABLE = 0.92
"""The share of a device's memory that tensors can take: the rest is the driver's, or lies between tensors (ours)."""

_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in nf4: 4 bits, a scale of a byte for 64, and of 4 bytes for 256 of these."""


@dataclass(frozen=True, slots=True)
class Device:
    """The device that a training is planned for.

    Args:
        on_gpu: whether it is a GPU, which computes in bfloat16 unless the config says otherwise.
        memory: bytes that are free before the model is loaded.
    """

    on_gpu: bool
    memory: int

    @classmethod
    def of(cls, gigabytes: float | None) -> "Device":
        """A GPU of some GiB; None: the device that this process would train on, as it is now."""
        if gigabytes is not None:
            return cls(True, int(gigabytes * GIB))
        device = pick_device()
        return cls(device.type == "cuda", free_bytes(device))

    @property
    def usable(self) -> int:
        """Bytes that tensors can take."""
        return int(self.memory * _USABLE)

    def precision(self, config: TrainingConfig) -> Precision:
        """The types of weights and products that a config has on this device."""
        if config.bf16 is None:
            config = config.model_copy(update={"bf16": self.on_gpu})
        return Precision.choose(config, _CPU)


@dataclass(frozen=True, slots=True)
class Counted:
    """What a pass computes and holds.

    Args:
        flops: operations.
        peak: bytes by part when they were the most.
    """

    flops: int
    peak: Counter[Part]


def base_without_weights(name: str, config: TrainingConfig, precision: Precision) -> Any:
    """The model of a training, made from its config alone.

    Raises:
        ModelError: the config is missing, or no model can be made from it.
    """
    model = from_config(name, precision.weights)
    exact = float32_parts(config)
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in exact:
            module.float()
    if exact:
        state_dtype(model, model.get_input_embeddings().weight.dtype)
    return model.eval().requires_grad_(False)


def _linear_weights(model: Any) -> list[torch.Tensor]:
    return [module.weight for module in language_model(model).modules() if isinstance(module, nn.Linear)]


class FakeTraining:
    """A training's model, policy and passes.

    Args:
        trainer: whose model and config.
        records: the examples that are prepared.
        images: where their images are.
        device: that it is planned for.
        run: where operations run.
        on: the device of the tensors; a GPU's have no backward pass without one.
    """

    def __init__(
        self,
        trainer: PreferenceTrainer,
        records: Sequence[Record],
        images: ImageSource,
        device: Device,
        *,
        run: FakeRun | None = None,
        on: torch.device = _CPU,
    ) -> None:
        self._folder = TemporaryDirectory()  # the training's tokens in a file
        trainer = copy(trainer)
        trainer.out = Path(self._folder.name)
        self.config, self.device = trainer.config, device
        self.run = run or FakeRun()
        self.objective = Objective(self.config)
        self.precision = device.precision(self.config)
        with on, self.run.part("weights"):
            self.model: Any = base_without_weights(trainer.model, self.config, self.precision)
        use_fast_paths(self.model)
        origin = Origin(trainer.model, "", "", len(records), self.config)
        self.table, self.scorer = trainer.prepare(
            self.model, images, records, origin, self.objective, self.precision, World()
        )
        self._seen: set[int] = set()
        self._row_tokens: dict[tuple[int, ...], int] = {}
        self._in_4_bits = _linear_weights(self.model) if self.config.load_in_4bit else []
        self._limit(0, checkpointing=False)  # those of the reference's passes, which keep nothing anyway
        self.tower = self._count_tower()

    def make_policy(self, feature_bytes: int) -> None:
        """Add what is trained; from here on passes are those of the training, beside the features of all images."""
        with self.run.part("weights"):
            self.model = make_policy(self.model, self.config)
        fuse_lora(self.model)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self.run.bytes.move(parameter, "trained")
                parameter.register_post_accumulate_grad_hook(self._mark_gradient)
        self.model.train()
        self._limit(feature_bytes, checkpointing=self.config.gradient_checkpointing)

    @property
    def num_trained(self) -> int:
        """Trained parameters."""
        return num_trained(self.model)

    @property
    def optimizer_bytes(self) -> int:
        """AdamW's two moments."""
        return 2 * (4 if self.config.optim == "adamw_torch_fused" else 1) * self.num_trained

    @property
    def saved_in_4_bits(self) -> int:
        """Bytes that nf4 saves of the weights, less those of the one weight that is read at a time."""
        size = self.precision.weights.itemsize
        saved = sum(weight.numel() * (size - _NF4_BYTES) for weight in self._in_4_bits)
        return int(saved - max((weight.numel() * size for weight in self._in_4_bits), default=0))

    @property
    def feature_bytes_per_token(self) -> float:
        """Bytes kept of the image features, or of the tower's output, for each placeholder token."""
        return self._kept / self._seen_tokens if self._seen_tokens else 0.0

    @property
    def tower_flops_per_token(self) -> float:
        """Operations of the vision tower, once an image, for each placeholder token; 0 where passes count them."""
        return self.tower.flops / self._seen_tokens if self._kept else 0.0

    def tower_beside_trained(self) -> Counted:
        """What the vision tower takes on the first images, beside what is trained now."""
        return Counted(self.tower.flops, self.tower.peak + Counter({"trained": self.run.bytes.now["trained"]}))

    def num_tokens(self, rows: Pass) -> int:
        """Tokens of a pass, padding included."""
        for row in rows:
            if row not in self._row_tokens:
                self._row_tokens[row] = len(pack_row([self.scorer.examples[number] for number in row]).tree)
        return len(rows) * max(self._row_tokens[row] for row in rows)

    def forward(self, rows: Pass) -> Counted:
        """What a pass takes without gradients, once the features of its images are known."""
        with torch.no_grad(), evaluating(self.model):
            self._prepare_features(rows)
            return self._counted(lambda: self._score(rows))

    def step(self, rows: Pass, *, first: bool) -> Counted:
        """What a pass takes with its backward pass.

        Args:
            rows: the pass.
            first: whether no gradients are held before it, as in the first pass of an optimizer step.
        """
        self._prepare_features(rows)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = None
        if not first:
            with self.run.part("gradients"):
                for parameter in trained:
                    parameter.grad = torch.zeros_like(parameter)
        counted = self._counted(lambda: self._score(rows).sums_Q.sum().backward())  # type: ignore[no-untyped-call]
        for parameter in trained:
            parameter.grad = None
        return counted

    def _prepare_features(self, rows: Pass) -> None:
        """Run a pass once, so that the features of its images are kept as far as they are in a training."""
        numbers = {number for row in rows for number in row}
        if not numbers <= self._seen:
            with self.run, torch.no_grad():
                self._score(rows)
            self._seen |= numbers

    def _score(self, rows: Pass) -> Scores:
        return self.scorer.score(self.scorer.packed(self.model), rows)

    def _counted(self, compute: Callable[[], object]) -> Counted:
        held = Counter(self.run.bytes.now)
        self.run.bytes.start()
        before = self.run.flops
        with self.run:
            compute()
        peak = Counter(self.run.bytes.peak)
        peak["activations"] -= held["activations"]  # what is kept between passes: features
        return Counted(self.run.flops - before, peak)

    def _count_tower(self) -> Counted:
        """The features of the first images: what they take, and how much is kept of them."""
        scoring, units = self.scorer.scoring, self.scorer.scoring.tokeniser.units
        first = range(min(4, units.catalogue.num_units))
        self._seen_tokens = sum(units.num_tokens(unit) for unit in first)
        before = self.run.bytes.now["activations"]

        def features() -> None:
            with torch.no_grad(), scoring.precision.compute(self.model.device):
                scoring.features(self.model, first)

        counted = self._counted(features)
        self._kept = self.run.bytes.now["activations"] - before
        return counted

    def _mark_gradient(self, parameter: Any) -> None:
        self.run.bytes.move(parameter.grad, "gradients")

    def _limit(self, feature_bytes: int, *, checkpointing: bool) -> None:
        now = self.run.bytes.now
        held = now["weights"] + now["trained"] + feature_bytes - self.saved_in_4_bits
        free = self.device.usable - held if self.device.on_gpu else None
        self.scorer.limits = pass_limits(
            self.model,
            self.config.max_tokens_per_pass,
            self.precision,
            num_trained=self.num_trained,
            checkpointing=checkpointing,
            free=free,
        )
