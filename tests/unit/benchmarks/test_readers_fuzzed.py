"""Damaged official files and answer files give samples or a one-line DataError, never anything else."""

import random
import shutil

import official
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_benchmark_files import FILES, SUFFIX

from pairsight.benchmarks.tasks import make_benchmark
from pairsight.errors import DataError

JUNK = [b"\x00", b"\xff\xfe", b"{", b"}", b"[", b'"', b"null", b"true", b"1e999", b"-1", b"\n", b"\r\n", b"\t", b",",
        b":", b"NaN", b"\xe2\x80\xa8", b"\\u0000", b"999999999999999999999", b"[" * 300, b"\xef\xbb\xbf"]  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(5)
    offset = rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:offset]
    if kind == 1:
        return data[:offset] + rng.choice(JUNK) + data[offset:]
    if kind == 2:
        return data[:offset] + data[offset + rng.randint(1, 40) :]
    if kind == 3:
        lines = data.split(b"\n")
        rng.shuffle(lines)
        return b"\n".join(lines[: rng.randint(0, len(lines))])
    start = rng.randrange(len(data) + 1)
    return data[:offset] + data[start : start + 80] + data[offset:]


def files_of(path):
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_and_answers(name, tmp_path):
    damage_and_read(name, tmp_path, times=60)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FILES)
def test_much_damaged_files_and_answers(name, tmp_path):
    damage_and_read(name, tmp_path, times=1500)


def damage_and_read(name, tmp_path, times):
    rng = random.Random(name)
    good = FILES[name](tmp_path / f"good{SUFFIX.get(name, '')}")
    root = good if good.is_dir() else good.parent
    benchmark = make_benchmark(name)
    groups = list(benchmark.load(good, official.Names()))
    texts = {sample.id: rng.choice(["Yes", "B", "two"]) for group in groups for sample in group}
    written = benchmark.write_answers(tmp_path / "answers", good, groups, texts)
    failed = 0
    for _ in range(times):
        trial = tmp_path / "trial"
        shutil.copytree(root, trial, ignore=shutil.ignore_patterns("trial", "answers", "torn*"))
        victim = rng.choice(files_of(trial))
        victim.write_bytes(damaged(victim.read_bytes(), rng))
        target = trial if good.is_dir() else trial / good.name
        failed += refused(lambda target=target: list(benchmark.load(target, official.Names())))
        shutil.rmtree(trial)
        answer = rng.choice(written)
        torn = tmp_path / "torn" / answer.name
        torn.parent.mkdir(exist_ok=True)
        for other in written:
            shutil.copy(other, torn.parent)
        torn.write_bytes(damaged(answer.read_bytes(), rng))
        source = torn.parent if len(written) > 1 else torn
        failed += refused(lambda source=source: benchmark.read_answers(source, good, groups))
    assert failed > times // 3  # the damage is real


def refused(call) -> bool:
    try:
        call()
    except DataError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        return True
    return False


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["question_id", "id", "image", "text", "label", "question", "answer", "data", "questions", "annotations",
          "imageId", "types", "choices", "category", "answers", "image_id", "query", "type", "truth"]  # fmt: skip


@pytest.mark.parametrize("name", ["pope", "gqa", "textvqa", "seed_bench", "vqav2", "object_halbench"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from(FIELDS), values, max_size=6), max_size=3))
def test_any_json_gives_samples_or_a_data_error(name, rows, tmp_path):
    path = official.jsonl(tmp_path / "rows.jsonl", rows)
    refused(lambda: list(make_benchmark(name).load(path, official.Names())))
    for shape in ({"data": rows}, {"questions": rows}, {str(k): row for k, row in enumerate(rows)}, rows):
        path = official.as_json(tmp_path / "document.json", shape)
        refused(lambda path=path: list(make_benchmark(name).load(path, official.Names())))
