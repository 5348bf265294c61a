"""What a training will take: tokens, arithmetic, memory by part, and the first setting that makes it fit."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from pairsight.records import Demonstration, ImageRef
from pairsight.registry import plugins
from pairsight.training.config import TrainingConfig
from pairsight.training.examples import Record
from pairsight.training.forecast.fake import Part
from pairsight.training.forecast.fake_training import Counted, Device, FakeTraining
from pairsight.training.forecast.fitting import first_that_fits
from pairsight.training.scorer import Pass
from pairsight.training.trainer import PreferenceTrainer

_ALL, _FIRST, _TOGETHER, _LONGEST = 544, 256, 256, 32
"""Up to this many examples are all prepared; of more, the first of an epoch, neighbours, and the longest."""
_COUNTED = 3
"""Passes whose operations are counted: those of the others lie between, by their tokens."""
_NAMES: Mapping[Part, str] = {
    "weights": "weights",
    "trained": "trained weights",
    "gradients": "gradients",
    "activations": "activations",
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Mean tokens of an example: its prompt, of these the images', its completions, and all after sharing prefixes.

    `most` is the number of tokens, prefixes shared, of the largest example.
    """

    prompt: float
    image: float
    completion: float
    shared: float
    most: int


@dataclass(frozen=True, slots=True)
class Phase:
    """All passes of the reference, or of an epoch of the training.

    Args:
        passes: how many, of all examples.
        tokens: the mean tokens of a pass, padding included.
        most_tokens: the most tokens of a pass.
        flops: operations of all.
        memory: bytes by part when they are the most.
    """

    passes: int
    tokens: float
    most_tokens: int
    flops: float
    memory: Counter[str]

    @property
    def peak(self) -> int:
        """Bytes when they are the most."""
        return sum(self.memory.values())


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a training will take.

    Args:
        examples: how many there are.
        prepared: how many of them were tokenised; the others are taken to be like these.
        skipped: the share of the prepared ones that is left out.
        epochs: passes over the data.
        steps: optimizer steps.
        tokens: of an example.
        precision: of the products.
        device: that it is planned for.
        reference: None where no loss needs one.
        training: one epoch.
        tower_flops: operations of the vision tower, where its features are kept.
        advice: the setting that makes it fit, and what it then holds at its peak; None where it fits or none does.
        repeat: times that each example comes in an epoch.
    """

    examples: int
    prepared: int
    skipped: float
    epochs: float
    steps: int
    tokens: Tokens
    precision: str
    device: Device
    reference: Phase | None
    training: Phase
    tower_flops: float
    advice: "tuple[str, int] | None" = None
    repeat: int = 1

    @property
    def peak(self) -> int:
        """Bytes when they are the most, in any phase."""
        return max(self.training.peak, 0 if self.reference is None else self.reference.peak)

    @property
    def fits(self) -> bool:
        """Whether the device has that much."""
        return self.peak <= self.device.usable

    @property
    def flops(self) -> float:
        """Operations of everything."""
        reference = 0.0 if self.reference is None else self.reference.flops
        return self.tower_flops + reference + self.epochs * self.training.flops


def forecast(trainer: PreferenceTrainer, records: Sequence[Record], device: Device) -> Forecast:
    """What a training takes on a device, and what makes it fit; no weights are read and nothing is written.

    Passes are planned as the training plans them, and the largest run on tensors without values: what autograd keeps
    is counted, not guessed.

    Args:
        trainer: with the model and config.
        records: all examples.
        device: that it is planned for.
    """
    with plugins(trainer.config.loss):
        plan = _Plan(trainer, records, _chosen(records, trainer.config), device)
        found = plan.forecast()
        if found.fits:
            return found

        def peak(config: TrainingConfig) -> int:
            changed = copy(trainer)
            changed.config = config
            least = _Plan(changed, records, plan.largest, device).forecast(operations=False).peak
            if least > device.usable:
                return least
            return _Plan(changed, records, _chosen(records, config), device).forecast().peak  # as if it had been given

        tokens = found.tokens.most, found.training.most_tokens
        return replace(found, advice=first_that_fits(trainer.config, device.usable, tokens, peak))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Numbers of the examples that are prepared: those that an epoch begins with, neighbours, and the longest."""

    first: tuple[int, ...]
    together: tuple[int, ...]
    longest: tuple[int, ...]

    @property
    def all(self) -> list[int]:
        """Each once, in order."""
        return sorted({*self.first, *self.together, *self.longest})

    def numbered(self, numbers: Mapping[int, int]) -> "Chosen":
        """The same under other numbers, without those that have none."""
        parts = (self.first, self.together, self.longest)
        return Chosen(*(tuple(numbers[number] for number in part if number in numbers) for part in parts))


def _chosen(records: Sequence[Record], config: TrainingConfig) -> Chosen:
    count = len(records)
    order = list(range(count))
    random.Random(config.seed).shuffle(order)
    if config.group_by_image:
        groups: dict[tuple[ImageRef, ...], list[int]] = {}
        for number in order:
            groups.setdefault(records[number].prompt.images or (ImageRef(records[number].id),), []).append(number)
        order = [number for group in groups.values() for number in group]
    if count <= _ALL:
        return Chosen(tuple(order), tuple(range(count)), ())
    middle = count // 2
    longest = sorted(order, key=lambda number: -_letters(records[number]))[:_LONGEST]
    return Chosen(tuple(order[:_FIRST]), tuple(range(middle, middle + _TOGETHER)), tuple(longest))


def _letters(record: Record) -> int:
    """Letters of a record's texts."""
    completions = (record.completion,) if isinstance(record, Demonstration) else (record.chosen, *record.rejected)
    texts = [message.text for message in record.prompt.messages] + [completion.text for completion in completions]
    return sum(map(len, texts))


def _images(records: Iterable[Record]) -> int:
    """Distinct images of some records."""
    return len({image for record in records for image in record.prompt.images})


def _chunks(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


class _Plan:
    """The passes of a training, planned from some of its examples."""

    def __init__(self, trainer: PreferenceTrainer, records: Sequence[Record], chosen: Chosen, device: Device) -> None:
        some = [records[number] for number in chosen.all]
        self._run = FakeTraining(trainer, some, trainer.image_source(records), device)
        examples = self._run.scorer.examples
        numbered, kept_E = chosen.all, self._run.table.records_E.tolist()
        self._record_numbers = {prepared: numbered[number] for prepared, number in enumerate(kept_E)}
        self._chosen = chosen.numbered({number: prepared for prepared, number in self._record_numbers.items()})
        kept = len(examples) / len(some)
        self._count, self._skipped = len(records) * kept, 1 - kept
        self._trained = self._count * (1 - trainer.config.eval_fraction) * trainer.config.repeat
        self._config = trainer.config.for_examples(int(self._trained))
        self._num_records, self._num_prepared = len(records), len(some)
        more_images = _images(records) / max(1, _images(some))
        self._image_tokens = self._run.table.catalogue.num_unit_tokens * more_images
        budget = self._config.image_cache_mb * 2**20
        needed = self._run.feature_bytes_per_token * self._image_tokens
        self._features = int(min(budget, needed))
        self._again = 1 - self._features / needed if needed else 0.0

    def forecast(self, *, operations: bool = True) -> Forecast:
        """Run the passes; without counting `operations`, only the largest ones."""
        run, config = self._run, self._config
        reference = None
        if run.objective.needs_reference:
            passes = [rows for part in _chunks(self._chosen.together, _TOGETHER) for rows in run.scorer.passes(part)]
            share = self._count / len(self._chosen.together)
            reference = self._phase(passes, run.forward, share, self._features, 0, operations, tower=True)
        run.make_policy(self._features)
        batches = _chunks(self._chosen.first, config.per_device_train_batch_size)
        planned = [run.scorer.passes(batch) for batch in batches]
        sizes = [max(map(run.num_tokens, passes)) for passes in planned]
        largest = tuple(batches[int(np.argmax(sizes))])
        self.largest = Chosen(largest, largest, self._chosen.longest).numbered(self._record_numbers)
        passes = [rows for batch in planned for rows in batch]
        later = [rows for batch in planned for rows in batch[1:]] if config.gradient_accumulation_steps == 1 else passes
        steps = math.ceil(self._trained / config.global_batch * config.num_train_epochs)
        epochs = config.num_train_epochs
        if config.max_steps > 0:
            steps, epochs = config.max_steps, config.max_steps * config.global_batch / self._trained
        optimizer = run.optimizer_bytes if steps > 1 else 0
        share = self._trained / len(self._chosen.first)
        tower_again = reference is None or self._again > 0

        def step(rows: Pass) -> Counted:
            return run.step(rows, first=rows not in later and (not later or rows in passes))

        training = self._phase(
            passes,
            step,
            share,
            self._features,
            optimizer,
            operations,
            tower=tower_again,
            others=[] if later is passes else later,
        )
        tower = run.tower_flops_per_token * self._image_tokens * (1 + self._again * epochs)
        return Forecast(
            examples=self._num_records,
            prepared=self._num_prepared,
            skipped=self._skipped,
            epochs=epochs,
            repeat=config.repeat,
            steps=steps,
            tokens=self._tokens(),
            precision=run.precision.key,
            device=run.device,
            reference=reference,
            training=training,
            tower_flops=tower,
        )

    def _phase(  # noqa: PLR0917
        self,
        passes: list[Pass],
        measure: Callable[[Pass], Counted],
        share: float,
        cache: int,
        optimizer: int,
        operations: bool,
        *,
        tower: bool,
        others: Sequence[Pass] = (),
    ) -> Phase:
        """All passes of a phase, by some that are measured.

        Args:
            passes: of the prepared examples.
            measure: runs a pass.
            share: passes of all examples for each of these.
            cache: bytes of the features of all images that are kept.
            optimizer: bytes of the optimizer's state.
            operations: whether operations are counted, of several passes.
            tower: whether images go through a frozen vision tower in this phase.
            others: those of the passes of which the largest is measured, too: they find gradients of passes before.
        """
        run = self._run
        sizes = np.array([run.num_tokens(rows) for rows in passes])
        order = np.argsort(sizes, kind="stable")
        some = np.linspace(0, len(order) - 1, _COUNTED if operations else 1).round().astype(int)
        picked = order[np.unique(some)] if operations else order[-1:]
        counted = [measure(passes[number]) for number in picked]
        flops = float(np.interp(sizes, sizes[picked], [one.flops for one in counted]).sum()) * share
        longest = max(run.scorer.passes(self._chosen.longest), key=run.num_tokens, default=[])
        most = run.num_tokens(longest) if longest else 0
        if most > sizes.max():
            counted.append(measure(longest))
        if others:
            counted.append(measure(max(others, key=run.num_tokens)))
        if tower and run.tower.flops:
            counted.append(run.tower_beside_trained())
        held = max((one.peak for one in counted), key=lambda peak: sum(peak.values()))
        memory = Counter({_NAMES[part]: held[part] for part in _NAMES})
        memory["weights"] -= run.saved_in_4_bits
        memory += Counter({"optimizer": optimizer, "images": cache})
        return Phase(round(len(passes) * share), float(sizes.mean()), max(most, int(sizes.max())), flops, memory)

    def _tokens(self) -> Tokens:
        examples = [self._run.scorer.examples[number] for number in self._chosen.first[:64]]
        prompts = [example.sequences[0] for example in examples]
        return Tokens(
            prompt=float(np.mean([prompt.prompt_length for prompt in prompts])),
            image=float(np.mean([(prompt.unit_T >= 0).sum() for prompt in prompts])),
            completion=float(np.mean([sum(len(s) - s.prompt_length for s in e.sequences) for e in examples])),
            shared=float(self._run.scorer.examples.num_tokens_E[list(self._chosen.first)].mean()),
            most=int(self._run.scorer.examples.num_tokens_E.max()),
        )
