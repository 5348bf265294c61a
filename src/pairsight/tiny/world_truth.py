"""What a world's `truth.jsonl` says about a question: looked up by image and words."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pairsight.tiny.truth_rows import TruthRow, bare_question, read_truth


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a question: its kind, its true answer ("" where unknown), kinds present."""

    kind: str
    answer: str
    present: frozenset[int]


class WorldTruth:
    """The rows of a `truth.jsonl`, by image and question.

    Raises:
        DataError: no such file, or a bad row.
    """

    def __init__(self, path: str | Path) -> None:
        file = Path(path)
        rows = list(read_truth(file))
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        self.scenes: dict[str, TruthRow] = {row.image_sha256: row for row in rows if row.image_sha256}
        """Of each image one row: its objects are those of all its rows."""
        self._rows = {(row.image_sha256, bare_question(row.question)): row for row in rows}

    def find(self, image_sha256: str | None, question: str) -> Known | None:
        """What the file says of a question about an image (None: about none); None when it does not hold it."""
        row = self._rows.get((image_sha256, bare_question(question)))
        return None if row is None else Known(row.kind, row.answer, row.present)
