"""Records of tables: the same as a list of them, a few in memory at a time, and a damaged row named."""

import gc
import io
import random
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from made_tables import pairs_table, seal
from pairsight.errors import DataError
from pairsight.formats import pairs as pairs_module
from pairsight.formats import record_tables
from pairsight.formats.pairs import read_pairs
from pairsight.formats.record_tables import Part, RecordTable, record_texts, spooled
from pairsight.formats.trl import PAIRS_SCHEMA, pair_batches
from pairsight.images.source import FileImages, WithImages
from pairsight.records import Completion, Dropped, Message, PreferencePair, Prompt, to_json


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "a.png")
    return FileImages(tmp_path / "images")


def pair(number, ref, rejected=1):
    prompt = Prompt(f"p{number}", (Message("user", f"What is {number}?", (ref,)),))
    chosen, *others = (
        Completion(f"p{number}:{k}", prompt.id, f"It is {k}.", "stop", "m", 0, k) for k in range(rejected + 1)
    )
    return PreferencePair(f"p{number}", prompt, chosen, tuple(others), "rule")


def alive(kind):
    gc.collect()
    return sum(isinstance(one, kind) for one in gc.get_objects())


def files_of(records, cuts, group, sparse=False):
    """Parquet files in memory, cut at these numbers; with `sparse`, a row without a record after every second one."""
    edges = [0, *sorted(cuts), len(records)]
    files = []
    for start, end in pairwise(edges):
        rows = [
            text for k in range(start, end) for text in (to_json(records[k]), *([None] if sparse and k % 2 else []))
        ]
        files.append(io.BytesIO())
        pq.write_table(pa.table({"record": pa.array(rows, pa.string())}), files[-1], row_group_size=group)
    return files


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.data(), st.integers(1, 9), st.booleans())
def test_a_table_is_the_sequence_of_its_records(count, data, group, sparse):
    records = [Dropped(f"i{k}", "select", "tie", "é" * (k % 3)) for k in range(count)]
    cuts = data.draw(st.lists(st.integers(0, count), max_size=3))
    table = RecordTable(Dropped, files_of(records, cuts, group, sparse), sparse=sparse)
    assert list(table) == records
    assert list(record_texts(WithImages(table, None))) == [to_json(one) for one in records]
    assert len(table) == count
    for number in data.draw(st.lists(st.integers(-count, count - 1), max_size=9)) if count else []:
        assert table[number] == records[number]
    part = slice(
        *data.draw(st.tuples(*[st.none() | st.integers(-70, 70)] * 2, st.none() | st.sampled_from([1, 3, -1, -2])))
    )
    assert list(table[part]) == records[part]
    assert list(record_texts(table[part])) == [to_json(one) for one in records[part]]
    assert list(table[part][::2]) == records[part][::2]
    with pytest.raises(IndexError):
        table[count]


def test_what_is_spooled_comes_back_and_leaves_no_file(tmp_path):
    records = [Dropped(f"i{k}", "select", "tie") for k in range(2_500)]
    table = spooled(Dropped, iter(records))
    assert list(table) == records
    assert (table[0], table[1_000], table[-1]) == (records[0], records[1_000], records[-1])
    assert list((tmp_path / "cache" / "pairsight").iterdir()) == []
    assert list(spooled(Dropped, [])) == []
    drawn = sorted(random.Random(0).sample(range(2_500), 50))
    assert list(Part(table, drawn)) == [records[n] for n in drawn] == list(Part(records, drawn))
    assert list(record_texts(Part(records, drawn))) == list(record_texts(Part(table, drawn)))


@pytest.mark.long
def test_one_record_is_alive_at_a_time(images):
    ref, before = images.ref("a.png"), alive(PreferencePair)
    table = spooled(PreferencePair, (pair(k, ref) for k in range(3_000)))
    most = [alive(PreferencePair) for number, _ in enumerate(table) if number % 500 == 0]
    assert max(most) <= before + 2
    assert [alive(PreferencePair) for number, _ in enumerate(record_texts(table)) if number % 500 == 0] == [before] * 6
    held = [table[number] for number in range(0, 3_000, 7)]
    assert len(table._kept) <= record_tables._GROUPS_KEPT
    assert alive(PreferencePair) == before + len(held)


def test_pairs_of_several_files_are_one_sequence(images, tmp_path, monkeypatch):
    ref = images.ref("a.png")
    pairs = [pair(k, ref, rejected=1 + k % 3) for k in range(2_000)]
    shards = seal(tmp_path / "data", "pairs", pair_batches(pairs, images), PAIRS_SCHEMA, rows_per_shard=1_500)
    assert len(shards) == 3
    found = read_pairs(tmp_path, images)
    assert list(found) == pairs
    assert [found[n] for n in (0, 749, 750, -1)] == [pairs[n] for n in (0, 749, 750, -1)]
    assert list(found.items.values("chosen_words")) == [3] * 2_000
    assert list(found.items.values("pair_id")) == [one.id for one in pairs]
    whole = tmp_path / "one.parquet"  # as others write: all rows together
    pq.write_table(pa.concat_tables([pq.read_table(tmp_path / "data" / shard.file) for shard in shards] * 3), whole)
    with pytest.raises(DataError, match="the id 'p0' is used 3 times"):
        read_pairs(whole)
    monkeypatch.setattr(pairs_module, "MOST_TOGETHER", 500)
    pq.write_table(pairs_table(pairs, images), whole)
    found = read_pairs(whole)
    assert len(found.items._groups) == 2
    assert list(found) == pairs


def test_a_damaged_row_in_the_middle_is_named(images, tmp_path):
    pairs = [pair(k, images.ref("a.png"), rejected=2) for k in range(600)]
    rows = pairs_table(pairs, images).to_pylist()
    rows[800]["record"] = rows[800]["record"].replace('"strategy"', '"stratagem"')
    for name, part in (("pairs-00000", rows[:300]), ("pairs-00001", rows[300:])):
        pq.write_table(pa.Table.from_pylist(part, PAIRS_SCHEMA), tmp_path / f"{name}.parquet", row_group_size=200)
    found = read_pairs(tmp_path, images)
    read = []
    with pytest.raises(DataError, match=r"pairs-00001\.parquet row 501 \(id 'p400#0'\) holds no PreferencePair"):
        read.extend(found)
    assert read == pairs[:400]
    assert found[401] == pairs[401]
    with pytest.raises(DataError, match="row 501"):
        found[400]


def test_a_file_without_records_is_named(tmp_path):
    pq.write_table(pa.table({"record": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet holds no Dropped: 'record' must be text, found int64"):
        RecordTable(Dropped, [tmp_path / "a.parquet"])
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet holds no Dropped"):
        RecordTable(Dropped, [tmp_path / "a.parquet"])
