"""Tokens made in parts, by one process or several: the same file, whatever made it; a killed process loses its part."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import families
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.images.source import FileImages
from pairsight.models.load import load_model
from pairsight.models.local.processor import load_processor
from pairsight.records import Completion, Message, PreferencePair, Prompt
from pairsight.training import examples as module
from pairsight.training.data import parts, workers
from pairsight.training.data.table import TokenTable
from pairsight.training.examples import Ingredients, Rules, Tokeniser, prepared
from pairsight.training.families import describe

SIZES = [(28, 28), (40, 28), (28, 60), (56, 56)]
COUNT, PART = 22, 4


class Data:
    """A family's tiny model, and pairs whose images come again in other parts, some distorted and some without."""

    def __init__(self, family: str, folder: Path) -> None:
        families.build(family, folder / "model")
        (folder / "images").mkdir()
        pixels = np.random.default_rng(0)
        for number, size in enumerate(SIZES):
            picture = Image.fromarray(pixels.integers(0, 255, (*size, 3), dtype=np.uint8))
            picture.save(folder / "images" / f"{number}.png")
        self.images = FileImages(folder / "images")
        model = load_model(folder / "model", dtype="float32", device="cpu")
        self.family = describe(model)
        self.rules = Rules(400, False, 2, 2, "random_resized_crop")
        self.made_from = Ingredients(
            str(folder / "model"), self.family, model.generation_config, self.images, self.rules
        )
        self.tokeniser = Tokeniser(load_processor(folder / "model"), model, self.family, self.images, 0)
        self.pairs = [self._pair(number) for number in range(COUNT)]

    def _pair(self, number: int) -> PreferencePair:
        images = tuple(self.images.ref(f"{n % len(SIZES)}.png") for n in ([number] if number % 5 else []))
        prompt = Prompt(f"p{number}", (Message("user", f"What is {number // 3}?", images),))
        texts = [f"good {number}", "" if number % 7 == 3 else "bad " * (number % 4 + 1)]
        completions = [Completion(f"{number}:{i}", prompt.id, t, "stop", "m", 0, i) for i, t in enumerate(texts)]
        return PreferencePair(prompt.id, prompt, completions[0], (completions[1],), "test", weight=1 + number / 8)

    def prepared(self, file: Path, processes: int | None, pairs: Any = None, **options: Any) -> TokenTable:
        file.parent.mkdir(exist_ok=True)
        return prepared(
            file,
            self.pairs if pairs is None else pairs,
            self.tokeniser,
            self.made_from,
            in_parts=parts.InParts(processes),
            **options,
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_OF_A_PART", PART)
    monkeypatch.setattr(parts, "RECORDS_OF_A_PART", PART)


class Seen:
    """Counts of records that were tokenised, and that were known already."""

    def __init__(self) -> None:
        self.done = self.reused = 0

    def __call__(self, done: int, reused: int) -> None:
        self.done += done
        self.reused += reused


def assert_same(table: TokenTable, other: TokenTable) -> None:
    """The same examples, prompts and image units, by name rather than by number."""
    assert (table.skipped, table.cut, table.records_E.tolist()) == (other.skipped, other.cut, other.records_E.tolist())
    assert len(table) == len(other) > COUNT // 2
    for name in ("num_tokens_E", "chosen_lengths_E", "first_units_E", "keys_QB", "starts_E"):
        assert np.array_equal(getattr(table, name), getattr(other, name)), name
    for one, two in zip(table, other, strict=True):
        assert (one.id, one.weight, one.num_completions, one.num_tokens) == (
            two.id, two.weight, two.num_completions, two.num_tokens,
        )  # fmt: skip
        for a, b in zip(one.sequences, two.sequences, strict=True):
            for field in ("symbols_T", "input_ids_T", "positions_AT", "block_T", "unit_T", "unit_index_T"):
                assert np.array_equal(getattr(a, field), getattr(b, field)), field
            assert table.catalogue.prompt(a.prompt).messages == other.catalogue.prompt(b.prompt).messages
    assert table.catalogue.num_units == other.catalogue.num_units > len(SIZES)
    for number in range(table.catalogue.num_units):
        a, b = table.catalogue.unit(number), other.catalogue.unit(number)
        assert (a.part, a.num_tokens) == (b.part, b.num_tokens)


def test_parts_make_the_table_that_is_made_at_once(data: Data, tmp_path: Path, monkeypatch):
    seen = Seen()
    in_parts = data.prepared(tmp_path / "a" / "t.safetensors", 1, advance=seen)
    assert (seen.done, seen.reused) == (COUNT, 0)
    assert [p.name for p in (tmp_path / "a").iterdir() if p.is_dir()] == []
    monkeypatch.setattr(module, "RECORDS_OF_A_PART", COUNT)
    assert_same(in_parts, data.prepared(tmp_path / "b" / "t.safetensors", 1))


class Ended:
    """Stands for a process that has ended."""

    returncode = -9

    def wait(self, seconds: float = 0.0) -> int:
        return self.returncode

    def kill(self) -> None:
        pass


def in_threads(monkeypatch: pytest.MonkeyPatch, serve: Callable[[Connection, int], None]) -> None:
    """Let threads do what processes would; each is given its end of the pipe and its number."""
    started: list[threading.Thread] = []

    def start(made_from: Ingredients) -> workers._Worker:
        here, there = Pipe()
        started.append(threading.Thread(target=serve, args=(there, len(started)), daemon=True))
        started[-1].start()
        worker = workers._Worker(Ended(), here)
        worker.send(made_from)
        return worker

    monkeypatch.setattr(workers._Worker, "start", start)


def test_several_workers_make_the_same_bytes(data: Data, tmp_path: Path, monkeypatch):
    one = tmp_path / "one" / "t.safetensors"
    data.prepared(one, 1)
    for count in (2, 5):
        in_threads(monkeypatch, lambda pipe, number: workers.serve(pipe))
        several, seen = tmp_path / str(count) / "t.safetensors", Seen()
        data.prepared(several, count, advance=seen)
        assert several.read_bytes() == one.read_bytes()
        assert (seen.done, seen.reused) == (COUNT, 0)


def test_a_lost_worker_is_an_error_and_what_is_finished_is_kept(data: Data, tmp_path: Path, monkeypatch):
    def one_is_lost(pipe: Connection, number: int) -> None:
        if number == 1:
            pipe.recv(), pipe.recv()
            while len(list((tmp_path / "a" / "t.parts").glob("0*"))) < 3:
                time.sleep(0.01)
            pipe.close()
        else:
            workers.serve(pipe)

    file = tmp_path / "a" / "t.safetensors"
    in_threads(monkeypatch, one_is_lost)
    with pytest.raises(RunError, match=r"ended by signal SIGKILL.*what is finished is kept.*dataset_num_proc"):
        data.prepared(file, 2)
    kept = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "a" / "t.parts").glob("0*")}
    assert len(kept) >= 3
    (tmp_path / "a" / "t.parts" / min(kept)).write_bytes(b"damaged")
    seen = Seen()
    data.prepared(file, 1, advance=seen)
    assert seen.done + seen.reused == COUNT
    assert seen.reused >= PART * (len(kept) - 1)  # more where the other worker, a thread here, was in the middle of one
    assert seen.done >= PART
    data.prepared(tmp_path / "b" / "t.safetensors", 1)
    assert file.read_bytes() == (tmp_path / "b" / "t.safetensors").read_bytes()


def test_the_first_bad_record_is_the_error_whoever_finds_it(data: Data, tmp_path: Path, monkeypatch):
    """Part 3 is bad and found at once; part 1 is bad and slow; an id comes twice in part 4."""
    bad = list(data.pairs)
    for number, marks in {PART + 2: 9, 3 * PART: 8}.items():
        message = Message("user", "<image>" * marks, bad[1].prompt.images)
        bad[number] = replace(bad[number], prompt=replace(bad[number].prompt, messages=(message,)))
    bad[4 * PART] = replace(bad[4 * PART], id=bad[0].id)

    def slow(pipe: Connection, number: int) -> None:
        time.sleep(0.3 * (number == 1))
        workers.serve(pipe)

    said = []
    for count in (1, 3):
        in_threads(monkeypatch, slow)
        with pytest.raises(DataError) as caught:
            data.prepared(tmp_path / str(count) / "t.safetensors", count, pairs=bad)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "'p6'" in said[0]
    with pytest.raises(DataError, match="'p0' is the id of two examples"):
        data.prepared(tmp_path / "twice" / "t.safetensors", 1, pairs=[*data.pairs, data.pairs[0]])


def test_how_many_processes(data: Data, monkeypatch, caplog):
    monkeypatch.setattr(parts.os, "sched_getaffinity", lambda _: set(range(64)))
    count = [parts._workers(None, missing, data.made_from) for missing in (1, 5, 6, 23, 24, 1000)]
    assert count == [1, 1, 2, 7, 8, 8]
    assert [parts._workers(asked, 4, data.made_from) for asked in (1, 3, 9)] == [1, 3, 4]
    monkeypatch.setattr(parts.os, "sched_getaffinity", lambda _: {0, 3})
    assert parts._workers(None, 1000, data.made_from) == 2
    own = type("Own", (), {"__module__": "__main__"})()
    here_alone = replace(data.made_from, images=own)
    assert parts._workers(None, 1000, here_alone) == 1
    with pytest.raises(ConfigError, match=r"dataset_num_proc is 2, and .*images of Own, a class of the program itself"):
        parts._workers(2, 1000, here_alone)
    assert parts._workers(None, 1000, replace(data.made_from, images=lambda: 0)) == 1


def test_a_process_writes_the_same_bytes(data: Data, tmp_path: Path):
    folders = [tmp_path / "here", tmp_path / "there"]
    blocks: list[workers.Block] = [(0, 0, data.pairs[:PART]), (1, PART, data.pairs[PART : 2 * PART])]
    files = [[folder / f"{number}" for number in range(2)] for folder in folders]
    for folder in folders:
        folder.mkdir()
    for number, first, pairs in blocks:
        workers.write_part(files[0][number], first, pairs, data.tokeniser, data.made_from, lambda: None)
    workers.tokenise(files[1], iter(blocks), data.made_from, 1, lambda done: None)
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "paligemma", "internvl", "llava_next", "idefics3"])
def test_every_family_makes_the_same_bytes(family: str, tmp_path: Path, monkeypatch):
    """Positions by the model's own rule, blocks that see both ways, tiles that depend on sizes."""
    data = Data(family, tmp_path / "data")
    tables = [data.prepared(tmp_path / str(count) / "t.safetensors", count) for count in (1, 2)]
    one, two = ((tmp_path / str(count) / "t.safetensors").read_bytes() for count in (1, 2))
    assert one == two
    monkeypatch.setattr(module, "RECORDS_OF_A_PART", COUNT)
    assert_same(tables[0], data.prepared(tmp_path / "at once" / "t.safetensors", 1))


@pytest.mark.long
def test_a_killed_process_is_an_error_and_the_same_command_goes_on(data: Data, tmp_path: Path, monkeypatch):
    real, started = workers._Worker.start, []

    def start(made_from: Ingredients) -> workers._Worker:
        started.append(real(made_from))
        return started[-1]

    def kill(done: int, reused: int) -> None:
        if done and started[1].process.poll() is None:
            started[1].process.kill()

    monkeypatch.setattr(workers._Worker, "start", start)
    file = tmp_path / "a" / "t.safetensors"
    with pytest.raises(RunError, match="a process that tokenises was ended by signal SIGKILL"):
        data.prepared(file, 2, advance=kill)
    assert all(one.process.poll() is not None for one in started)
    data.prepared(file, 2)
    data.prepared(tmp_path / "b" / "t.safetensors", 1)
    assert file.read_bytes() == (tmp_path / "b" / "t.safetensors").read_bytes()
