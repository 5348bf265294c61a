"""Inspecting what is on disk: run folders, Parquet files of ours and of others."""

import pytest

import run_folders
from pairsight.errors import PairsightError
from pairsight.inspection.dataset import read_dataset
from pairsight.inspection.inspect import describe, inspect_run
from pairsight.reporting.inspection_page import write_inspection


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folders.write_run(tmp_path_factory.mktemp("inspect") / "first", "feedback", num_pairs=8)


def test_a_run_folder_is_inspected(run):
    found = inspect_run(run)
    assert found.counts == {"prompts": 13, "completions": 26, "annotations": 26, "pairs": 8, "images": 8}
    assert found.dropped == {"margin (select)": 3, "identical (select)": 2}
    assert [bias.num_comparisons for bias in found.bias] == [13]
    assert "total (helpfulness + correctness + coherence)" in describe(found)


def test_its_pairs_alone_are_inspected_as_a_dataset(run):
    whole, alone = inspect_run(run), inspect_run(run / "data" / "pairs-00000.parquet")
    assert alone.lengths == whole.lengths
    assert alone.margins == whole.margins
    assert alone.repetition == whole.repetition
    assert alone.counts == {"prompts": 8, "annotations": 16, "pairs": 8, "images": 8}


def test_benchmark_images_are_looked_for_in_a_run(run):
    folder = next((run / "blobs").glob("sha256/*/*"))
    (found,) = inspect_run(run, [folder]).contamination
    assert found.num_benchmark_images == len(list(folder.iterdir()))


@pytest.mark.parametrize("what", ["missing", "empty", "unbuilt"])
def test_what_cannot_be_inspected_is_said_in_one_line(tmp_path, what):
    path = tmp_path / what
    if what != "missing":
        path.mkdir()
    if what == "unbuilt":
        (path / "run.yaml").write_text("recipe: seva\n")
    with pytest.raises(PairsightError) as error:
        read_dataset(path)
    assert "\n" not in str(error.value)


def test_the_page_says_what_the_words_say(run, tmp_path):
    found = write_inspection(run, tmp_path / "inspection.html")
    assert found == inspect_run(run)
    html = (tmp_path / "inspection.html").read_text(encoding="utf-8")
    assert "Length differences" in html
    assert "Training on these pairs also rewards shorter completions" in html
    assert html.count('class="pair"') == 8
    assert "<script" not in html
