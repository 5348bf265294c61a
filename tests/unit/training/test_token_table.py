"""What a pair costs at LLaVA's shape: by accounting, in the file and in the memory of the process."""

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np

from pairsight.records import Message, Prompt
from pairsight.training.data import table as module
from pairsight.training.data.table import TableWriter, TokenTable, Unit
from pairsight.training.families import Family
from pairsight.training.reference import ReferenceStore
from pairsight.training.tokens import TokenPrompt, symbols_of, token_example

IMAGE, TEXT, COMPLETION = 576, 40, 100
FAMILY = Family(32000, "none", None, ("full_attention",), "full_attention", 0, rope_index=False, obstacle="")


def made(path: Path, count: int) -> Path:
    """A table of pairs, two on each image, each with a prompt of its own."""
    writer, random = TableWriter(path, FAMILY), np.random.default_rng(0)
    for number in range(count):
        prompt = Prompt(f"{number:04}", (Message("user", "w" * 100),))
        if number % 2 == 0:
            writer.add_unit(Unit(writer.add_prompt(prompt), 0, IMAGE))
        else:
            writer.add_prompt(prompt)
        ids, unit, index = (np.full(IMAGE + TEXT, fill) for fill in (32000, -1, -1))
        unit[5 : 5 + IMAGE], index[5 : 5 + IMAGE] = number // 2, np.arange(IMAGE)
        ids[unit < 0] = random.integers(0, 32000, TEXT)
        positions = np.arange(IMAGE + TEXT + 1)[None]
        none = np.full(len(ids), -1)
        tokens = TokenPrompt(symbols_of(ids, unit, index), ids, positions, none, unit, index, number, key=bytes(32))
        completions = [random.integers(0, 32000, COMPLETION) for _ in range(2)]
        writer.add_tokens(tokens)
        writer.add_example(number, token_example(prompt.id, [tokens], completions, 1.0), [number], completions)
    writer.finish(Counter(), 0)
    return path


def test_a_pair_in_the_file_is_its_text_its_completions_and_little_else(tmp_path: Path):
    sizes = [made(tmp_path / str(count), count).stat().st_size for count in (400, 500)]
    record = len('{"id":"0000","messages":[{"role":"user","text":"","images":[]}],"source":""}') + 100
    prompt = 4 * TEXT + 4 * 4 + 4 * 8 + record + 8  # tokens, one run, ends, its record and that one's end
    pair = 2 * (4 * COMPLETION + 8 + 32) + 4 + 7 * 8 + 8 + 4  # completions with keys, prompt, facts, weight, id
    image = 3 * 4
    header = 2 * 14 * 8  # numbers in it may have more digits
    assert abs(sizes[1] - sizes[0] - 100 * (prompt + pair) - 50 * image) <= header
    assert prompt + pair < 1500


def test_a_pair_and_its_reference_take_under_a_kilobyte_of_memory(tmp_path: Path):
    def held(count: int) -> int:
        """Bytes that the process holds for the table and the store, without mapped files."""
        made(tmp_path / str(count), count)
        table = TokenTable(tmp_path / str(count), FAMILY)
        store = ReferenceStore(tmp_path / f"references {count}", "model")
        for key in table.keys_QB:
            store.add(key.tobytes(), np.zeros(COMPLETION, np.float32))
        store.save()
        del table, store
        gc.collect()
        tracemalloc.start()
        table = TokenTable(tmp_path / str(count), FAMILY)
        store = ReferenceStore(tmp_path / f"references {count}", "model")
        assert not store.missing(table.keys_QB).any()
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(table) == count and len(store) == 2 * count
        return size

    held(100)  # what is imported and cached at first use
    assert (held(500) - held(100)) / 400 < 100


def test_examples_that_were_unpacked_are_not_held_for_ever(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "_RECENT_TOKENS", 5_000)
    table = TokenTable(made(tmp_path / "t", 20), FAMILY)
    first = table[0]
    assert table[0] is first
    assert [len(example.sequences[0]) for example in table] == [IMAGE + TEXT + COMPLETION] * 20
    assert sum(len(s) for example in table._recent.values() for s in example.sequences) == table._recent_tokens
    assert len(table._recent) == 5_000 // (2 * (IMAGE + TEXT + COMPLETION))
    assert table[0] is not first
    assert all(
        np.array_equal(a.symbols_T, b.symbols_T) for a, b in zip(table[0].sequences, first.sequences, strict=True)
    )
