"""Score answers from elsewhere: no model, no images; an official answer file in, `results.json` out."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pairsight.benchmarks.files.tables import write_answers, write_scores
from pairsight.benchmarks.judging import Judging
from pairsight.benchmarks.protocol import Benchmark
from pairsight.benchmarks.results import Results
from pairsight.benchmarks.results_file import update_results
from pairsight.benchmarks.scoring import Answer, ScoredBenchmark, score_benchmark, without_answers
from pairsight.benchmarks.sections import EvaluationSettings, make_section
from pairsight.benchmarks.tasks import BenchmarkTask, load_named, make_benchmark
from pairsight.errors import DataError
from pairsight.records import paused_collection


def score_answers(
    benchmark: str | Benchmark,
    path: str | Path,
    answers: str | Path,
    out: str | Path,
    *,
    options: Mapping[str, object] | None = None,
    settings: EvaluationSettings | None = None,
    model: str = "model",
    judging: Judging | None = None,
) -> Results:
    """Score an answer file in a benchmark's official format.

    Args:
        benchmark: a registered name, `file.py:Class`, or a `Benchmark`.
        path: the benchmark's official file or folder.
        answers: the answer file or folder.
        out: the folder for `answers-<model>.parquet`, `scores-<model>.parquet` and `results.json`.
        options: the benchmark's own options, if it is given by name.
        settings: parser, seed and number of resamples.
        model: the model that answered; names the tables and selects the published figures to show.
        judging: where a judge's verdicts come from, for a benchmark that needs them; kept in OUT/judging.

    Returns:
        The benchmark's section; sections of other benchmarks, files and models in OUT's `results.json` are kept.

    Raises:
        DataError: a bad file, an id that is unknown, missing or duplicate, or no question with an answer.
    """
    settings = replace(settings or EvaluationSettings(), model=model)
    benchmark = make_benchmark(benchmark, options) if isinstance(benchmark, str) else benchmark
    task = BenchmarkTask(benchmark.name, benchmark, Path(path))
    judging = judging or Judging()
    judging.check(task)
    if not Path(answers).exists():
        raise DataError(f"answers {answers} do not exist", reason="missing_file")
    with paused_collection():
        loaded, _ = load_named(task, settings.limit)
        texts = benchmark.read_answers(Path(answers), Path(path), loaded.groups)
        shared: dict[str | None, Answer] = {}  # most answers occur often
        by_group = [tuple(_answer(texts.get(sample.id), shared) for sample in group) for group in loaded.groups]
        if why := without_answers({model: [by_group]}):
            raise DataError(f"{answers}: {why}", reason="no_answers")
        rule = judging.graded(loaded, by_group, Path(out) / "judging", settings.seed)
        complete = [
            g
            for g, group in enumerate(by_group)
            if all(answer.text is not None for answer in group) and not rule.failures(loaded.groups[g])
        ]
        scored = score_benchmark(task.name, rule, loaded.groups, by_group, complete)
    _write_tables(Path(out), re.sub(r"[^\w.+-]+", "-", model), scored)
    section = make_section(loaded, scored, None, settings, models={"model": model}, answers=str(answers))
    results = Results(sections=(section,))
    update_results(Path(out) / "results.json", results)
    return results


def _write_tables(folder: Path, name: str, scored: ScoredBenchmark) -> None:
    write_answers(folder / f"answers-{name}.parquet", [scored])
    write_scores(folder / f"scores-{name}.parquet", [scored])
    if scored.benchmark.verdicts():
        from pairsight.benchmarks.files.verdict_table import write_verdicts

        write_verdicts(folder / f"verdicts-{name}.parquet", [scored])


def _answer(text: str | None, shared: dict[str | None, Answer]) -> Answer:
    if text not in shared:
        shared[text] = Answer(text, error="no answer" if text is None else "")
    return shared[text]
