"""A build's tables are written as candidates come: the same bytes as from one list, and never many in memory."""

import gc

import pyarrow as pa
import pytest
from PIL import Image

from made_tables import seal
from pairsight.errors import ConfigError
from pairsight.formats import tables, trl
from pairsight.pipeline.select import load_candidates, seal_build
from pairsight.records import Annotation, Candidates, Completion, Dropped, Message, Prompt
from pairsight.selection.preference_rule import PreferenceRule
from pairsight.selection.rejection_sampling import RejectionSampling
from pairsight.selection.strategy import choose
from pairsight.store.run_folder import RunFolder
from pairsight.store.sealed import ShardWriter, sealed_tables

NUM = 2600
"""More than two groups of a thousand rows, in parts of 256."""


@pytest.fixture
def run(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"recipe": "feedback", "strategy": {"name": "preference_rule"}})
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    return run, run.blobs.add_file(tmp_path / "a.png")


def made(image, num=NUM):
    """Every seventh prompt was dropped by the recipe; scores make some pairs and some drops."""
    for n in range(num):
        if n % 7 == 3:
            yield Dropped(f"p{n}", "annotate", "not_json", "…")
            continue
        prompt = Prompt(f"p{n}", (Message("user", f"What is number {n}?", (image,)),), f"source{n % 3}")
        completions = tuple(Completion(f"p{n}:{k}", f"p{n}", f"It is {k}.", "stop", "m", k, k) for k in range(3))
        annotations = tuple(
            Annotation(one.id, "judge", {"helpfulness": (n + 2 * k) % 5, "correctness": 2, "coherence": 4}, "because")
            for k, one in enumerate(completions)
        )
        yield Candidates(prompt, completions, annotations)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("strategy", [PreferenceRule(), RejectionSampling()])
def test_the_bytes_are_those_of_tables_made_from_one_list(run, tmp_path, strategy):
    folder, image = run
    sealed = seal_build(folder, made(image), strategy)
    everything = list(made(image))
    candidates = [one for one in everything if isinstance(one, Candidates)]
    selection = choose(everything, strategy)
    whole = tmp_path / "whole"
    seal(whole, "candidates", tables.candidates_batches(candidates), tables.CANDIDATES_SCHEMA)
    completions = [one for c in candidates for one in c.completions]
    seal(whole, "completions", tables.completion_batches(completions), tables.COMPLETIONS_SCHEMA)
    annotations = [one for c in candidates for one in c.annotations]
    seal(whole, "annotations", tables.annotation_batches(annotations), tables.ANNOTATIONS_SCHEMA)
    if strategy.makes_demonstrations:
        rows = trl.demonstration_batches(selection.demonstrations, folder.blobs)
        seal(whole, "demonstrations", rows, trl.DEMONSTRATIONS_SCHEMA)
    else:
        seal(whole, "pairs", trl.pair_batches(selection.pairs, folder.blobs), trl.PAIRS_SCHEMA)
    seal(whole, "dropped", tables.dropped_batches(selection.dropped), tables.DROPPED_SCHEMA)
    assert files(folder.data) == files(whole)
    assert sealed.num_examples == len(selection.pairs) + len(selection.demonstrations) > 0
    assert sum(sealed.dropped.values()) == len(selection.dropped) >= NUM // 7


def test_few_candidates_are_in_memory_at_once(run):
    folder, image = run
    most = 0

    def watched():
        nonlocal most
        for n, one in enumerate(made(image)):
            if n % 500 == 499:
                most = max(most, sum(isinstance(other, Candidates) for other in gc.get_objects()))
            yield one

    seal_build(folder, watched(), PreferenceRule())
    assert 0 < most <= 2 * 256
    assert sum(isinstance(one, Candidates) for one in load_candidates(folder.path)) == NUM - len(range(3, NUM, 7))


def test_a_writer_holds_less_than_a_group_of_rows(tmp_path):
    schema = pa.schema({"n": pa.int64()})
    writer = ShardWriter(tmp_path, "pairs", schema, rows_per_shard=2500)
    for start in range(0, 6000, 300):
        writer.write(pa.record_batch([list(range(start, start + 300))], schema=schema))
        assert sum(batch.num_rows for batch in writer._held) < 1000
    assert [shard.rows for shard, _ in writer.finish()] == [2500, 2500, 1000]
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_sealing_leaves_the_earlier_tables(run):
    folder, image = run
    seal_build(folder, made(image, 20), PreferenceRule())
    before = files(folder.data)

    def interrupted():
        yield from made(image, 1500)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal_build(folder, interrupted(), PreferenceRule())
    assert files(folder.data) == before


def test_another_kind_of_strategy_takes_the_other_table_away(run):
    folder, image = run
    seal_build(folder, made(image, 20), PreferenceRule())
    seal_build(folder, made(image, 20), RejectionSampling())
    assert set(sealed_tables(folder.data)) == {"candidates", "completions", "annotations", "demonstrations", "dropped"}
    assert list(folder.data.glob("pairs-*")) == []
    seal_build(folder, made(image, 20), PreferenceRule())
    assert "demonstrations" not in sealed_tables(folder.data)


def test_a_strategy_that_does_something_else_than_it_says_is_refused(run):
    class Liar(PreferenceRule):
        makes_demonstrations = True

    folder, image = run
    with pytest.raises(ConfigError, match="'preference_rule' says that it makes demonstrations, and made others"):
        seal_build(folder, made(image, 20), Liar())
