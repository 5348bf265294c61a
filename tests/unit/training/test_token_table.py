"""What a pair costs at LLaVA's shape: by accounting, in the file and in the memory of the process."""

import gc
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from pairsight.records import Message, Prompt
from pairsight.training.data import table as module
from pairsight.training.data.table import TableWriter, TokenTable, Unit
from pairsight.training.families import Family
from pairsight.training.reference import ReferenceStore
from pairsight.training.tokens import BlockNumbers, TokenPrompt, symbols_of, token_example

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


def test_units_that_follow_each_other_or_are_cut_by_text_are_as_they_were(tmp_path: Path):
    """Unit 0 twice in a row, then unit 1 in two parts; positions by a rule of the model's own, on three axes."""
    family = replace(FAMILY, rope_index=True)
    unit = np.array([-1, 0, 0, 0, 0, 0, 0, -1, 1, 1, -1, 1, -1, -1])
    index = np.array([-1, 0, 1, 2, 0, 1, 2, -1, 0, 1, -1, 2, -1, -1])
    ids = np.where(unit < 0, np.arange(14) + 7, 32000)
    positions = np.random.default_rng(0).integers(-5, 9000, (3, 15))
    block = np.array([-1, 0, 0, 0, 1, 1, 1, *[-1] * 7])
    symbols = BlockNumbers(lambda number: b"%d" % number).put(symbols_of(ids, unit, index), block)
    assert symbols[1:4].tolist() == symbols[4:7].tolist(), "equal blocks have equal symbols"
    prompts = [
        TokenPrompt(symbols_of(ids, unit, index), ids, positions, np.full(14, -1), unit, index, 0, key=b"0" * 32),
        TokenPrompt(symbols, ids, positions, block, unit, index, 1, key=b"1" * 32),
    ]
    writer, completions = TableWriter(tmp_path / "t", family), [np.array([3, 4, 5]), np.array([3, 6])]
    for number in range(2):
        writer.add_prompt(Prompt(f"{number}", ()))
    writer.add_unit(Unit(0, 0, 3))
    for tokens in prompts:
        writer.add_tokens(tokens)
        writer.add_tokens(tokens)  # a second time changes nothing
    example = token_example("é", prompts, completions, float("nan"))
    writer.add_example(5, example, [0, 1], completions)
    writer.finish(Counter(overlong_prompt=3), 2)
    table = TokenTable(tmp_path / "t", family)
    (kept,) = table
    assert (kept.id, kept.num_completions, kept.num_tokens) == ("é", 2, example.num_tokens)
    assert np.isnan(kept.weight)
    assert (table.records_E.tolist(), table.skipped, table.cut) == ([5], Counter(overlong_prompt=3), 2)
    assert (table.starts_E.tolist(), len(table.keys_QB)) == ([0], 3)
    for one, other in zip(kept.sequences, example.sequences, strict=True):
        for name in ("symbols_T", "input_ids_T", "positions_AT", "block_T", "unit_T", "unit_index_T"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert (one.key, one.prompt, one.prompt_length) == (other.key, other.prompt, other.prompt_length)
