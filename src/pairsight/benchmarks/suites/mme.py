"""MME: two yes-no questions per image in ten perception and four cognition tasks; up to 200 points per task.

Source: C. Fu et al. (2306.13394); the rule is that of the authors' `eval_tool/calculation.py`. Prompt and decoding are
LLaVA-1.5's, which omits the authors' "Please answer yes or no." Metrics are in points, the benchmark's unit.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pairsight.benchmarks.files import mme_lines
from pairsight.benchmarks.protocol import Benchmark, Better, Reading, Sample, SampleImages
from pairsight.benchmarks.words.reading import robust_yes_no
from pairsight.statistics import ratio

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_TASKS = (*PERCEPTION, *COGNITION)
_COUNTS = ("right", "questions", "both_right", "images")
_INSTRUCTION = "Please answer yes or no."


class Mme(Benchmark):
    """MME from the folder of its `<task>.txt` files (`image<TAB>question<TAB>answer`), two lines per image.

    Images are `<task>/<image>` or `<task>/images/<image>`. `perception` (at most 2000) and `cognition` (at most 800)
    are computed if all their tasks are present.
    """

    name = "mme"
    title = "MME"
    published = (
        "its authors publish eval_tool.zip and the images at "
        "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (branch Evaluation); give the folder of "
        "<task>.txt files"
    )
    columns = tuple(f"{task}_{count}" for task in _TASKS for count in _COUNTS)
    better: ClassVar[Mapping[str, Better]] = dict.fromkeys(("perception", "cognition", "accuracy", *_TASKS), "higher")
    prompt_suffix = "\nAnswer the question using a single word or phrase."

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per image, its two questions; ids are `task:image:1` and `task:image:2`.

        Raises:
            DataError: no task file, a line without three fields, an answer that is neither Yes nor No, or an image
                without two consecutive lines.
        """
        for task, file in self._files(path):
            lines: Counter[str] = Counter()
            for pair in mme_lines.record_pairs(file):
                group = []
                for record in pair:
                    name, question, label = record.text("image"), record.text("question"), record.text("label")
                    lines[name] += 1
                    image = record.image_called(images, f"{task}/{name}", f"{task}/images/{name}")
                    asked = question.removesuffix(_INSTRUCTION).rstrip()  # LLaVA-1.5 asks for a word or phrase instead
                    target = {
                        "label": label.lower(), "task": task, "image": name, "written": label, "question": question,
                    }  # fmt: skip
                    sample_id = f"{task}:{name}:{lines[name]}"
                    group.append(self.sample(sample_id, asked, [image], cluster=f"{task}/{name}", target=target))
                yield tuple(group)

    def read(self, sample: Sample, answer: str, *, official: bool) -> Reading:
        """1 if yes or no is correct; an answer that is neither is wrong."""
        understood = robust_yes_no(answer)
        read = official_answer(answer) if official else (understood or "other")
        return Reading(read, float(read == sample.target["label"]), understood is not None)

    def group_sums(
        self, group: tuple[Sample, ...], readings: Sequence[Reading]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Correct answers, and images with both answers correct."""
        correct = sum(reading.correct or 0.0 for reading in readings)
        sums = np.zeros((len(_TASKS), len(_COUNTS)))
        sums[_TASKS.index(group[0].target["task"])] = correct, len(group), correct == len(group), 1
        return tuple(sums.ravel()), ()

    def combine(self, sums_RC: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Points per task, 100·accuracy + 100·(images with both correct / images); their sums; overall accuracy."""
        correct, questions, both, images = np.moveaxis(sums_RC.reshape(len(sums_RC), len(_TASKS), len(_COUNTS)), 2, 0)
        points_RT = 100 * ratio(correct, questions) + 100 * ratio(both, images)
        present: NDArray[np.bool_] = (questions > 0).sum(axis=0) > 0
        found = {}
        for area, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
            index = [_TASKS.index(task) for task in tasks]
            if present[index].all():
                found[area] = points_RT[:, index].cumsum(axis=1)[:, -1]  # in sequence, as in the original
        found["accuracy"] = ratio(correct.sum(axis=1), questions.sum(axis=1))
        return found | {task: points_RT[:, index] for index, task in enumerate(_TASKS) if present[index]}

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read a folder of `<task>.txt` files with a fourth field, as the authors' script does, or LLaVA's JSONL."""
        return mme_lines.read_mme_answers(answers, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write `<task>.txt` files with the answer as fourth field; its tabs and line ends become spaces."""
        return mme_lines.write_task_files(folder, groups, answers)

    def _files(self, path: Path) -> list[tuple[str, Path]]:
        """(task, file) for each task file in the folder, in the official order."""
        if not path.is_dir():
            problem = "is a file, not a folder" if path.exists() else "does not exist"
            raise self.file_error(f"{path} {problem}", "missing_file")
        found = [(task, path / f"{task}.txt") for task in _TASKS if (path / f"{task}.txt").is_file()]
        if not found:
            raise self.file_error(f"{path} holds no task file ({', '.join(_TASKS)}, each .txt)", "missing_file")
        return found


def official_answer(text: str) -> Literal["yes", "no", "other"]:
    """`yes`, else `no`, if the first four characters of the lower-case answer contain it; otherwise `other`.

    Tabs and line ends are first replaced by spaces, as on export.
    """
    window = mme_lines.in_one_line(text).lower()[:4]
    return "yes" if "yes" in window else ("no" if "no" in window else "other")
