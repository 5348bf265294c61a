"""MME: two yes-no questions an image over ten tasks of perception and four of cognition; 200 points a task.

Source: C. Fu et al. (2306.13394); the rule is that of the authors' `eval_tool/calculation.py`. Prompt and decoding are
LLaVA-1.5's, which leaves the authors' "Please answer yes or no." out. Points are the benchmark's own unit and stay
points.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files.answers import answer_text, json_rows
from pairsight.benchmarks.files.official import Row, read_lines
from pairsight.benchmarks.protocol import Benchmark, Better, Parser, Sample, SampleImages, Scored
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.errors import DataError
from pairsight.models.protocols import Sampling
from pairsight.records import Message, Prompt
from pairsight.statistics import ratio
from pairsight.store.durable import write_file

_WANTED_LINE = ("Answer the question using a single word or phrase.", "Please answer yes or no.")
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
            yield row, (task, _stem(row.name), _bare(row.values["question"])), row.values["prediction"]


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


PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_TASKS = (*PERCEPTION, *COGNITION)
_COUNTS = ("right", "questions", "both_right", "images")
_PUBLISHED = (
    "its authors publish eval_tool.zip and the images at github.com/BradyFU/Awesome-Multimodal-Large-Language-Models "
    "(branch Evaluation); give the folder of <task>.txt files"
)
_ASKED_FOR = "Please answer yes or no."
_ONE_LINE = str.maketrans("\t\n\r", "   ")


class Mme(Benchmark):
    """MME from the folder of its `<task>.txt` files (`image<TAB>question<TAB>answer`), two lines an image.

    Images are looked for as `<task>/<image>` and `<task>/images/<image>`. `perception` (at most 2000) and `cognition`
    (800) are there when all their tasks are.
    """

    name: ClassVar[str] = "mme"
    judged: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = tuple(f"{task}_{count}" for task in _TASKS for count in _COUNTS)
    better: ClassVar[Mapping[str, Better]] = dict.fromkeys(("perception", "cognition", "accuracy", *_TASKS), "higher")
    prompt_suffix: ClassVar[str] = "\nAnswer the question using a single word or phrase."
    sampling: ClassVar[Sampling] = Sampling(temperature=0.0, max_new_tokens=128)

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group an image: its two questions; ids are `task:image:1` and `task:image:2`.

        Raises:
            DataError: no task file, a line without three fields, an answer that is not Yes or No, or a line whose
                neighbour belongs to another image.
        """
        for task, file in task_files(path):
            lines: Counter[str] = Counter()
            for pair in _pairs(file):
                image = pair[0].values["image"]
                yield tuple(_sample(task, lines[image] + n, row, images) for n, row in enumerate(pair, start=1))
                lines[image] += 2

    def score(self, group: tuple[Sample, ...], answers: Sequence[str], parser: Parser) -> Scored:
        """Count right answers and images of which both are right; what is neither yes nor no is wrong."""
        decisions = []
        for sample, answer in zip(group, answers, strict=True):
            understood = robust_yes_no(answer)
            read = official_answer(answer) if parser == "official" else (understood or "other")
            label = sample.target["label"]
            decisions.append(
                {"id": sample.id, "prediction": read, "target": label, "correct": float(read == label),
                 "parsed": understood is not None}
            )  # fmt: skip
        right = sum(decision["correct"] for decision in decisions)
        sums = np.zeros((len(_TASKS), len(_COUNTS)))
        sums[_TASKS.index(group[0].target["task"])] = right, len(group), right == len(group), 1
        unparsed = sum(not decision["parsed"] for decision in decisions)
        return Scored(group[0].cluster, tuple(sums.ravel()), tuple(decisions), len(group), unparsed)

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Points per task, 100·accuracy + 100·(images with both right / images); their sums; accuracy in all."""
        right, questions, both, pictures = np.moveaxis(sums_RC.reshape(len(sums_RC), len(_TASKS), len(_COUNTS)), 2, 0)
        points_RT = 100 * ratio(right, questions) + 100 * ratio(both, pictures)
        there: NDArray[np.bool_] = (questions > 0).sum(axis=0) > 0
        metrics = {}
        for whole, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            index = [_TASKS.index(task) for task in tasks]
            if there[index].all():
                metrics[whole] = points_RT[:, index].cumsum(axis=1)[:, -1]  # one after another, as the original adds
        metrics["accuracy"] = ratio(right.sum(axis=1), questions.sum(axis=1))
        return metrics | {task: points_RT[:, index] for index, task in enumerate(_TASKS) if there[index]}

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """A folder of `<task>.txt` files with a fourth field, as the authors' script reads them, or LLaVA's JSONL."""
        return read_mme_answers(answers, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """`<task>.txt` with the answer as fourth field; its tabs and line ends become spaces."""
        lines: dict[str, list[str]] = {}
        for sample in (sample for group in groups for sample in group):
            fields = tuple(sample.target[name] for name in ("image", "question", "written"))
            answer = answers.get(sample.id, "").translate(_ONE_LINE)
            lines.setdefault(sample.target["task"], []).append("\t".join((*fields, answer)) + "\n")
        files = [folder / f"{task}.txt" for task in lines]
        for file, text in zip(files, lines.values(), strict=True):
            write_file(file, "".join(text).encode("utf-8", "replace"))
        return files


def official_answer(text: str) -> Literal["yes", "no", "other"]:
    """`yes`, else `no`, found in the first four characters of the answer in lower case; else other.

    Tabs and line ends are spaces first, as on export.
    """
    window = text.translate(_ONE_LINE).lower()[:4]
    return "yes" if "yes" in window else ("no" if "no" in window else "other")


def task_files(path: Path) -> list[tuple[str, Path]]:
    """(task, file) for each task file of an MME folder, in the official order."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"MME: {path} {what}; {_PUBLISHED}", reason="missing_file")
    found = [(task, path / f"{task}.txt") for task in _TASKS if (path / f"{task}.txt").is_file()]
    if not found:
        raise DataError(f"MME: {path} holds none of {', '.join(_TASKS)} as .txt; {_PUBLISHED}", reason="missing_file")
    return found


def _pairs(file: Path) -> Iterator[tuple[Row, Row]]:
    rows = task_rows(file, 3)
    for first, second in zip(rows[::2], [*rows[1::2], None], strict=False):
        if second is None or first.values["image"] != second.values["image"]:
            raise first.error(f"image {first.values['image']} must have two consecutive lines", "bad_pair")
        yield first, second


def _sample(task: str, number: int, row: Row, images: SampleImages) -> Sample:
    name = row.text("image")
    try:
        image = images.ref(f"{task}/{name}", f"{task}/images/{name}")
    except DataError as error:
        raise row.error(str(error), reason=error.reason) from None
    sample_id = f"{task}:{name}:{number}"
    question = row.text("question")
    asked = question.removesuffix(_ASKED_FOR).rstrip()  # LLaVA-1.5 asks for a word or phrase in its place
    prompt = Prompt(sample_id, (Message("user", asked, (image,)),), source="mme")
    target = {
        "label": row.values["label"].lower(), "task": task, "image": name, "written": row.values["label"],
        "question": question,
    }  # fmt: skip
    return Sample(sample_id, prompt, cluster=f"{task}/{name}", target=target)
