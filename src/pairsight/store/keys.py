"""The key of an item: what decides whether a result is already there. Source: ours (docs/dataflow)."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)


def item_key(stage: str, version: int, mapping: Mapping[str, Any]) -> bytes:
    """SHA-256 of the canonical JSON of the stage's name, its version and what determines the result.

    Args:
        stage: the stage's name.
        version: the stage's version.
        mapping: model fingerprint, prompt text, image hashes, generation parameters, seed, sample index… as JSON
            values; never batch size, worker count, time-outs or paths.
    """
    return _digest([stage, version, mapping])


def shared_part(mapping: Mapping[str, Any]) -> dict[str, str]:
    """What is the same for all items of a stage, in short: of a million keys it is encoded once.

    Args:
        mapping: the part of `item_key`'s mapping that no item changes.
    """
    return {"shared": _digest(mapping).hex()}


def _digest(value: object) -> bytes:
    return hashlib.sha256(_CANONICAL.encode(value).encode("ascii")).digest()
