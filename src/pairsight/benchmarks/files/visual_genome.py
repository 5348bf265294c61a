"""What Visual Genome's files, and SHR's beside them, say of an image."""

from collections.abc import Collection, Sequence
from pathlib import Path

from pairsight.benchmarks.files.json_list import read_list
from pairsight.benchmarks.files.official import FileRecord, read_jsonl


def described(size: FileRecord, regions: Sequence[FileRecord]) -> str:
    """The regions of an image as the script writes them: `[x1, y1, x2, y2]: phrase`, shares of two digits."""
    width, height = size.number("width"), size.number("height")
    lines = []
    for region in regions:
        x, y, phrase = region.number("x"), region.number("y"), region.text("phrase", empty=True)
        corners = (x / width, y / height, (x + region.number("width")) / width, (y + region.number("height")) / height)
        if phrase:
            lines.append(f"{[float(f'{corner:.2f}') for corner in corners]}: {phrase}\n")
    return "".join(lines)


def of_images(file: Path, ids: Collection[str]) -> dict[str, FileRecord]:
    """The records of these ids in one of Visual Genome's files."""
    records = (record.with_id("image_id", "id") for record in read_list(file))
    return {record.id: record for record in records if record.id in ids}


def known_facts(folder: Path) -> dict[str, str]:
    """Image -> what else is known of it, one fact per line, from both files of SHR."""
    found = {}
    for part in (1, 2):
        for record in read_jsonl(folder / f"shr_factual_part{part}.jsonl"):
            for name in record.values:
                found[name] = "".join(f"{text}\n" for text in record.texts(name))
    return found
