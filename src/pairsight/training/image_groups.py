"""Random order in which prompts on the same image follow each other, so that a batch computes the image once."""

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch.utils.data import Sampler


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
