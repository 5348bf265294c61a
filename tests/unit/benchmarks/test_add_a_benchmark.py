"""The benchmark in docs/add-a-benchmark.md is written to a file and used."""

import re
from pathlib import Path

import official
import pytest

from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_tasks
from pairsight.errors import ConfigError
from pairsight.registry import plugins

PAGE = Path(__file__).parents[3] / "docs" / "add-a-benchmark.md"


def test_the_documented_benchmark_works_as_it_is_printed(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "capitals.py"
    file.write_text(code, encoding="utf-8")
    rows = [
        {"id": k, "image": f"{k}.png", "question": "Capital?", "capital": c} for k, c in enumerate(["Paris", "Rome"])
    ]
    path = official.jsonl(tmp_path / "capitals.jsonl", rows)
    answers = official.jsonl(tmp_path / "a.jsonl", [{"id": 0, "text": "Paris."}, {"id": 1, "text": "rome"}])
    name = f"{file}:Capitals"
    with plugins(file):
        content = score_answers(name, path, answers, tmp_path / "out", settings=EvaluationSettings(num_resamples=20))
        (task,) = make_tasks({name: path})
    section = content.to_plain()["benchmarks"]["capitals"]
    assert section["metrics"]["accuracy"]["value"] == 0.5
    assert section["other_parser"]["metrics"]["accuracy"]["value"] == 1.0
    assert task.name == "capitals"


def test_a_class_that_is_not_a_benchmark_is_refused(tmp_path):
    file = tmp_path / "half.py"
    code = "from pairsight.benchmarks.protocol import Benchmark\n\nclass Half{}:\n    name = 'half'\n    columns = ()\n"
    file.write_text(code.format(""))
    with (
        plugins(file),
        pytest.raises(ConfigError, match=r"is the class Half; it must be a class derived from .*Benchmark"),
    ):
        make_tasks({f"{file}:Half": tmp_path})
    file.write_text(code.format("(Benchmark)"))
    with plugins(file), pytest.raises(ConfigError, match="without load, read; it must be"):
        make_tasks({f"{file}:Half": tmp_path})
