"""MME's task files (lines of image, question, answer, prediction) and its answers, joined by image and question."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pairsight.benchmarks.files.answers import answer_text, json_records
from pairsight.benchmarks.files.official import FileRecord, read_lines
from pairsight.benchmarks.protocol import Sample
from pairsight.errors import DataError
from pairsight.store.durable import write_file

_INSTRUCTIONS = ("Answer the question using a single word or phrase.", "Please answer yes or no.")
_ONE_LINE = str.maketrans("\t\n\r", "   ")
Asked = tuple[str, str, str]
"""A question's task, image name without extension, and text without the answering instruction."""


def read_mme_answers(answers: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
    """Sample id -> answer.

    Raises:
        DataError: a missing file, a bad line, an unknown image or question, or a question that is answered twice or
            not at all.
    """
    samples = [sample for group in groups for sample in group]
    expected = {_asked(sample): sample for sample in samples}
    images = {asked[:2] for asked in expected}
    found: dict[str, str] = {}
    tasks = dict.fromkeys(sample.target["task"] for sample in samples)
    for record, asked, text in _of_folder(answers, tasks) if answers.is_dir() else _of_jsonl(answers):
        if asked[:2] not in images:
            raise record.error("the benchmark has no such image", reason="foreign_id")
        if asked not in expected:
            raise record.error(f"not a question about this image: {asked[2][:80]!r}", reason="foreign_id")
        sample_id = expected[asked].id
        if sample_id in found:
            raise record.error("the question is already answered", reason="duplicate_id")
        found[sample_id] = text
    missing = [sample.id for sample in samples if sample.id not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{answers}: no answer for {missing[0]}{more}", reason="missing_id")
    return found


def task_records(file: Path, num_fields: int) -> list[FileRecord]:
    """The lines of a task file; the id is the image.

    Args:
        file: `<task>.txt`.
        num_fields: 3 (a fourth field, the prediction, is allowed) or 4.

    Raises:
        DataError: no such file, a line with another number of fields, or an answer that is neither Yes nor No.
    """
    return [_record(file, number, line, num_fields) for number, line in read_lines(file)]


def record_pairs(file: Path) -> Iterator[tuple[FileRecord, FileRecord]]:
    """The lines of a task file in pairs: the two questions about an image.

    Raises:
        DataError: see `task_records`; or the two lines of a pair name different images.
    """
    records = task_records(file, 3)
    for first, second in zip(records[::2], [*records[1::2], None], strict=False):
        if second is None or first.values["image"] != second.values["image"]:
            raise first.error(f"image {first.values['image']} must have two consecutive lines", "bad_pair")
        yield first, second


def write_task_files(folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]) -> list[Path]:
    """Write `<task>.txt` with the answer as fourth field; its tabs and line ends become spaces."""
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
    """An answer as one field of a line: tabs and line ends become spaces."""
    return text.translate(_ONE_LINE)


def _record(file: Path, number: int, line: str, num_fields: int) -> FileRecord:
    fields = line.split("\t")
    if len(fields) != num_fields and not (num_fields == 3 and len(fields) == 4):
        names = "image, question, answer" + (", prediction" if num_fields == 4 else "")
        problem = f"{num_fields} tab-separated fields are expected ({names}), found {len(fields)}"
        raise FileRecord(file, number, {}).error(problem)
    values = dict(zip(("image", "question", "label", "prediction"), fields, strict=False))
    record = FileRecord(file, number, values).with_id("image")
    record.text("question")
    if values["label"].lower() not in ("yes", "no"):
        raise record.error(f"the answer must be Yes or No, found {values['label'][:40]!r}")
    return record


def _of_folder(folder: Path, tasks: Iterable[str]) -> Iterator[tuple[FileRecord, Asked, str]]:
    for task in tasks:
        for record in task_records(folder / f"{task}.txt", 4):
            question = _without_instruction(record.text("question"))
            yield record, (task, _stem(record.id), question), record.text("prediction", empty=True)


def _of_jsonl(file: Path) -> Iterator[tuple[FileRecord, Asked, str]]:
    for raw in json_records(file):
        record = raw.with_id("question_id")
        task, _, image = record.id.partition("/")
        question = record.text("prompt" if "prompt" in record.values else "question")
        yield record, (task, _stem(image), _without_instruction(question)), answer_text(record)


def _asked(sample: Sample) -> Asked:
    question = _without_instruction(sample.target["question"])
    return sample.target["task"], _stem(sample.target["image"]), question


def _stem(name: str) -> str:
    return name.rsplit("/", maxsplit=1)[-1].split(".", maxsplit=1)[0]


def _without_instruction(question: str) -> str:
    for phrase in _INSTRUCTIONS:
        question = question.replace(phrase, "")
    return " ".join(question.split())
