"""Log-probs of a dataset's own reference beside ours, of the same completions: how far they differ, in a sentence.

They are compared, never trained on: another template, processor, precision or tokenizer gives others. Source: ours.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pairsight.errors import one_line
from pairsight.formats.datasets.format import GivenLogps, GivenReference
from pairsight.store.tensors import read_tensors
from pairsight.training.data.table import keys_by_id

_LOG = logging.getLogger("pairsight.training")
_SAME = 0.01
"""Nats a token by which two precisions of one computation may differ (ours)."""


def compared(folder: Path, given: Sequence[GivenReference]) -> str:
    """How the log-probs that a dataset brings differ from those that a training computed; "" where none was.

    Args:
        folder: what holds the training's `references/` and `tokens/`: the run, or the adapter's folder.
        given: of the pairs.
    """
    if not given:
        return ""
    ours = _ours(folder)
    if not ours:
        return "the dataset's own reference log-probs were not compared: this training computes none"
    found = _Differences()
    for one in given:
        for theirs, mine in zip((one.chosen, one.rejected), ours.get(one.pair_id, ()), strict=False):
            if theirs is not None:
                found.add(theirs, mine)
    return found.sentence()


@dataclass(slots=True)
class _Differences:
    """Ours minus theirs: of sums and of means a token, in nats."""

    sums: list[float] = field(default_factory=list)
    averages: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    other_lengths: int = 0

    def add(self, theirs: GivenLogps, mine: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> None:
        """Compare one completion."""
        if theirs.total is not None:
            self.sums.append(float(mine.sum()) - theirs.total)
        if theirs.average is not None:
            self.averages.append(float(mine.mean()) - theirs.average)
        if theirs.tokens and len(theirs.tokens) != len(mine):
            self.other_lengths += 1
        elif theirs.tokens:
            self.tokens += np.abs(mine - np.array(theirs.tokens)).tolist()

    def sentence(self) -> str:
        """All of it in one sentence."""
        parts = []
        if self.sums:
            parts.append(f"sums by {_in_words(self.sums)} over {len(self.sums):,} completions")
        if self.averages:
            parts.append(f"means a token by {_in_words(self.averages)}")
        if self.tokens:
            parts.append(f"single tokens by {np.mean(self.tokens):.4g} on average, {max(self.tokens):.4g} at most")
        if self.other_lengths:
            parts.append(f"{self.other_lengths:,} completions have another number of tokens")
        if not parts:
            return "the dataset's own reference log-probs are of no pair that was trained on"
        largest = max(map(abs, self.averages or self.tokens or self.sums))
        same = largest <= _SAME and not self.other_lengths
        verdict = "it is the same reference" if same else "another model, template or processor than the dataset's"
        return f"our reference's log-probs differ from the dataset's own (ours is used): {'; '.join(parts)}: {verdict}"


def _in_words(differences: Sequence[float]) -> str:
    largest = max(differences, key=abs)
    return f"{np.mean(differences):+.4g} on average, {largest:+.4g} at most"


def _ours(folder: Path) -> "dict[str, list[np.ndarray[tuple[int], np.dtype[np.float32]]]]":
    """Id of a pair -> the log-probs of its completions' tokens, of the files that were written last."""
    logps = dict(_references(folder / "references"))
    tables = sorted((folder / "tokens").glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    try:
        rows = list(keys_by_id(tables[-1])) if tables and logps else []
    except (OSError, ValueError, LookupError) as error:
        _LOG.warning("%s is not read (%s): reference log-probs are not compared", tables[-1], one_line(error))
        rows = []
    return {name: [logps[key] for key in keys] for name, keys in rows if all(key in logps for key in keys)}


def _references(folder: Path) -> "Iterator[tuple[bytes, np.ndarray[tuple[int], np.dtype[np.float32]]]]":
    """Key of a sequence -> its log-probs, of the model whose files were written last."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    models = [file.name.partition(".")[0] for file in files]
    for file, model in zip(files, models, strict=True):
        if model == models[-1]:
            tensors, _ = read_tensors(file)
            ends = np.cumsum(tensors["lengths_M"])
            parts = np.split(np.asarray(tensors["logps_Z"], np.float32), ends[:-1])
            yield from zip((row.tobytes() for row in tensors["keys_M"]), parts, strict=True)
