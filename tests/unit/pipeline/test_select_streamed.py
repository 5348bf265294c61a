"""Choosing from a run's candidates: prompt by prompt, kept for the next training, and narrowed as a list would be."""

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import ClassVar

import pytest
from PIL import Image

from pairsight.errors import DataError
from pairsight.formats.pairs import read_pairs
from pairsight.formats.record_tables import record_texts
from pairsight.formats.tables import num_words
from pairsight.inspection.inspect import inspect_run
from pairsight.pipeline.align import AlignSpec, limited
from pairsight.pipeline.select import load_candidates, seal_build, select, select_once
from pairsight.records import Annotation, Candidates, Completion, Dropped, Message, PreferencePair, Prompt, to_json
from pairsight.selection.clean_over_distorted import CleanOverDistorted
from pairsight.selection.preference_rule import PreferenceRule
from pairsight.selection.rejection_sampling import RejectionSampling
from pairsight.selection.steerlm import SteerLM
from pairsight.selection.strategy import choose
from pairsight.store.lock import folder_lock
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import ROWS_PER_SHARD, sealed_tables
from pairsight.store.verify import verify_run

NUM = 1_500


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(image):
    for n in range(NUM):
        if n % 7 == 3:
            yield Dropped(f"p{n}", "annotate", "not_json", "…")
            continue
        prompt = Prompt(f"p{n}", (Message("user", f"What is number {n}?", () if n % 5 == 0 else (image,)),))
        texts = ["It is." + " Yes." * ((n * k) % 4) for k in range(3)]
        completions = tuple(Completion(f"p{n}:{k}", f"p{n}", text, "stop", "m", k, k) for k, text in enumerate(texts))
        yield Candidates(
            prompt,
            completions,
            tuple(
                Annotation(one.id, "judge", {"helpfulness": (n + 2 * k) % 5, "correctness": 2, "coherence": 4})
                for k, one in enumerate(completions)
            ),
        )


@pytest.fixture
def run(tmp_path):
    rule = {"name": "preference_rule", **PreferenceRule().to_plain()}
    folder = RunFolder.create(tmp_path / "run", {"recipe": "feedback", "strategy": rule})
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    image = folder.blobs.add_file(tmp_path / "a.png")
    with folder.ledger():
        seal_build(folder, made(image), PreferenceRule())
    return folder.path


@pytest.mark.parametrize("strategy", [PreferenceRule(), RejectionSampling(min_total=9), SteerLM()])
def test_what_is_chosen_prompt_by_prompt_is_what_is_chosen_from_a_list(run, strategy):
    candidates = load_candidates(run)
    wanted = choose([*candidates.dropped, *candidates], strategy)
    chosen, dropped = select(candidates, strategy)
    assert tuple(chosen) == (wanted.pairs or wanted.demonstrations)
    assert tuple(dropped) == wanted.dropped
    assert tuple(select_once(candidates, strategy)) == tuple(select_once(candidates, strategy)) == tuple(chosen)
    assert list(record_texts(chosen)) == [to_json(one) for one in chosen]


def alive():
    gc.collect()
    return sum(isinstance(one, (Candidates, PreferencePair)) for one in gc.get_objects())


class Counting(PreferenceRule):
    """Counts what is alive, and how often it chooses."""

    most: ClassVar[int] = 0
    calls: ClassVar[int] = 0

    def __call__(self, candidates):
        Counting.calls += 1
        if Counting.calls % 200 == 0:
            Counting.most = max(Counting.most, alive())
        return super().__call__(candidates)


def test_few_candidates_and_pairs_are_alive_while_it_is_chosen(run):
    Counting.most, Counting.calls, before = 0, 0, alive()
    chosen, dropped = select(load_candidates(run), Counting())
    assert len(chosen) + len(dropped) == NUM
    assert Counting.calls == NUM - len(range(3, NUM, 7))
    assert before < Counting.most <= before + 3


@pytest.mark.long
def test_what_was_chosen_is_kept_for_the_same_candidates_and_options_only(run):
    candidates = load_candidates(run)
    first = list(select_once(candidates, PreferenceRule()))
    (folder,) = (run / "selections").iterdir()
    (file,) = folder.glob("*.parquet")
    whole, time = file.read_bytes(), file.stat().st_mtime_ns
    assert list(select_once(load_candidates(run), PreferenceRule())) == first
    assert file.stat().st_mtime_ns == time
    assert len(list(select_once(candidates, PreferenceRule(min_margin=4)))) < len(first)
    assert len(list((run / "selections").iterdir())) == 2
    file.write_bytes(whole[:-1] + b"?")
    (problem,) = verify_run(run).problems
    assert "is damaged" in problem
    assert f"remove {folder}, the next training chooses again" in problem
    assert list(select_once(candidates, PreferenceRule())) == first
    assert file.read_bytes() == whole
    assert verify_run(run).problems == ()
    Counting.calls = 0
    for _ in range(2):  # code of the user's own may have changed anywhere
        select_once(candidates, Counting())
    assert Counting.calls == 2 * (NUM - len(range(3, NUM, 7)))
    assert len(list((run / "selections").iterdir())) == 2


def test_processes_that_choose_at_the_same_time_wait_for_the_first(run):
    """Every process of one training chooses: one writes what it chose, the others read it."""
    candidates = load_candidates(run)
    with ThreadPoolExecutor(1) as other:
        with folder_lock(run / "selections"):
            waiting = other.submit(select_once, candidates, PreferenceRule(min_margin=2))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            assert not [path for path in (run / "selections").iterdir() if path.is_dir()]
        chosen = list(waiting.result(timeout=60))
    assert chosen == list(select(candidates, PreferenceRule(min_margin=2))[0])


@pytest.mark.parametrize("limit", [None, 20])
def test_limits_are_those_of_a_list(run, limit):
    options = {"data": str(run), "model": "m", "text_only_prompts": False, "max_length_difference": 1, "limit": limit}
    spec = AlignSpec.parse(options, "feedback", PreferenceRule())
    chosen, _ = select(load_candidates(run))
    wanted = [
        pair
        for pair in chosen
        if pair.prompt.images and abs(num_words(pair.chosen.text) - num_words(pair.rejected[0].text)) <= 1
    ]
    if limit is not None:
        drawn = sorted(random.Random(spec.training.seed).sample(range(len(wanted)), limit))
        wanted = [wanted[number] for number in drawn]
    found = limited(chosen, spec)
    assert list(found) == wanted
    assert list(record_texts(found)) == [to_json(one) for one in wanted]
    assert found.images is chosen.images
    demonstrations, _ = select(load_candidates(run), RejectionSampling())
    with pytest.raises(DataError, match="this strategy makes demonstrations"):
        limited(demonstrations, spec)


def test_what_was_chosen_from_other_candidates_is_not_used(run):
    first = list(select_once(load_candidates(run), PreferenceRule()))
    folder = RunFolder.open(run)
    image = next(ref for one in load_candidates(run) for ref in one.prompt.images)
    with folder.ledger():
        seal_build(folder, islice(made(image), 700), PreferenceRule())
    again = list(select_once(load_candidates(run), PreferenceRule()))
    assert again == first[: len(again)]
    assert 0 < len(again) < len(first)


@pytest.mark.long
def test_more_pairs_than_a_file_holds_go_all_the_way(tmp_path):
    count = ROWS_PER_SHARD + 500
    folder = RunFolder.create(tmp_path / "run", {"recipe": "seva", "strategy": {"name": "clean_over_distorted"}})
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    image = folder.blobs.add_file(tmp_path / "a.png")

    def candidates():
        for n in range(count):
            prompt = Prompt(f"p{n}", (Message("user", "Why?", (image,)),))
            completions = (
                Completion(f"p{n}:{k}", f"p{n}", text, "stop", "m", 0, k, None if k == 0 else (image,))
                for k, text in enumerate(["Yes.", "No."])
            )
            yield Candidates(prompt, tuple(completions))

    with folder.ledger():
        seal_build(folder, candidates(), CleanOverDistorted())
    assert [shard.rows for shard in sealed_tables(folder.data)["pairs"]] == [ROWS_PER_SHARD, 500]
    assert verify_run(folder.path).problems == ()
    chosen = select_once(load_candidates(folder.path), CleanOverDistorted())
    assert (len(chosen), chosen[-1].id) == (count, f"p{count - 1}")
    assert inspect_run(folder.path).counts == {"completions": 2 * count, "prompts": count, "pairs": count, "images": 1}
    assert len(read_pairs(folder.path)) == count
    assert verify_run(folder.path).problems == ()
