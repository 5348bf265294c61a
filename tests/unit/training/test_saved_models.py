"""Models that a training leaves load elsewhere: with all of their base's files, complete or not there at all."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import families
from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, RunError
from pairsight.pipeline.align import AlignSpec
from pairsight.training import adapter as adapters
from pairsight.training.adapter import merge, merged_model
from pairsight.training.trainer import PreferenceTrainer

MORE = ("llava_onevision", "internvl")
OPTIONS = {"learning_rate": 1e-2, "max_steps": 1, "report_to": ()}
VIDEO = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 784, "longest_edge": 3136}}


@pytest.fixture(
    scope="module", params=["qwen2_5_vl", "smolvlm", *(pytest.param(n, marks=pytest.mark.long) for n in MORE)]
)
def base(request, tmp_path_factory) -> Path:
    """A base as its vendor publishes it, which on a machine with torchvision has a video processor."""
    folder = families.build(request.param, tmp_path_factory.mktemp("base") / request.param)
    file = folder / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "video_processor": VIDEO}, indent=4) + "\n")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEO))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (folder / "pairsight.json").write_text(json.dumps({"training_preset": "tiny"}))
    (folder / "README.md").write_text("of the base")
    return folder


def trained(base: Path, small, out: Path, **options) -> Path:
    given = {**OPTIONS, **({} if options.get("tuning") == "full" else {"lora_r": 2}), **options}
    made = PreferenceTrainer(base, out=out, images=small.images, progress=Progress("quiet"), **given)
    return made.train(small.pairs(2))


def assert_has_all_of_the_base(folder: Path, base: Path) -> None:
    """Every file of the base other than weights and config, byte for byte."""
    left_out = {"config.json", "model.safetensors", "pairsight.json", "README.md"}
    wanted = [path.relative_to(base) for path in base.rglob("*") if path.is_file() and path.name not in left_out]
    assert len(wanted) >= 5
    for name in wanted:
        assert (folder / name).read_bytes() == (base / name).read_bytes(), name


def test_a_merged_and_a_full_model_keep_their_bases_processor_files(base, small, tmp_path):
    merged = merged_model(trained(base, small, tmp_path / "lora"), base)
    full = trained(base, small, tmp_path / "full", tuning="full")
    for folder in (merged, full):
        assert_has_all_of_the_base(folder, base)
        AutoModelForImageTextToText.from_pretrained(folder)
        note = json.loads((folder / "pairsight.json").read_text())
        assert (note["kind"], note["base"], note["training_preset"]) == ("model", str(base), "tiny")
    assert "library_name: transformers\n" in (full / "README.md").read_text()
    assert "library_name: peft\n" in (tmp_path / "lora" / "README.md").read_text()


@pytest.fixture(scope="module")
def adapter(small, tmp_path_factory) -> Path:
    return trained(small.model, small, tmp_path_factory.mktemp("adapter") / "out")


def test_a_merge_that_is_stopped_leaves_nothing_and_the_next_one_finishes(adapter, small, tmp_path, monkeypatch):
    class Stopped(BaseException):
        """Simulates a kill."""

    def stopped(*_arguments):
        raise Stopped

    for name in ("copy_base_files", "write_marker", "publish_folder"):
        monkeypatch.setattr(adapters, name, stopped)
        with pytest.raises(Stopped):
            merge(adapter, tmp_path / "merged", small.model)
        monkeypatch.undo()
        assert not (tmp_path / "merged").exists()
    stale = tmp_path / ".merged.draft"  # what a kill leaves
    stale.mkdir()
    (stale / "config.json").write_text("{")
    AutoModelForImageTextToText.from_pretrained(merge(adapter, tmp_path / "merged", small.model))
    assert not stale.exists()
    with pytest.raises(RunError, match="is not empty"):
        merge(adapter, tmp_path / "merged", small.model)


@pytest.mark.parametrize("left", ["config only", "weights cut", "weights removed", "weights flipped"])
def test_a_merged_folder_that_is_not_complete_is_written_again_and_said(adapter, small, caplog, left):
    merged = merged_model(adapter, small.model)
    before = {name: tensor.clone() for name, tensor in load_file(merged / "model.safetensors").items()}
    weights = merged / "model.safetensors"
    data = bytearray(weights.read_bytes())
    if left == "config only":  # as an earlier version left it when it was killed
        for path in merged.iterdir():
            if path.name != "config.json":
                path.unlink()
    elif left == "weights removed":
        weights.unlink()
    else:
        data[-1] ^= 1
        weights.write_bytes(data if left == "weights flipped" else data[: len(data) // 2])
    with caplog.at_level(logging.WARNING, "pairsight"):
        assert merged_model(adapter, small.model) == merged
    assert f"{merged} is not complete (" in caplog.text
    after = load_file(weights)
    assert before.keys() == after.keys() != set()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_complete_merged_folder_is_left_alone_also_one_of_an_earlier_version(adapter, small):
    merged = merged_model(adapter, small.model)
    written = (merged / "model.safetensors").stat().st_mtime_ns
    merged_model(adapter, small.model)
    (merged / "pairsight.json").unlink()
    merged_model(adapter, small.model)
    assert (merged / "model.safetensors").stat().st_mtime_ns == written


def test_merging_a_full_fine_tuning_is_refused_before_it_begins():
    with pytest.raises(ConfigError, match="merge: tuning=full trains a full model"):
        AlignSpec.parse({"data": "pairs", "model": "m", "out": "o", "merge": True, "tuning": "full"})
