"""Reference log-probs, per token, computed once and kept: they belong to sequences, whatever is trained on them.

One file per reference model: `references/<key>.safetensors`, the key made of weights, adapter, processor and template.
Inside, sequences are found by the hash of their content, so that a flipped pair, a new beta, another loss or a
resumed run computes nothing again, and changed data only what changed.

Shapes: M sequences kept, T tokens of one sequence, Z tokens of all.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pairsight.errors import RunError, one_line
from pairsight.store.tensors import Tensors, read_tensors, write_tensors
from pairsight.training.families import evaluating
from pairsight.training.scorer import SequenceScorer
from pairsight.training.tokens import TokenExample

_LOG = logging.getLogger("pairsight.training")

_SCHEMA = 1
_CHUNK = 256
"""Passes are planned inside chunks of examples and chunks are never split, so that a resumed run is bit-identical."""
_SECONDS_BETWEEN_WRITES = 20.0

Floats = NDArray[np.float32]


class ReferenceStore:
    """Per-token log-probs of sequences under one reference model.

    Args:
        folder: the run's `references/`.
        model_key: what determines log-probs apart from the sequence: the model's fingerprint and its precision.

    Raises:
        RunError: the file belongs to another model.
    """

    def __init__(self, folder: Path, model_key: str) -> None:
        self._model_key = model_key
        self.path = folder / f"{hashlib.sha256(model_key.encode()).hexdigest()[:32]}.safetensors"
        self._logps: dict[bytes, Floats] = self._read() if self.path.is_file() else {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._logps

    def __len__(self) -> int:
        return len(self._logps)

    def get(self, key: bytes) -> Floats:
        """The log-probs of a sequence's completion tokens, [T]."""
        return self._logps[key]

    def sum(self, key: bytes) -> float:
        """The log-prob of a sequence's completion: the sum over its tokens."""
        return float(self._logps[key].sum(dtype=np.float64))

    def add(self, key: bytes, logps_T: Floats) -> None:
        """Keep a sequence's log-probs; `save` makes them durable."""
        self._logps[key] = logps_T.astype(np.float32)

    def save(self) -> None:
        """Write all to disk, replacing the file atomically."""
        keys = sorted(self._logps)
        tensors: Tensors = {
            "keys_M": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32),
            "lengths_M": np.array([len(self._logps[k]) for k in keys], np.int64),
            "logps_Z": np.concatenate([self._logps[k] for k in keys]) if keys else np.empty(0, np.float32),
        }
        write_tensors(self.path, tensors, {"schema": str(_SCHEMA), "model": self._model_key})

    def _read(self) -> dict[bytes, Floats]:
        try:
            tensors, metadata = read_tensors(self.path)
            ends = np.cumsum(tensors["lengths_M"])
            pieces = np.split(tensors["logps_Z"].astype(np.float32), ends[:-1])
            logps = {row.tobytes(): piece for row, piece in zip(tensors["keys_M"], pieces, strict=True)}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            _LOG.warning("%s is not read (%s): its log-probs are computed again", self.path, one_line(error))
            return {}
        if metadata.get("model") != self._model_key:
            raise RunError(
                f"{self.path} holds reference log-probs of another model ({one_line(metadata.get('model'))}); remove "
                "it, it is computed again"
            )
        return logps


def compute_reference(
    model: Any, scorer: SequenceScorer, store: ReferenceStore, advance: Callable[[int, int], None]
) -> int:
    """Bring a store up to date with a dataset.

    Args:
        model: the reference.
        scorer: the dataset and how to score it.
        store: the log-probs known already; written every 20 seconds and at the end.
        advance: called with (examples computed, examples known already).

    Returns:
        How many examples were computed.
    """
    missing = [n for n, example in enumerate(scorer.examples) if any(s.key not in store for s in example.sequences)]
    advance(0, len(scorer.examples) - len(missing))
    written = time.monotonic()
    with evaluating(model):
        for start in range(0, len(missing), _CHUNK):
            for scores in scorer.scored(model, missing[start : start + _CHUNK]):
                logps_T = scores.token_logps_T.cpu().numpy()
                number_T = scores.sequence_T.cpu().numpy()
                sequences = [s for n in scores.examples for s in scorer.examples[n].sequences]
                for index, sequence in enumerate(sequences):
                    store.add(sequence.key, logps_T[number_T == index])
                advance(len(scores.examples), 0)
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                store.save()
                written = time.monotonic()
        if missing:
            store.save()
    return len(missing)


def reference_sums(store: ReferenceStore, examples: Sequence[TokenExample]) -> torch.Tensor:
    """Reference log-probs of the examples' sequences, [Q], float32."""
    return torch.tensor([store.sum(s.key) for example in examples for s in example.sequences])
