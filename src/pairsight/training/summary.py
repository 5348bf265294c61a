"""What a training did, in a few numbers and sentences: for the terminal, the model card and the report."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pairsight.bounded import read_json

FILE = "training.json"
FEW_STEPS = 10
"""With fewer optimizer steps than about this the training says how many it took (ours)."""

_UNSEEN = "no example has an image, or "
_CALLED = {
    "language": ("language model", ""),
    "projector": ("projector", _UNSEEN),
    "vision": ("vision tower", _UNSEEN),
}
"""What a part is called, and why it may not have changed."""


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """Counts of a finished training.

    Args:
        num_examples: trained on, held-out ones aside.
        num_steps: optimizer steps taken.
        global_batch: prompts of a step.
        asked_batch: prompts of a step before it was lowered for a small dataset.
        unchanged: parts ("language", "projector", "vision") that were trained and of which no weight changed.
    """

    num_examples: int
    num_steps: int
    global_batch: int
    asked_batch: int
    unchanged: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = "optimizer step" if self.num_steps == 1 else "optimizer steps"
        return f"{self.num_examples} examples in {self.num_steps} {steps} of up to {self.global_batch}"

    def sentences(self) -> list[str]:
        """What a person should know: few steps, a lowered batch, parts that did not move."""
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
        """As the file beside the weights."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The summary that a training left in its folder; None where there is none, or none that can be read."""
        try:
            plain = read_json(folder / FILE)
            counts = {name: int(plain[name]) for name in ("num_examples", "num_steps", "global_batch", "asked_batch")}
            return cls(**counts, unchanged=tuple(str(part) for part in plain["unchanged"]))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
