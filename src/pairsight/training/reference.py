"""Reference log-probs, per token, computed once and kept: they belong to sequences, whatever is trained on them.

Files of one reference model: `references/<key>*.safetensors`, the key made of weights, adapter, processor and
template; each holds what was computed in some seconds, and is never written again. Inside, sequences are found by the
hash of their content, so that a flipped pair, a new beta, another loss or a resumed run computes nothing again, and
changed data only what changed.

Shapes: M sequences kept, T tokens of one sequence, Z tokens of all, Q sequences asked for.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pairsight.engine.progress import Progress
from pairsight.errors import RunError, one_line
from pairsight.store.tensors import Tensors, read_tensors, write_tensors
from pairsight.training.config import TrainingConfig
from pairsight.training.families import evaluating
from pairsight.training.policy import float32_parts
from pairsight.training.ranks.world import World
from pairsight.training.scorer import PackedPass, SequenceScorer
from pairsight.training.tokens import Bytes, Ints, TokenExample

_LOG = logging.getLogger("pairsight.training")

_SCHEMA = 1
_CHUNK = 256
"""Passes are planned inside chunks of examples and chunks are never split, so that a resumed run is bit-identical."""
_SECONDS_BETWEEN_WRITES = 20.0
_SHARE_BETWEEN_WRITES = 0.02
"""Of the time so far: a long computation does not leave thousands of files."""
_MOST_WAITING = 8 * 2**20
"""Log-probs that wait for the next write, 32 MiB."""
_BLOCK = 2**16
"""Keys that are looked up at a time."""

Floats = NDArray[np.float32]


class _Shard(NamedTuple):
    """The log-probs of one file: those of sequence i end at `ends_M[i]`."""

    keys_MB: Bytes
    ends_M: Ints
    logps_Z: Floats

    def get(self, row: int) -> Floats:
        return self.logps_Z[self.ends_M[row - 1] if row else 0 : self.ends_M[row]]


class ReferenceStore:
    """Per-token log-probs of sequences under one reference model; those on disk are mapped into memory.

    Args:
        folder: the run's `references/`.
        model_key: what determines log-probs apart from the sequence: the model's fingerprint and its precision.

    Raises:
        RunError: a file belongs to another model.
    """

    def __init__(self, folder: Path, model_key: str) -> None:
        self._folder, self._model_key = folder, model_key
        self._name = hashlib.sha256(model_key.encode()).hexdigest()[:32]
        self._waiting: dict[bytes, Floats] = {}
        self._num_waiting = 0
        self._damaged: list[Path] = []
        read = [self._read(path) for path in self.files()]
        self._shards = [shard for shard in read if shard is not None]
        self._sort()

    def files(self) -> list[Path]:
        """The files of this model's log-probs."""
        return sorted(self._folder.glob(f"{self._name}*.safetensors"))

    def __contains__(self, key: bytes) -> bool:
        return key in self._waiting or self._find(key) is not None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._prefixes_M)

    def get(self, key: bytes) -> Floats:
        """The log-probs of a sequence's completion tokens, [T]; KeyError where they are not known."""
        found = self._waiting.get(key)
        if found is None and (found := self._find(key)) is None:
            raise KeyError(key)
        return found

    def sum(self, key: bytes) -> float:
        """The log-prob of a sequence's completion: the sum over its tokens."""
        return float(self.get(key).sum(dtype=np.float64))

    def missing(self, keys_QB: Bytes) -> NDArray[np.bool_]:
        """Which sequences' log-probs are not on disk, [Q]."""
        missing_Q = np.ones(len(keys_QB), bool)
        for start in range(0, len(keys_QB), _BLOCK):
            keys_B = keys_QB[start : start + _BLOCK]
            prefixes = _prefixes(keys_B)
            at = np.searchsorted(self._prefixes_M, prefixes)
            known = at < len(self._prefixes_M)
            known[known] = self._prefixes_M[at[known]] == prefixes[known]
            found = np.flatnonzero(known)
            rows = self._rows_M[at[found]]
            shards = np.searchsorted(self._starts, rows, side="right") - 1
            for number in np.unique(shards).tolist():
                of_shard = found[shards == number]
                there = self._shards[number].keys_MB[rows[shards == number] - self._starts[number]]
                missing_Q[start + of_shard] = (there != keys_B[of_shard]).any(axis=1)
            for index in found[missing_Q[start + found]].tolist():  # another key with the same prefix comes first
                missing_Q[start + index] = self._find(keys_B[index].tobytes()) is None
        return missing_Q

    def add(self, key: bytes, logps_T: Floats) -> None:
        """Keep a sequence's log-probs; `save` makes them durable."""
        self._waiting[key] = logps_T.astype(np.float32)
        self._num_waiting += len(logps_T)

    def save(self) -> None:
        """Write what was added since the last time to a file of its own; damaged files are removed."""
        if not self._waiting:
            return
        keys = sorted(self._waiting)
        lengths_M = np.array([len(self._waiting[key]) for key in keys], np.int64)
        tensors: Tensors = {
            "keys_M": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32),
            "lengths_M": lengths_M,
            "logps_Z": np.concatenate([self._waiting[key] for key in keys]),
        }
        content = hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()[:16]
        path = self._folder / f"{self._name}.{content}.safetensors"
        write_tensors(path, tensors, {"schema": str(_SCHEMA), "model": self._model_key})
        if (shard := self._read(path)) is not None:
            self._shards.append(shard)
        self._waiting, self._num_waiting = {}, 0
        while self._damaged:
            self._damaged.pop().unlink(missing_ok=True)
        self._sort()

    def read_again(self) -> None:
        """Map what another process wrote; what it did not write here stays in memory."""
        read = [self._read(path) for path in self.files()]
        self._shards = [shard for shard in read if shard is not None]
        self._sort()
        self._waiting = {key: logps_T for key, logps_T in self._waiting.items() if self._find(key) is None}
        self._num_waiting = sum(map(len, self._waiting.values()))

    @property
    def num_waiting(self) -> int:
        """Log-probs that the next `save` writes."""
        return self._num_waiting

    def _sort(self) -> None:
        """Order all sequences by the first 8 bytes of their keys; the first of several files is taken."""
        prefixes_M = np.concatenate([np.empty(0, np.uint64), *(_prefixes(shard.keys_MB) for shard in self._shards)])
        self._rows_M = np.argsort(prefixes_M, kind="stable")
        self._prefixes_M = prefixes_M[self._rows_M]
        self._starts = np.cumsum([0, *(len(shard.keys_MB) for shard in self._shards)])

    def _find(self, key: bytes) -> Floats | None:
        """A sequence's log-probs on disk."""
        prefix = np.uint64(int.from_bytes(key[:8], "big"))
        at = int(np.searchsorted(self._prefixes_M, prefix))
        while at < len(self._prefixes_M) and self._prefixes_M[at] == prefix:
            row = int(self._rows_M[at])
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            shard, row = self._shards[number], row - int(self._starts[number])
            if shard.keys_MB[row].tobytes() == key:
                return shard.get(row)
            at += 1
        return None

    def _read(self, path: Path) -> _Shard | None:
        try:
            tensors, metadata = read_tensors(path)
            logps_Z = tensors["logps_Z"].astype(np.float32, copy=False)
            shard = _Shard(tensors["keys_M"], np.cumsum(tensors["lengths_M"]), logps_Z)
            if shard.keys_MB.shape != (len(shard.ends_M), 32) or len(shard.logps_Z) != sum(shard.ends_M[-1:]):
                raise ValueError("its arrays do not fit each other")
        except (OSError, ValueError, LookupError, TypeError) as error:
            _LOG.warning("%s is damaged (%s): its log-probs are computed again", path, one_line(error))
            self._damaged.append(path)
            return None
        if metadata.get("model") != self._model_key:
            raise RunError(
                f"{path} holds reference log-probs of another model ({one_line(metadata.get('model'))}); remove "
                "it, it is computed again"
            )
        return shard


def _prefixes(keys_MB: Bytes) -> NDArray[np.uint64]:
    """The first 8 bytes of keys, as numbers in the same order."""
    return np.ascontiguousarray(keys_MB[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def kept_reference(  # noqa: PLR0917
    folder: Path,
    scorer: SequenceScorer,
    config: TrainingConfig,
    held: Collection[str],
    progress: Progress,
    world: World,
    model: Any,
    weights: str,
) -> ReferenceStore:
    """The log-probs of a dataset under a reference model, what is missing computed now.

    Args:
        folder: the run's `references/`.
        scorer: the dataset and how to score it.
        config: of the training.
        held: parts that an adapter to go on from holds in full.
        progress: where to show progress.
        world: the ranks.
        model: the reference.
        weights: its fingerprint: the base's, or the base's with the adapter that is gone on from.
    """
    precision = scorer.scoring.precision
    exact = () if precision.key == "float32" else ("autocast", *float32_parts(config, held))
    store = ReferenceStore(folder, json.dumps([weights, precision.key, *exact]))
    with progress.task("reference", len(scorer.examples)) as task:
        compute_reference(model, scorer, store, lambda done, reused: task.advance(done, reused=reused), world)
    return store


def compute_reference(
    model: Any, scorer: SequenceScorer, store: ReferenceStore, advance: Callable[[int, int], None], world: World
) -> int:
    """Bring a store up to date with a dataset: each rank computes a part, all know all, and the first one writes.

    Args:
        model: the reference.
        scorer: the dataset and how to score it.
        store: the log-probs known already; written every 20 seconds, later every 2 % of the time, and at the end.
        advance: called with (examples computed, examples known already).
        world: the ranks.

    Returns:
        How many examples were computed.
    """
    examples = scorer.examples
    missing = np.flatnonzero(np.logical_or.reduceat(store.missing(examples.keys_QB), examples.starts_E)).tolist()
    advance(0, len(examples) - len(missing))
    world.same("set of examples without reference log-probs", missing)
    began = written = time.monotonic()
    chunk = min(_CHUNK, -(-len(examples) // world.size))
    packed = scorer.packed(model)
    with evaluating(model):
        for start in range(0, len(missing), chunk * world.size):
            parts = [missing[start + rank * chunk :][:chunk] for rank in range(world.size)]
            own = dict(_computed(packed, scorer, parts[world.rank], advance))
            for logps in world.all(own):
                for key, logps_T in logps.items():
                    store.add(key, logps_T)
            advance(sum(map(len, parts)) - len(parts[world.rank]), 0)
            now = time.monotonic()
            due = written + max(_SECONDS_BETWEEN_WRITES, _SHARE_BETWEEN_WRITES * (now - began))
            if world.told(lambda: now > due or store.num_waiting > _MOST_WAITING):  # noqa: B023 - called at once
                _save(store, world)
                written = now
        _save(store, world)
    return len(missing)


def _save(store: ReferenceStore, world: World) -> None:
    """Let the first rank write what all computed, and all map it into memory."""
    if world.first:
        store.save()
    world.wait()
    if not world.first:
        store.read_again()


def _computed(
    packed: PackedPass, scorer: SequenceScorer, numbers: Sequence[int], advance: Callable[[int, int], None]
) -> Iterator[tuple[bytes, Floats]]:
    """Key and log-probs of each sequence of some examples."""
    for scores in scorer.scored(packed, numbers):
        logps_T = scores.token_logps_T.cpu().numpy()
        number_T = scores.sequence_T.cpu().numpy()
        sequences = [s for n in scores.examples for s in scorer.examples[n].sequences]
        for index, sequence in enumerate(sequences):
            yield sequence.key, logps_T[number_T == index]
        advance(len(scores.examples), 0)


def reference_sums(store: ReferenceStore, examples: Sequence[TokenExample]) -> torch.Tensor:
    """Reference log-probs of the examples' sequences, [Q], float32."""
    return torch.tensor([store.sum(s.key) for example in examples for s in example.sequences])
