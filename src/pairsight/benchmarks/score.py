"""Score answers that were made elsewhere: no model, no images, the official answer format in, `results.json` out."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pairsight.benchmarks.files.tables import write_answers, write_scores
from pairsight.benchmarks.protocol import Benchmark
from pairsight.benchmarks.results import Results
from pairsight.benchmarks.results_file import update_results
from pairsight.benchmarks.scoring import Answer, collector_paused, score_benchmark, without_answers
from pairsight.benchmarks.sections import EvaluationSettings, section
from pairsight.benchmarks.tasks import BenchmarkTask, load_named, make_benchmark
from pairsight.errors import DataError


def score_answers(
    benchmark: str | Benchmark,
    path: str | Path,
    answers: str | Path,
    out: str | Path,
    *,
    options: Mapping[str, object] | None = None,
    settings: EvaluationSettings | None = None,
    model: str = "model",
) -> Results:
    """Score an answers file in a benchmark's official answer format.

    Args:
        benchmark: a registered name, `file.py:Class`, or a benchmark.
        path: the benchmark's official file or folder.
        answers: the answers.
        out: the folder for `answers-<model>.parquet`, `scores-<model>.parquet` and `results.json`.
        options: the benchmark's own options, where it is given by name.
        settings: parser, seed and number of resamples.
        model: whose answers they are: the tables are called so, and published figures of it stand beside.

    Returns:
        The benchmark's section; OUT's `results.json` keeps those of other benchmarks, files and models beside it.

    Raises:
        DataError: a bad file, an id that is wrong, missing or there twice, or no question with an answer.
    """
    chosen = replace(settings or EvaluationSettings(), model=model)
    piece = make_benchmark(benchmark, options) if isinstance(benchmark, str) else benchmark
    task = BenchmarkTask(piece.name, piece, Path(path))
    if not Path(answers).exists():
        raise DataError(f"answers {answers} do not exist", reason="missing_file")
    with collector_paused():
        loaded, _ = load_named(task, chosen.limit)
        texts = piece.read_answers(Path(answers), Path(path), loaded.groups)
        made: dict[str | None, Answer] = {}  # most answers are said often
        rows = [tuple(_answer(texts.get(sample.id), made) for sample in group) for group in loaded.groups]
        if why := without_answers({model: [rows]}):
            raise DataError(f"{answers}: {why}", reason="no_answers")
        complete = [index for index, row in enumerate(rows) if all(answer.text is not None for answer in row)]
        scored = score_benchmark(task.name, piece, loaded.groups, rows, complete)
    folder, name = Path(out), re.sub(r"[^\w.+-]+", "-", model)
    write_answers(folder / f"answers-{name}.parquet", [scored])
    write_scores(folder / f"scores-{name}.parquet", [scored])
    found = section(loaded, scored, None, chosen, models={"model": model}, answers=str(answers))
    results = Results(sections=(found,))
    update_results(folder / "results.json", results)
    return results


def _answer(text: str | None, made: dict[str | None, Answer]) -> Answer:
    if text not in made:
        made[text] = Answer(text, error="no answer" if text is None else "")
    return made[text]
