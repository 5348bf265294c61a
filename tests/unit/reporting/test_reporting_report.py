"""The report page: everything that lies in a run folder, and in plain words what does not."""

import json
import re
from html.parser import HTMLParser

import pytest

import run_folders
from pairsight.errors import RunError
from pairsight.reporting.report import find_runs, report_html, write_report
from pairsight.training.config import TrainingSummary


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_folders.write_demo(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="module")
def html(demo):
    return write_report(demo).read_text(encoding="utf-8")


def words(html):
    """The page's text without tags."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split())


def test_a_whole_demo_is_one_page_that_is_the_same_each_time(demo, html):
    assert (demo / "report.html").read_text(encoding="utf-8") == html
    assert report_html(demo) == html
    assert len(html) < 2_000_000
    text = words(html)
    for expected in (
        "Of 6 measures, better on 2 and worse on 1",
        "CHAIR_i 0.180 → 0.097 by −0.083 , interval −0.100 to −0.066",
        "No change shown: the interval includes zero",
        "Null control",
        "25 prompts 50 completions 20 pairs",
        "Left out: margin (select) 3, identical (select) 2",
        "rewards/accuracies",
        "diffusion (step 500): approximate preview",
        "helpfulness 4",
        "It names a star that is not there.",
        "pairsight build seva --model world/model --prompts prompts.json --seed 0 --out seva",
        "transformers",
    ):
        assert expected in text, expected


def test_the_page_asks_for_nothing_from_anywhere(html):
    assert "default-src 'none'" in html.replace("&#39;", "'")
    assert not re.search(r"<(script|iframe|object|embed|link rel=.stylesheet)", html)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_a_run_that_was_only_built_says_what_is_missing(tmp_path):
    run = run_folders.write_run(tmp_path / "first", "seva", num_pairs=3)
    text = words(report_html(run))
    assert "Not evaluated yet: it is not known what changed." in text
    assert "Not aligned yet" in text
    assert "What is in the picture?" in text


def test_a_training_says_how_far_it_went(tmp_path):
    run = run_folders.write_run(tmp_path / "first", "seva", num_pairs=3)
    run_folders.write_training(run, "dpo")
    (run / "align" / "dpo" / "training.json").write_bytes(TrainingSummary(3, 3, 1, 128).to_json())
    text = words(report_html(run))
    assert "dpo: 3 examples in 3 optimizer steps of up to 1." in text
    assert "lowered from 128 to 1" in text
    assert "only 3 optimizer steps" in text
    (run / "align" / "dpo" / "training.json").write_text("[]")
    assert "optimizer steps" not in words(report_html(run))


def test_a_run_that_is_not_built_yet_says_so(tmp_path):
    run = tmp_path / "first"
    run.mkdir()
    (run / "run.yaml").write_text("recipe: seva\n")
    text = words(report_html(run))
    assert "is not built yet" in text
    assert "run the same build command again" in text


def test_a_run_without_a_single_pair_is_shown(tmp_path):
    text = words(report_html(run_folders.write_run(tmp_path / "first", "seva", num_pairs=0)))
    assert "0 pairs" in text
    assert "No pair was made" in text


def test_damaged_parts_are_named_and_the_rest_is_shown(tmp_path):
    run = run_folders.write_run(tmp_path / "first", "seva", num_pairs=3)
    run_folders.write_training(run)
    (run / "results.json").write_text("{")
    with (run / "align" / "dpo" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    (run / "versions.json").write_text("[")
    for blob in run.glob("blobs/sha256/*/*/*.png"):
        blob.write_bytes(b"not a picture")
    text = words(report_html(run))
    assert "The results cannot be shown." in text
    assert "is damaged" in text
    assert "rewards/margins" in text


def test_damaged_settings_are_said_in_words(tmp_path):
    run = run_folders.write_run(tmp_path / "first", "seva", num_pairs=3)
    (run / "run.yaml").write_text("recipe: [")
    assert "is not YAML" in words(report_html(run))


def test_a_run_beside_its_system_is_shown_as_its_control(tmp_path):
    demo = run_folders.write_demo(tmp_path / "demo")
    run_folders.write_training(run_folders.write_run(demo / "seva-null", "seva", num_pairs=4), gain=0.0)
    text = words(report_html(demo))
    assert "Null control 4 pairs of 9 prompts" in text
    assert "null control 0.693 → 0.693" in text
    assert text.count("Left out:") == 2


def test_a_damaged_table_is_said_in_words(tmp_path):
    run = run_folders.write_run(tmp_path / "first", "seva", num_pairs=3)
    next((run / "data").glob("pairs-*.parquet")).write_bytes(b"PAR1")
    text = words(report_html(run))
    assert "its SHA-256 is not the manifest's" in text


def test_scores_of_one_model_alone_are_a_table(tmp_path):
    content = {"schema": 1, "benchmarks": {"pope": {"metrics": {"f1": {"value": 0.83, "low": 0.8, "high": 0.86}}}}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    (tmp_path / "run.yaml").write_text("kind: evaluate\n")
    text = words(report_html(tmp_path))
    assert "pope F1 0.830 0.800 to 0.860" in text
    assert "Example pairs" not in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        write_report(tmp_path)


def test_the_primary_system_comes_first(demo, html):
    assert [run.name for run in find_runs(demo)] == ["feedback", "seva"]
    assert html.index(">Feedback<") < html.index(">SeVa<")


class Tags(HTMLParser):
    """Every tag and attribute that a browser would see."""

    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}


def test_hostile_names_are_text_everywhere(tmp_path, html):
    shown = report_html(run_folders.write_demo(tmp_path / "demo", hostile=True))
    hostile, harmless = Tags(), Tags()
    hostile.feed(shown)
    harmless.feed(html)
    assert hostile.tags <= harmless.tags
    assert {name for name, _ in hostile.attributes} <= {name for name, _ in harmless.attributes}
    assert not [value for name, value in hostile.attributes if name == "src" and not value.startswith("data:image/")]
    assert "\u202e" not in shown
    assert "⟨U+202E⟩" in shown
    assert "{{ 7 * 7 }}" in shown


def test_large_photographs_stay_small_on_the_page(tmp_path):
    run = run_folders.write_run(tmp_path / "first", "seva", num_pairs=3, size=1500)
    html = report_html(run)
    assert "data:image/jpeg" in html
    assert len(html) < 600_000
