"""RLAIF-V and RLHF-V, rows written by hand from their published columns."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsight.errors import DataError
from pairsight.formats.datasets.reading import Reading, read_records


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()


def parquet(file: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def rlaif(**changes: object) -> dict[str, object]:
    return {
        "ds_name": "RLAIF-V", "image": {"bytes": png("red"), "path": "a.jpg"}, "question": "What is it?",
        "chosen": "A red square.", "rejected": "A dog.", "origin_dataset": "VQAv2",
        "origin_split": '{"model": "x", "type": "q"}', "idx": 7, "image_path": "a.jpg", **changes,
    }  # fmt: skip


def test_rlaif_v_is_known_by_its_columns_and_repeated_ids_are_numbered(tmp_path: Path):
    found = read_records(parquet(tmp_path / "a.parquet", [rlaif(), rlaif(rejected="A cat."), rlaif(rejected=" ")]))
    assert [(one.id, one.chosen.text, one.rejected[0].text, one.prompt.source) for one in found] == [
        ("7", "A red square.", "A dog.", "VQAv2"),
        ("7#2", "A red square.", "A cat.", "VQAv2"),
    ]
    assert found[0].prompt.question == "What is it?"
    assert found.images.open(found[0].prompt.images[0]).getpixel((0, 0)) == (255, 0, 0)
    why, counts, empty, *_ = found.sentences()
    assert why.startswith("RLAIF-V: columns question, chosen, rejected, image{bytes, path}, ds_name, origin_dataset")
    assert counts == "3 rows read: 2 pairs"
    assert empty.startswith("left out, empty_completion: 1; the first: ") and "row 3 id '7'" in empty


def test_rlhf_v_keeps_its_texts_as_json(tmp_path: Path):
    texts = {"question": "What?", "chosen": "Red.", "rejected": "Blue."}
    rows = [{"ds_name": "RLHF-V", "image": {"bytes": png("red"), "path": "a.jpg"}, "text": json.dumps(texts), "idx": 1}]
    (pair,) = read_records(parquet(tmp_path / "a.parquet", rows))
    assert (pair.prompt.question, pair.chosen.text, pair.rejected[0].text) == ("What?", "Red.", "Blue.")
    rows.append(rows[0] | {"text": '{"question": "What?", "chosen":', "idx": 2})
    with pytest.raises(DataError, match=r"row 2: 'text' must be a JSON object: .*; --on-error skip") as caught:
        read_records(parquet(tmp_path / "b.parquet", rows))
    assert "\n" not in str(caught.value)
    found = read_records(tmp_path / "b.parquet", Reading(on_error="skip"))
    assert (len(found), [one.reason for one in found.dropped]) == (1, ["bad_json"])


def test_several_pairs_on_one_prompt_are_candidates_where_a_strategy_chooses(tmp_path: Path):
    rows = [rlaif(), rlaif(chosen="A red thing.", rejected="A cat."), rlaif(question="Else?")]
    first, second = read_records(parquet(tmp_path / "a.parquet", rows), Reading(as_candidates=True))
    preferred = {one.completion_id: one.scores["preference"] for one in first.annotations}
    assert [(one.text, preferred[one.id]) for one in first.completions] == [
        ("A red square.", 1.0), ("A dog.", 0.0), ("A red thing.", 1.0), ("A cat.", 0.0)
    ]  # fmt: skip
    assert len(second.completions) == 2
