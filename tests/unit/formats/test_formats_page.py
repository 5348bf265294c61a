"""docs/formats.md: every format is listed with its columns, and the format of one's own works as it is written."""

import json
import re
from pathlib import Path

from PIL import Image

from pairsight.formats.datasets.format import Format
from pairsight.formats.datasets.reading import Reading, read_records
from pairsight.registry import formats, plugins

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_every_format_is_listed_with_its_columns_and_what_it_gives():
    listed = {row[0]: row for row in re.findall(r"^\| `(\w[\w-]*)` \| (.*?) \| (\w+) \|", PAGE, re.M)}
    known = {name: one for name, one in formats.in_order() if issubclass(one, Format) and one.columns}
    assert listed.keys() == known.keys()
    for name, one in known.items():
        _, columns, gives = listed[name]
        assert gives == one.gives, name
        missing = [column for column in one.columns if f"`{column}`" not in columns and column not in SCORES]
        assert missing == [], name


SCORES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def test_the_format_of_ones_own_works_as_it_is_written(tmp_path: Path):
    (source,) = re.findall(r"```python title=\"stars.py\"\n(.*?)```", PAGE, re.S)
    (tmp_path / "stars.py").write_text(source)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    row = {
        "id": "x",
        "question": "What?",
        "picture": "a.png",
        "first": "A dog.",
        "second": "A dot.",
        "stars": "second 5",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    name = f"{tmp_path / 'stars.py'}:Stars"
    with plugins(name):
        (pair,) = read_records(tmp_path / "rows.jsonl", Reading(format=name))
    assert (pair.chosen.text, pair.rejected[0].text) == ("A dot.", "A dog.")
