"""Time and memory for scoring 100,000 answers, from the files to `results.json`: both parsers, bootstrap, tables.

`python bench/scoring.py` writes bench/SCORING.md: medians of three runs of each benchmark that needs no tagger, each in
a separate process, including imports. `--quick` scores 10,000 answers once and writes nothing. Goal: under 10 s and
500 MB. The machine must be otherwise idle.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ANSWERS = ("Yes", "No", "No, there is not.", "yes", "B", "two", "1998", "The answer is D.", "Maybe", "")
GOAL_S, GOAL_MB = 10, 500
SPLITS = ("random", "popular", "adversarial")
MME_TASKS = ("existence", "count", "position", "color", "OCR", "code_reasoning")


def pope(folder: Path, count: int) -> tuple[Path, Path]:
    names = [f"COCO_val2014_{k:012d}.jpg" for k in range(count // 6 + 1)]
    rows = (
        {"question_id": k, "image": names[k // 6], "text": f"Is there a thing {k % 80} in the image?",
         "label": "yes" if k % 2 else "no", "category": SPLITS[k % 3]}
        for k in range(count)
    )  # fmt: skip
    return jsonl(folder / "questions.jsonl", rows), answers(folder, [f"{SPLITS[k % 3]}:{k}" for k in range(count)])


def mme(folder: Path, count: int) -> tuple[Path, Path]:
    rng = random.Random(2)
    for name in ("mme", "answers"):
        (folder / name).mkdir()
    for index, task in enumerate(MME_TASKS):
        numbers = range(index, count // 2, len(MME_TASKS))
        lines = [
            f"{k}.jpg\tIs it thing {n}? Please answer yes or no.\t{('Yes', 'No')[n]}" for k in numbers for n in (0, 1)
        ]
        (folder / "mme" / f"{task}.txt").write_text("".join(f"{line}\n" for line in lines))
        answered = "".join(f"{line}\t{rng.choice(ANSWERS)}\n" for line in lines)
        (folder / "answers" / f"{task}.txt").write_text(answered)
    return folder / "mme", folder / "answers"


def mmbench(folder: Path, count: int) -> tuple[Path, Path]:
    rows = ["index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tl2-category\tsplit"]
    indices = [k // 4 + 1_000_000 * (k % 4) for k in range(count)]
    for index in indices:
        image = "QUJD" * 20 if index < 1_000_000 else str(index % 1_000_000)
        rows.append(
            f"{index}\tWhat is it?\t\tcat\tdog\ta bird\ta fish\t{'ABCD'[index % 4]}\tc{index % 9}\t{image}\tl\tdev"
        )
    path = folder / "mmbench.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path, answers(folder, map(str, indices))


def scienceqa(folder: Path, count: int) -> tuple[Path, Path]:
    problem = {"question": "Which?", "choices": ["this", "that", "none"], "answer": 1, "hint": "", "image": "image.png",
               "subject": "natural science", "grade": "grade 2"}  # fmt: skip
    data = folder / "sqa"
    data.mkdir()
    (data / "problems.json").write_text(json.dumps({str(k): problem for k in range(count)}))
    (data / "pid_splits.json").write_text(json.dumps({"test": [str(k) for k in range(count)]}))
    return data, answers(folder, map(str, range(count)))


def gqa(folder: Path, count: int) -> tuple[Path, Path]:
    questions = {
        str(k): {"imageId": f"n{k // 10}", "question": f"What is thing {k % 90}?", "answer": ANSWERS[k % 9].lower(),
                 "isBalanced": True, "types": {"structural": "query" if k % 2 else "verify", "semantic": "obj"}}
        for k in range(count)
    }  # fmt: skip
    path = folder / "questions.json"
    path.write_text(json.dumps(questions), encoding="utf-8")
    return path, answers(folder, questions)


def vqav2(folder: Path, count: int) -> tuple[Path, Path]:
    rng = random.Random(0)
    data = folder / "vqa"
    data.mkdir()
    questions = [{"image_id": k // 6, "question": f"What is thing {k % 90}?", "question_id": k} for k in range(count)]
    given = ["yes", "no", "two", "2", "a dog", "1998"]
    annotations = [
        {"question_id": k, "answer_type": "other",
         "answers": [{"answer": rng.choice(given), "answer_id": n} for n in range(10)]}
        for k in range(count)
    ]  # fmt: skip
    write = {
        "questions": {"data_subtype": "val2014", "questions": questions},
        "annotations": {"annotations": annotations},
    }
    for name, value in write.items():
        (data / f"v2_mscoco_val2014_{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return data, answers(folder, map(str, range(count)))


def textvqa(folder: Path, count: int) -> tuple[Path, Path]:
    rng = random.Random(3)
    data = [
        {"question_id": k, "image_id": f"i{k // 2}", "question": f"What is thing {k % 90}?",
         "answers": [rng.choice(["nike", "1998", "two", "2", "nike's"]) for _ in range(10)]}
        for k in range(count)
    ]  # fmt: skip
    path = folder / "textvqa.json"
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path, answers(folder, map(str, range(count)))


def seed_bench(folder: Path, count: int) -> tuple[Path, Path]:
    options = {f"choice_{letter}": f"thing {letter}" for letter in "abcd"}
    questions = [
        {"question_id": str(k), "question_type_id": k % 9 + 1, "data_id": f"{k}.jpg", "data_type": "image",
         "question": "What?", **options, "answer": "ABCD"[k % 4]}
        for k in range(count)
    ]  # fmt: skip
    path = folder / "seed.json"
    path.write_text(json.dumps({"questions": questions, "question_type": {}}), encoding="utf-8")
    return path, answers(folder, map(str, range(count)))


def answers(folder: Path, ids: Iterable[str]) -> Path:
    rng = random.Random(1)
    return jsonl(folder / "answers.jsonl", ({"question_id": name, "text": rng.choice(ANSWERS)} for name in ids))


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


MAKERS: dict[str, Callable[[Path, int], tuple[Path, Path]]] = {
    maker.__name__: maker for maker in (pope, mme, mmbench, scienceqa, gqa, vqav2, textvqa, seed_bench)
}


def score(name: str, questions: Path, given: Path, out: Path) -> dict[str, Any]:
    began = time.perf_counter()
    from pairsight.benchmarks.score import score_answers

    content = score_answers(name, questions, given, out)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "answers": content.sections[0].settings["rows"],
    }


def measure(name: str, count: int, repeats: int) -> dict[str, float]:
    """The medians of several runs, each in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        questions, given = MAKERS[name](Path(folder), count)
        command = [sys.executable, __file__, "--score", name, str(questions), str(given), str(Path(folder) / "out")]
        runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(repeats)]
    return {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}


def report(found: Mapping[str, Mapping[str, float]], repeats: int) -> str:
    lines = [
        "# Scoring answers", "",
        f"`make bench-scoring`: answers scored by both parsers, with bootstrap and tables, in one process on one core; "
        f"medians of {repeats} runs. Goal: under {GOAL_S} s and {GOAL_MB} MB.", "",
        "| benchmark | answers | seconds | CPU seconds | peak memory, MB |", "| --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['answers']:,.0f} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} | "
            f"{row['peak_memory_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 answers once; writes nothing")
    parser.add_argument("--score", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        name, questions, given, out = options.score
        print(json.dumps(score(name, Path(questions), Path(given), Path(out))))
        return
    count, repeats = (10_000, 1) if options.quick else (100_000, 3)
    found = {name: measure(name, count, repeats) for name in MAKERS}
    print(json.dumps(found, indent=1))
    if not options.quick:
        (HERE / "SCORING.md").write_text(report(found, repeats), encoding="utf-8")


if __name__ == "__main__":
    main()
