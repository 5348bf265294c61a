"""results.json: what an interval allows one to say."""

import json
import math

import pytest

from pairsight.benchmarks.results_file import read_results
from pairsight.errors import DataError
from pairsight.reporting.headline import control_sentences, headline
from pairsight.reporting.measures import detail_tables, forest_plot, group_settings, side_by_side, system_table
from pairsight.reporting.words import interval, label, number, system_title


def change(base, aligned, low, high, better="higher", **notes):
    difference = None if aligned is None else aligned - base
    return {
        "base": base, "aligned": aligned, "difference": difference, "low": low, "high": high, "better": better, **notes,
    }  # fmt: skip


def write(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def one_system(tmp_path, metrics, **more):
    content = {"schema": 1, "systems": {"seva": {"metrics": metrics, **more}}}
    return read_results(write(tmp_path, content)).systems["seva"]


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (change(0.5, 0.6, 0.05, 0.15), "better"),
        (change(0.5, 0.4, -0.15, -0.05), "worse"),
        (change(0.5, 0.4, -0.15, -0.05, "lower"), "better"),
        (change(0.5, 0.6, 0.05, 0.15, "lower"), "worse"),
        (change(0.5, 0.6, 0.05, 0.15, "neither"), "moved"),
        (change(0.5, 0.6, 0.05, 0.15, ""), "moved"),
        (change(0.5, 0.6, 0.0, 0.2), "unclear"),
        (change(0.5, 0.5, -0.1, 0.1), "unclear"),
        (change(0.5, 0.6, None, None), "unknown"),
        (change(0.5, 0.6, math.nan, math.nan), "unknown"),
    ],
)
def test_the_verdict_follows_from_interval_and_direction(tmp_path, row, verdict):
    ((_, found),) = one_system(tmp_path, {"m": row}).figures
    assert found.verdict == verdict


def test_the_primary_system_comes_first_and_benchmarks_follow_the_own_measures(tmp_path):
    systems = read_results(
        write(
            tmp_path,
            {
                "schema": 1,
                "primary": "feedback",
                "systems": {
                    "seva": {"metrics": {"f1": change(0.1, 0.2, 0.0, 0.1)}},
                    "feedback": {
                        "metrics": {"f1": change(0.1, 0.2, 0.0, 0.1)},
                        "benchmarks": {"pope": {"rows": 9, "metrics": {"f1": change(0.3, 0.2, 0.0, 0.1)}}},
                    },
                },
            },
        )
    ).primary_first
    assert [system.name for system in systems] == ["feedback", "seva"]
    assert [(section.name, found.name) for section, found in systems[0].figures] == [("", "f1"), ("pope", "f1")]
    assert systems[0].sections[1].settings == {"rows": 9}


def test_one_model_alone_is_read_too(tmp_path):
    content = {"schema": 1, "benchmarks": {"pope": {"metrics": {"f1": {"value": 0.83, "low": 0.8, "high": 0.86}}}}}
    (section,) = read_results(write(tmp_path, content)).sections
    found = section.metrics["f1"]
    assert (section.name, found.base, found.aligned, found.verdict) == ("pope", 0.83, None, "unknown")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"schema": 3}', '{"schema": 1, "systems": {"a": {"metrics": {"m": 3}}}}',
     '{"schema": 1, "systems": []}', '{"schema": 1, "systems": {"a": {"metrics": {"m": {"base": "x"}}}}}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"results\.json"):
        read_results(path)


def test_the_headline_sorts_measures_by_what_is_known(tmp_path):
    found = headline(
        one_system(
            tmp_path,
            {
                "chair_i": change(0.18, 0.097, -0.1, -0.06, "lower"),
                "recall": change(0.869, 0.817, -0.07, -0.03),
                "f1": change(0.832, 0.828, -0.014, 0.006),
                "yes_rate": change(0.624, 0.519, -0.12, -0.09, "neither"),
            },
        )
    )
    assert found.system == "SeVa"
    assert found.sentence.startswith("Of 4 measures, better on 1 and worse on 1")
    assert [(f.label, f.values, f.difference, f.interval) for f in found.findings["better"]] == [
        ("CHAIR_i", "0.180 → 0.097", "−0.083", "−0.100 to −0.060")
    ]
    assert [f.label for f in found.findings["worse"]] == ["recall"]
    assert [f.label for f in found.findings["unclear"]] == ["F1"]
    assert [f.label for f in found.findings["moved"]] == ["yes-rate"]


def test_without_measures_or_without_effects_the_headline_says_so(tmp_path):
    assert headline(one_system(tmp_path, {})).sentence.startswith("Not evaluated yet")
    unclear = one_system(tmp_path, {"f1": change(0.5, 0.51, -0.1, 0.12)})
    assert headline(unclear).sentence == "Neither a gain nor a loss is shown on any of 1 measures."


def test_controls_are_held_against_the_gains(tmp_path):
    gains = {"chair_i": change(0.18, 0.1, -0.1, -0.06, "lower"), "chair_s": change(0.4, 0.3, -0.2, -0.05, "lower")}
    controls = {
        "null": {"metrics": {name: change(0.2, 0.19, -0.02, 0.01, "lower") for name in gains}},
        "length_matched": {
            "metrics": {
                "chair_i": change(0.18, 0.16, -0.03, -0.01, "lower"),
                "chair_s": change(0.4, 0.39, -0.05, 0.02, "lower"),
            }
        },
    }
    system = one_system(tmp_path, gains, controls=controls)
    null, matched = control_sentences(system)
    assert null.endswith("none of the system's gains is shown in the control.")
    assert matched.endswith("still better at matched length: CHAIR_i; no longer shown: CHAIR_s.")
    assert "null control −0.010 (−0.020 to +0.010)" in headline(system).findings["better"][0].remark
    table = system_table(system)
    assert table.columns == ("aligned", "null control", "length-matched")
    assert [cell.verdict for cell in table.parts[0].rows[1].cells] == ["better", "unclear", "unclear"]


def test_a_control_that_gains_too_is_said(tmp_path):
    gain = {"f1": change(0.5, 0.6, 0.05, 0.15)}
    (sentence,) = control_sentences(one_system(tmp_path, gain, controls={"null": {"metrics": gain}}))
    assert sentence.endswith("it also gains on F1, so the method alone does not explain that gain.")


def test_systems_stand_side_by_side_only_on_one_base(tmp_path):
    def read(other_base):
        content = {
            "schema": 1,
            "systems": {
                "feedback": {"metrics": {"f1": change(0.5, 0.6, 0.05, 0.15, num_items=9)}},
                "seva": {"metrics": {"f1": change(other_base, 0.6, 0.05, 0.15, num_items=9)}},
            },
        }
        return read_results(write(tmp_path, content)).primary_first

    table = side_by_side(read(0.5))
    assert table.columns == ("Feedback", "SeVa")
    assert table.parts[0].rows[0].base == "0.500"
    assert table.parts[0].title == "9 items"
    assert side_by_side(read(0.4)) is None
    assert side_by_side(read(0.5)[:1]) is None


def test_only_fractions_with_intervals_are_plotted(tmp_path):
    system = one_system(
        tmp_path,
        {
            "f1": change(0.5, 0.6, 0.0, 0.2),
            "caption_length": change(14.0, 12.0, -3, -1),
            "x": change(0.5, 0.6, None, None),
        },
    )
    svg = forest_plot(system)
    assert "F1 ↑" in svg
    assert "caption" not in svg
    assert forest_plot(one_system(tmp_path, {"length": change(14.0, 12.0, -3, -1)})) == ""


def test_settings_are_short_and_empty_ones_are_none(tmp_path):
    benchmark = {"sha256": "a" * 64, "prompt_suffix": "", "rows": 900, "mean_words": {"base": 1.0}, "metrics": {}}
    (group,) = group_settings(one_system(tmp_path, {}, benchmarks={"pope": benchmark}))
    assert group.values == (("sha256", "aaaaaaaaaaaa…"), ("prompt suffix", "none"), ("rows", "900"))


def test_figures_have_true_minus_signs_and_fitting_decimals():
    assert number(-0.0834, signed=True) == "−0.083"
    assert number(-0.0001, signed=True) == "0.000"
    assert number(14.236) == "14.24"
    assert number(1513.46) == "1513.5"
    assert number(None) == "–"
    assert interval(None, 0.1) == "no interval"
    assert label("chair_i", "lower") == "CHAIR_i ↓"
    assert label("some_new_measure") == "some new measure"
    assert label("f1_random", "higher") == "F1 random ↑"
    assert label("chair_i_cut") == "CHAIR_i at equal length"
    assert label("f10") == "f10"
    assert system_title("seva:second") == "SeVa: second"


def test_metrics_that_repeat_a_benchmark_are_shown_once(tmp_path):
    metrics = {"f1": change(0.5, 0.6, 0.05, 0.15)}
    sampled = {"metrics": {"f1": change(0.4, 0.3, -0.15, -0.05)}}
    system = one_system(tmp_path, metrics, benchmarks={"tiny": {"metrics": metrics}, "tiny_sampled": sampled})
    assert [section.name for section in system.sections] == ["tiny", "tiny_sampled"]
    found = headline(system)
    assert [finding.label for finding in found.findings["better"]] == ["F1"]
    assert found.others == (("tiny sampled", "worse on F1 −0.100"),)
    table = system_table(system)
    assert ([part.title for part in table.parts], [part.title for part in table.repeats]) == (
        ["tiny"],
        ["tiny sampled"],
    )
    assert "tiny sampled" not in forest_plot(system)


def test_the_other_parser_and_categories_stand_in_tables_of_their_own(tmp_path):
    metrics = {"f1": change(0.5, 0.6, 0.05, 0.15)}
    pope = {
        "metrics": metrics,
        "other_parser": {"parser": "robust", "metrics": metrics},
        "categories": {"adversarial": metrics, "popular": metrics},
        "failed": {"base": 0, "aligned": 2},
    }
    system = one_system(tmp_path, {}, benchmarks={"pope": pope})
    ((name, table),) = detail_tables(system)
    assert name == "pope"
    assert [part.title for part in table.parts] == ["robust parser", "adversarial", "popular"]
    assert group_settings(system)[0].values == (("unanswered by the aligned model", "2"),)


def test_answers_that_could_not_be_read_are_pointed_out(tmp_path):
    row = change(0.5, 0.6, 0.05, 0.15, num_items=20)
    readable = one_system(tmp_path, {"f1": {**row, "unparsed": 1, "unparsed_base": 0}})
    assert headline(readable).caution == ""
    unreadable = one_system(tmp_path, {}, benchmarks={"pope": {"metrics": {"f1": {**row, "unparsed_base": 5}}}})
    assert headline(unreadable).caution.startswith("The scoring rule could not read 25% of the answers to pope.")
