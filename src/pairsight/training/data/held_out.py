"""Examples on images held out from training: their margins say when to stop, and the best weights are kept."""

import hashlib
import json
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pairsight.errors import DataError
from pairsight.store.durable import copy_file, make_folder, publish, temporary_path, written_by_a_library
from pairsight.training.checkpoints import Best, load_weights, save_weights
from pairsight.training.examples import Record
from pairsight.training.metrics import StepMetrics
from pairsight.training.preference_step import PreferenceStep
from pairsight.training.ranks.world import Replica, by_name


class HeldOut:
    """Measures a model on held-out examples.

    Args:
        numbers: the held-out examples.
        step: the preference step that training also uses.
        patience: measurements without a better margin before training stops; 0: never.
        folder: where the best weights are kept.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        step: PreferenceStep,
        *,
        patience: int,
        folder: Path,
    ) -> None:
        self._numbers, self._step = numbers, step
        self._patience = patience
        self._weights = folder / "best.safetensors"
        self.best = Best()

    def measure(self, replica: Replica) -> dict[str, float]:
        """Mean metrics of the held-out examples, named `eval_*`."""
        metrics, total, scorer = StepMetrics(), 0.0, self._step.scorer
        num_tokens = int(scorer.examples.chosen_lengths_E[list(self._numbers)].sum())
        replica.module.eval()
        for scores in replica.scored(scorer, self._numbers):
            result = self._step.of_scores(scores, {}, len(self._numbers), num_tokens)
            total += float(result.total)
            metrics.add(result.metrics_B)
        replica.module.train()
        means = replica.world.total({"loss": total}) | metrics.take(replica.world.total)
        return {f"eval_{name}": value for name, value in means.items()}

    def should_stop(self, replica: Replica, step: int, metrics: dict[str, float]) -> bool:
        """Record a measurement, save the weights if it is the best, and return whether to stop: patience is used up.

        Without rejected completions there is no margin, and the loss decides.
        """
        margin = metrics.get("eval_rewards/margins", -metrics["eval_loss"])
        if self.best.margin is None or margin > self.best.margin:
            self.best = Best(margin, step)
            if self._patience:
                self._keep(replica)
        else:
            self.best = replace(self.best, since=self.best.since + 1)
        return 0 < self._patience <= self.best.since

    def restore_best(self, replica: Replica) -> int | None:
        """Load the best weights and return their step; None where the model has them already."""
        if not self._patience or self.best.since == 0:
            return None
        load_weights(replica.policy, self._weights, replica.assign)
        return self.best.step

    def keep_best_in(self, checkpoint: Path) -> None:
        """Copy the best weights into a checkpoint, which then depends on nothing outside it."""
        if self._weights.is_file():
            copy_file(self._weights, checkpoint / self._weights.name)

    def resume(self, best: Best, checkpoint: Path, *, copy: bool = True) -> None:
        """Restore a checkpoint's best measurement, and (`copy`) the weights that were the best then."""
        self.best = best
        if copy and (kept := checkpoint / self._weights.name).is_file():
            copy_file(kept, self._weights)

    def _keep(self, replica: Replica) -> None:
        trained = by_name(replica.trained(), keep=replica.world.first)
        if not replica.world.first:
            return
        make_folder(self._weights.parent)
        draft = temporary_path(self._weights)
        with written_by_a_library(self._weights):
            save_weights(trained, draft)
        publish(draft, self._weights)


def split_held_out(examples: Sequence[Record], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the examples to train on and to hold out; no image (without images: no prompt) is on both sides.

    Args:
        examples: those that share an image, directly or through others, stay together.
        fraction: share of the examples to hold out, in [0, 1); met as closely as the groups allow, with at least one
            group on each side.
        seed: determines which groups are held out.

    Raises:
        DataError: all examples are on one image (or share one prompt), and some are to be held out.
    """
    if fraction == 0:
        return list(range(len(examples))), []
    groups = _groups(_sources(example) for example in examples)
    if len(groups) < 2:
        what = "image" if examples[0].prompt.images else "prompt"
        raise DataError(
            f"eval_fraction {fraction:g} holds out examples by image, and all {len(examples)} are on one {what}: "
            "set eval_fraction=0, or add examples on others",
            "nothing_to_hold_out",
        )
    random.Random(seed).shuffle(groups)
    chosen = _nearest_sum([len(group) for group in groups], round(fraction * len(examples)))
    held = {number for index in chosen for number in groups[index]}
    return [number for number in range(len(examples)) if number not in held], sorted(held)


def _sources(example: Record) -> list[Hashable]:
    """What an example must not share with held-out ones: its images, or its prompt's text if it has none, in short."""
    texts = [json.dumps([(message.role, " ".join(message.text.split())) for message in example.prompt.messages])]
    names = [image.sha256 for image in example.prompt.images] or texts
    return [hashlib.sha256(name.encode()).digest()[:16] for name in names]


def _groups(sources: Iterable[Sequence[Hashable]]) -> list[list[int]]:
    """Groups of entries that share a source, directly or through others, ordered by their first."""
    parents: list[int] = []

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    first_of: dict[Hashable, int] = {}
    for number, own in enumerate(sources):
        parents.append(number)
        for source in own:
            one, other = root(number), root(first_of.setdefault(source, number))
            parents[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for number in range(len(parents)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def _nearest_sum(sizes: Sequence[int], wanted: int) -> list[int]:
    """Indices of some sizes, at least one and not all, whose sum is nearest to `wanted`; early ones are preferred.

    `last[total]` is the index at which that total was first reached, so that what came before is reached earlier.
    """
    most = min(sum(sizes) - 1, max(2 * wanted, min(sizes)))
    last_T = np.full(most + 1, -1)
    reached_T = np.zeros(most + 1, bool)
    reached_T[0] = True
    for index, size in enumerate(sizes):
        if size <= most:
            new_T = np.concatenate([np.zeros(size, bool), reached_T[: most + 1 - size]]) & ~reached_T
            last_T[new_T] = index
            reached_T |= new_T
        if wanted <= most and wanted > 0 and reached_T[wanted]:
            break
    totals = np.flatnonzero(reached_T[1:]) + 1
    total = int(totals[np.abs(totals - wanted).argmin()])
    chosen = []
    while total > 0:
        chosen.append(int(last_T[total]))
        total -= sizes[chosen[-1]]
    return chosen
