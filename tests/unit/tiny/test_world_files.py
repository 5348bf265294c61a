"""The world on disk: read back by the package's own readers, scored by the benchmark, rated by the truth."""

import errno
import json
import os
from pathlib import Path

import pytest

from pairsight.benchmarks.suites.pope import Pope
from pairsight.cli.main import main
from pairsight.errors import ConfigError, DataError, RunError
from pairsight.formats.prompts import read_prompts
from pairsight.images.source import FileImages
from pairsight.records import Completion, ItemError, Message, Prompt
from pairsight.tiny.truth.annotator import TruthAnnotator, read_truth
from pairsight.tiny.world.benchmark import TinyWorld
from pairsight.tiny.world.picture_texts import TOPICS
from pairsight.tiny.world.world_files import TEXTS_PER_TOPIC, write_world

NUM_SCENES = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("tiny") / "world", NUM_SCENES, 5, model=None)


def samples(world):
    groups = list(TinyWorld().load(world / "truth.jsonl", FileImages(world / "images")))
    assert all(len(group) == 1 for group in groups)
    return groups


def completion(text):
    return Completion("c", "p", text, "stop", "m", 0, 0)


def test_a_world_is_its_files(world):
    assert sorted(path.name for path in world.iterdir()) == [
        "images", "judged", "pope.jsonl", "prompts.json", "texts.jsonl", "truth.jsonl", "world.json",
    ]  # fmt: skip
    assert len(list((world / "images").iterdir())) == 2 * NUM_SCENES


def test_prompts_are_llava_entries_about_other_scenes_than_the_benchmark(world):
    prompts = json.loads((world / "prompts.json").read_text())
    benchmark = [row.image for row in read_truth(world / "truth.jsonl") if row.use == "benchmark"]
    for entry in prompts:
        human, gpt = entry["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n") == ("image" in entry)
        assert entry.get("image") not in {name for name in benchmark if name}
    assert len({entry["id"] for entry in prompts}) == len(prompts)
    assert sum("image" not in entry for entry in prompts) == NUM_SCENES // 2


def test_texts_to_make_pictures_from_are_read_as_prompts(world):
    texts = read_prompts(world / "texts.jsonl")
    assert len(texts) == TEXTS_PER_TOPIC * len(TOPICS)
    assert (texts.items[0].id, texts.items[0].source) == ("art-1", "art")
    assert texts.items[0].question.startswith("art scene with ")


def test_pope_reads_its_file_with_all_three_splits(world):
    groups = list(Pope().load(world / "pope.jsonl", FileImages(world / "images")))
    assert len(groups) == 3 * NUM_SCENES
    assert {group[0].target["split"] for group in groups} == {"random", "popular", "adversarial"}


def test_true_answers_score_full_marks(world):
    benchmark, groups = TinyWorld(), samples(world)
    scored = [benchmark.score(group, [group[0].target["answer"]], "official") for group in groups]
    total = sum_rows(scored)
    figures = {name: float(values[0]) for name, values in benchmark.combine(total).items()}
    for name in ("accuracy", "f1", "recall", "text_accuracy", "count_accuracy", "place_accuracy", "colour_accuracy"):
        assert figures[name] == 1.0
    assert figures["chair_i"] == figures["chair_s"] == 0.0
    assert set(figures) <= set(benchmark.directions())
    assert all(one.readings[0].correct == 1.0 for one in scored)


def test_the_cluster_is_the_scene(world):
    clusters = {group[0].cluster for group in samples(world) if group[0].prompt.images}
    assert len(clusters) == NUM_SCENES


def test_the_robust_parser_counts_what_it_cannot_read(world):
    group = next(g for g in samples(world) if g[0].target["kind"] == "existence")
    official = TinyWorld().score(group, ["perhaps"], "official")
    robust = TinyWorld().score(group, ["perhaps"], "robust")
    assert (official.num_unparsed, robust.num_unparsed) == (1, 1)
    assert robust.readings[0].correct == 0.0


def test_a_changed_picture_is_refused(world, tmp_path):
    for name in {row.image for row in read_truth(world / "truth.jsonl") if row.image}:
        (tmp_path / name).write_bytes(next((world / "images").iterdir()).read_bytes())
    with pytest.raises(DataError, match="the file has changed"):
        list(TinyWorld().load(world, FileImages(tmp_path)))


def test_the_truth_rates_a_prompt_of_the_world(world):
    images = FileImages(world / "images")
    row = next(row for row in read_truth(world / "truth.jsonl") if row.use == "prompt" and row.kind == "caption")
    prompt = Prompt("p", (Message("user", f"<image>\n{row.question}", (images.ref(row.image),)),))
    right, empty = TruthAnnotator(world / "truth.jsonl").annotate(prompt, [completion(row.answer), completion("")])
    assert dict(right.scores) == {
        "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": right.scores["complexity"], "verbosity": 2,
    }  # fmt: skip
    assert set(empty.scores.values()) == {0.0}


def test_a_new_question_about_a_known_picture_is_rated_as_a_caption(world):
    images = FileImages(world / "images")
    row = next(row for row in read_truth(world / "truth.jsonl") if row.kind == "caption")
    prompt = Prompt("p", (Message("user", "Tell me all.", (images.ref(row.image),)),))
    (rated,) = TruthAnnotator(world / "truth.jsonl").annotate(prompt, [completion(row.answer)])
    assert rated.scores["correctness"] == 4


def test_an_unknown_prompt_is_an_error_that_is_not_retried(world):
    prompt = Prompt("p", (Message("user", "Who are you?"),))
    (error,) = TruthAnnotator(world / "truth.jsonl").annotate(prompt, [completion("Tom")])
    assert isinstance(error, ItemError)
    assert (error.reason, error.retryable) == ("unknown_prompt", False)


def test_writing_again_changes_nothing_and_another_world_is_refused(world):
    before = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    write_world(world, NUM_SCENES, 5, model=None)
    assert {path: path.read_bytes() for path in world.rglob("*") if path.is_file()} == before
    with pytest.raises(RunError, match="another world \\(seed differ"):
        write_world(world, NUM_SCENES, 6, model=None)
    with pytest.raises(RunError, match="is not a world"):
        write_world(world / "images", 1, 0, model=None)
    with pytest.raises(ConfigError, match="1 scene or more"):
        write_world(world / "other", 0, 0, model=None)


def test_a_bad_truth_row_is_named(tmp_path):
    file = tmp_path / "truth.jsonl"
    file.write_text('{"id": "a", "use": "benchmark", "kind": "text", "image": "x.png"}\n')
    with pytest.raises(DataError, match=r"truth\.jsonl:1 \(id a\): a question of kind 'text' must not have an image"):
        list(read_truth(file))


def sum_rows(scored):
    import numpy as np

    return np.array([one.sums for one in scored]).sum(axis=0, keepdims=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("step", ["mkdir", "write_text", "write_bytes"])
def test_a_folder_that_cannot_be_written_is_one_line_and_no_traceback(tmp_path, monkeypatch, capsys, code, step):
    def refuse(self, *_, **__):
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:  # root may write anywhere, so the system's answer is made up
        patch.setattr(Path, step, refuse)
        status = main(["tiny", "--out", str(tmp_path / "world"), "--scenes", "2"])
    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith(f"error: cannot write {tmp_path / 'world'}")
    assert os.strerror(code) in error
    assert error.count("\n") == 1


def test_a_folder_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["tiny", "--out", str(tmp_path / "file" / "world"), "--scenes", "2"]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write")


def test_a_world_whose_writing_was_cut_off_goes_on(tmp_path, capsys):
    """As a full disk left it: no mark or an empty one, and part of the model."""
    words = ["tiny", "--out", str(tmp_path / "world"), "--scenes", "1"]
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / ".world.json.77.tmp").write_text("")
    assert main(words) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "world").rglob("*") if path.is_file()}
    assert not [path for path in before if path.suffix == ".tmp"]
    (tmp_path / "world" / "model" / "model.safetensors").write_bytes(b"half")
    assert main(words) == 0
    assert {path: path.read_bytes() for path in before} == before
    capsys.readouterr()
    for damaged in ("", "[1]", "["):
        (tmp_path / "world" / "world.json").write_text(damaged)
        assert main(words) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["model.safetensors", "world.json"])
def test_a_full_disk_names_the_file_that_is_written_and_leaves_no_mark_behind(tmp_path, monkeypatch, capsys, name):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_copy(source, target, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    with monkeypatch.context() as patch:
        patch.setattr(*(("shutil.copyfile", full_copy) if "model" in name else (
            "pairsight.store.durable.write_all", full)))  # fmt: skip
        assert main(["tiny", "--out", str(tmp_path / "world"), "--scenes", "1"]) == 1
    assert f"cannot write {tmp_path / 'world'}" in capsys.readouterr().err
    assert main(["tiny", "--out", str(tmp_path / "world"), "--scenes", "1"]) == 0
