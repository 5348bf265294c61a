"""YAML and JSON texts, perhaps untrusted, as plain values: bounded, so that none hangs, or fills the memory."""

import errno
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pairsight.errors import one_line

DEEPEST = 100
"""Levels of lists and mappings inside each other."""
MOST_VALUES = 50_000
"""Values of a YAML document, those that aliases repeat counted each time."""
MOST_YAML_BYTES = 1 << 20
MOST_JSON_BYTES = 64 << 20
_LONGEST_NUMBER = 100
_TEXT = "tag:yaml.org,2002:str"


class DuplicateKeyError(ValueError):
    """A JSON object or a YAML mapping that names a key twice; the message is what it has: "'a' twice, …"."""


def load_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        ValueError: not YAML, beyond the bounds, or a mapping with a key twice; the message is one line.
    """
    if len(text) > MOST_YAML_BYTES:
        raise ValueError(f"longer than {MOST_YAML_BYTES} bytes")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded(node, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, OverflowError, TypeError, RecursionError) as error:
        raise ValueError(one_line(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def as_object(value: object) -> Mapping[str, object]:
    """A JSON or YAML value that must be an object; TypeError where it is something else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"an object is expected, found {type(value).__name__}")
    return value


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text of at most `DEEPEST` levels.

    Raises:
        ValueError: not JSON (`json.JSONDecodeError`), or too many levels.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    check_depth(text, value)
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file of at most `MOST_JSON_BYTES`.

    Raises:
        OSError: it cannot be read.
        ValueError: as `load_json`, or a file that is longer or not UTF-8.
    """
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return load_json(read_bounded(path, MOST_JSON_BYTES))


def read_tensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors by name, without its metadata, and how many bytes it should have.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a safetensors file, or is cut short in its header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("no complete header")
        header = load_json(file.read(length))
    try:
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        return tensors, 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise ValueError("a header without tensors' offsets") from None


def read_bounded(path: Path, most: int) -> str:
    """A file's text; ValueError when it is not UTF-8 or longer than `most` bytes."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"longer than {most} bytes")
    return data.decode("utf-8")


def text_start(path: Path, most: int) -> str:
    """The first `most` bytes of a file's text, to be shown; "" where there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", "replace")


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` that refuses an object with a key twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        repeated = next(name for name, count in counts.items() if count > 1)
        raise DuplicateKeyError(f"'{repeated:.60}' twice in one object")
    return values


def check_depth(text: str | bytes, value: Any) -> None:
    """Refuse a value read from a JSON text that has more than `DEEPEST` levels (ValueError)."""
    opened = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if opened <= DEEPEST:
        return
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST + 1:
            raise ValueError(f"nested more than {DEEPEST} deep")
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which stops at a document that is too deep or too long while it reads it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._count += 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")
        if self._count > MOST_VALUES:
            raise yaml.YAMLError(f"more than {MOST_VALUES} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _expanded(node: Any, sizes: dict[int, int]) -> int:
    """How many values a node has, its aliases expanded.

    Raises:
        ValueError: more than `MOST_VALUES`, a node inside itself, a key twice, a number that is too long, or half a
            surrogate pair.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ValueError("an alias names what it is inside of")
        return sizes[id(node)]
    sizes[id(node)] = 0
    parts: list[Any] = []
    if isinstance(node, yaml.ScalarNode):
        if node.tag != _TEXT and len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"a number of {len(node.value)} characters")
        if not node.value.isascii():
            node.value.encode()  # half a surrogate pair, which can be written as an escape, is not a character
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise DuplicateKeyError(f"'{key.value:.60}' twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
    else:
        parts = list(node.value)
    size = 1 + sum(_expanded(part, sizes) for part in parts)
    if size > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values, aliases expanded")
    sizes[id(node)] = size
    return size
