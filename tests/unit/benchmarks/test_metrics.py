"""The metric functions by hand, and a benchmark composed of them."""

import numpy as np
import pytest

from pairsight.benchmarks.metrics import YES_NO, f1, mean, precision, rate, recall, yes_no
from pairsight.benchmarks.protocol import Benchmark, Reading
from pairsight.benchmarks.tasks import make_benchmark
from pairsight.errors import ConfigError
from pairsight.registry import plugins


def columns(**values):
    return {name: np.array(sums, dtype=float) for name, sums in values.items()}


def test_mean_is_omitted_if_nothing_was_counted_and_rate_is_not():
    asked = columns(right=[3, 0], items=[4, 0])
    assert mean("right", "items").of(asked)[0] == 0.75
    assert np.isnan(mean("right", "items").of(asked)[1])  # one resample without items
    nothing = columns(right=[0, 0], items=[0, 0])
    assert mean("right", "items").of(nothing) is None
    assert np.isnan(rate("right", "items", "lower").of(nothing)).all()
    assert (mean("a", "b").better, rate("a", "b", "lower").better) == ("higher", "lower")


def test_yes_no_figures_by_hand():
    tp, fp, tn, fn, yes = (np.array([value], dtype=float) for value in (1183, 31, 1379, 317, 1214))
    found = {name: float(values[0]) for name, values in yes_no(tp, fp, tn, fn, yes).items()}
    assert found["precision"] == 1183 / 1214
    assert found["recall"] == 1183 / 1500
    assert found["f1"] == 2 * (1183 / 1214) * (1183 / 1500) / (1183 / 1214 + 1183 / 1500)
    assert (found["accuracy"], found["yes_rate"]) == (2562 / 2910, 1214 / 2910)
    assert list(found) == list(YES_NO)
    none = np.zeros(1)
    assert np.isnan([precision(none, none)[0], recall(none, none)[0], f1(none, none)[0]]).all()


class Words(Benchmark):
    name = "words"
    columns = ("right", "asked", "words")
    metrics = {  # noqa: RUF012
        "accuracy": mean("right", "asked"),
        "length": rate("words", "asked", "neither"),
    }

    def load(self, path, images):
        yield (self.sample("1", "Say a.", [], cluster="c", target={"word": "a"}),)

    def read(self, sample, answer, *, official):
        words = answer.split()
        right = float(sample.target["word"] in (words if official else [word.lower() for word in words]))
        return Reading(words, right, bool(words), (right, 1.0, float(len(words))), ("kind: word",))


def test_a_benchmark_is_composed_of_load_read_and_metrics(tmp_path):
    benchmark = Words()
    (group,) = benchmark.load(tmp_path, None)
    official, robust = (benchmark.score(group, ["A b"], parser) for parser in ("official", "robust"))
    assert (official.sums, robust.sums) == ((0.0, 1.0, 2.0), (1.0, 1.0, 2.0))
    assert (official.cluster, official.categories, official.num_unparsed) == ("c", ("kind: word",), 0)
    figures = benchmark.combine(np.array([official.sums, robust.sums]))
    assert {name: values.tolist() for name, values in figures.items()} == {"accuracy": [0.0, 1.0], "length": [2.0, 2.0]}
    assert benchmark.directions() == {"accuracy": "higher", "length": "neither"}
    assert group[0].prompt.source == "words"


def test_a_benchmark_without_metrics_is_refused(tmp_path):
    file = tmp_path / "bare.py"
    file.write_text(
        "from pairsight.benchmarks.protocol import Benchmark\n\n\nclass Bare(Benchmark):\n    name = 'bare'\n\n"
        "    def load(self, path, images):\n        yield from ()\n\n"
        "    def read(self, sample, answer, *, official):\n        raise AssertionError\n"
    )
    with plugins(file), pytest.raises(ConfigError, match=r"names no metrics; see docs/add-a-benchmark\.md"):
        make_benchmark(f"{file}:Bare")
