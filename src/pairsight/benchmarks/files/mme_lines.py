"""MME's task files, lines of image, question, answer and prediction; and its answers, joined by image and question."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pairsight.benchmarks.files.answers import answer_text, json_rows
from pairsight.benchmarks.files.official import Row, read_lines
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError
from pairsight.store.durable import write_file

_WANTED_LINE = ("Answer the question using a single word or phrase.", "Please answer yes or no.")
_ONE_LINE = str.maketrans("\t\n\r", "   ")
Key = tuple[str, str, str]
"""Task, the image's name without extension, and the question without what is asked of its answer."""


def read_mme_answers(answers: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
    """Sample id -> answer.

    Raises:
        DataError: a missing file, a bad line, another image or question than the benchmark's, or a question that is
            answered twice or not at all.
    """
    samples = [sample for group in groups for sample in group]
    expected = {_sample_key(sample): sample for sample in samples}
    images = {key[:2] for key in expected}
    found: dict[str, str] = {}
    tasks = dict.fromkeys(sample.target["task"] for sample in samples)
    for row, key, text in _of_folder(answers, tasks) if answers.is_dir() else _of_jsonl(answers):
        if key[:2] not in images:
            raise row.error("the benchmark has no such image", reason="foreign_id")
        if key not in expected:
            raise row.error(f"not a question of this image: {key[2][:80]!r}", reason="foreign_id")
        sample_id = expected[key].id
        if sample_id in found:
            raise row.error("the question was answered already", reason="duplicate_id")
        found[sample_id] = text
    missing = [sample.id for sample in samples if sample.id not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{answers}: no answer for {missing[0]}{more}", reason="missing_id")
    return found


def task_rows(file: Path, num_fields: int) -> list[Row]:
    """The lines of a task file, named by their image.

    Args:
        file: `<task>.txt`.
        num_fields: 3, where a fourth field (a prediction) may be there, or 4.

    Raises:
        DataError: no such file, a line with another number of fields, or an answer that is neither Yes nor No.
    """
    return [_row(file, number, line, num_fields) for number, line in read_lines(file)]


def row_pairs(file: Path) -> Iterator[tuple[Row, Row]]:
    """The lines of a task file, two by two: an image's two questions.

    Raises:
        DataError: see `task_rows`; or a line whose neighbour belongs to another image.
    """
    rows = task_rows(file, 3)
    for first, second in zip(rows[::2], [*rows[1::2], None], strict=False):
        if second is None or first.values["image"] != second.values["image"]:
            raise first.error(f"image {first.values['image']} must have two consecutive lines", "bad_pair")
        yield first, second


def write_task_files(folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> list[Path]:
    """`<task>.txt` with the answer as fourth field; its tabs and line ends become spaces."""
    lines: dict[str, list[str]] = {}
    for sample in (sample for group in groups for sample in group):
        fields = tuple(sample.target[name] for name in ("image", "question", "written"))
        answer = in_one_line(answers.get(sample.id, ""))
        lines.setdefault(sample.target["task"], []).append("\t".join((*fields, answer)) + "\n")
    files = [folder / f"{task}.txt" for task in lines]
    for file, text in zip(files, lines.values(), strict=True):
        write_file(file, "".join(text).encode("utf-8", "replace"))
    return files


def in_one_line(text: str) -> str:
    """An answer as a field can hold it: tabs and line ends are spaces."""
    return text.translate(_ONE_LINE)


def _row(file: Path, number: int, line: str, num_fields: int) -> Row:
    fields = line.split("\t")
    if len(fields) != num_fields and not (num_fields == 3 and len(fields) == 4):
        names = "image, question, answer" + (", prediction" if num_fields == 4 else "")
        raise Row(file, number, {}).error(f"{num_fields} fields with tabs between ({names}), found {len(fields)}")
    values = dict(zip(("image", "question", "label", "prediction"), fields, strict=False))
    row = Row(file, number, values).named("image")
    row.text("question")
    if values["label"].lower() not in ("yes", "no"):
        raise row.error(f"the answer must be Yes or No, found {values['label'][:40]!r}")
    return row


def _of_folder(folder: Path, tasks: Iterable[str]) -> Iterator[tuple[Row, Key, str]]:
    for task in tasks:
        for row in task_rows(folder / f"{task}.txt", 4):
            yield row, (task, _stem(row.name), _bare(row.text("question"))), row.text("prediction", empty=True)


def _of_jsonl(file: Path) -> Iterator[tuple[Row, Key, str]]:
    for bare in json_rows(file):
        row = bare.named("question_id")
        task, _, rest = row.name.partition("/")
        asked = "prompt" if "prompt" in row.values else "question"
        yield row, (task, _stem(rest), _bare(row.text(asked))), answer_text(row)


def _sample_key(sample: Sample) -> Key:
    return sample.target["task"], _stem(sample.target["image"]), _bare(sample.target["question"])


def _stem(name: str) -> str:
    return name.rsplit("/", maxsplit=1)[-1].split(".", maxsplit=1)[0]


def _bare(question: str) -> str:
    for phrase in _WANTED_LINE:
        question = question.replace(phrase, "")
    return " ".join(question.split())
