"""Measure what a finished run's pairs cost and write bench/STREAMING.md and bench/streaming.json: peak memory, seconds.

The run is made up: prompts with two completions of 200 characters, rated by one annotator, on 16 shared images; four in
five become a pair. Each verb is a separate process. `align` stops where the trainer would tokenise: it chooses the
pairs, takes their digest and goes through them once more. `--quick` leaves out the million.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from engines import machine

HERE = Path(__file__).parent
NUM_IMAGES = 16
SIZES = (10_000, 100_000, 1_000_000)
WORDS = ("a", "the", "small", "red", "large", "blue", "cube", "ball", "stands", "left", "right", "of", "near", "above")


def made_up(images: list[Any], num_prompts: int) -> Iterator[Any]:
    """Candidates: every fifth prompt's two completions are rated alike, so that it gives no pair."""
    from pairsight.records import ATTRIBUTES, Annotation, Candidates, Completion, Message, Prompt

    rng = random.Random(0)
    for number in range(num_prompts):
        name = f"prompt-{number:07d}"
        question = Message("user", f"<image>\nWhat is to be seen in picture {number}?", (images[number % NUM_IMAGES],))
        texts = [" ".join(rng.choices(WORDS, k=60))[:200] for _ in range(2)]
        completions = tuple(
            Completion(f"{name}:{index}", name, text, "stop", "m", number, index) for index, text in enumerate(texts)
        )
        good, bad = rng.sample(range(2), 2)
        scores = {good: [4, 4, 3, rng.randrange(5), rng.randrange(5)], bad: [rng.randrange(3), 2, 1, 2, 1]}
        scores = {key: [2] * 5 for key in scores} if number % 5 == 4 else scores
        annotations = tuple(
            Annotation(
                one.id,
                "judge",
                dict(zip(ATTRIBUTES, map(float, scores[k]), strict=True)),
                "It says so.",
                (k + number) % 2,
            )
            for k, one in enumerate(completions)
        )
        yield Candidates(Prompt(name, (question,), "made-up"), completions, annotations)


def make(folder: Path, num_prompts: int) -> None:
    """A finished run of so many prompts."""
    from pairsight.pipeline.select import seal_build
    from pairsight.selection.preference_rule import PreferenceRule
    from pairsight.store.run_folder import RunFolder

    strategy = PreferenceRule()
    run = RunFolder.create(folder, {"recipe": "feedback", "strategy": {"name": strategy.name, **strategy.to_plain()}})
    images = []
    for number in range(NUM_IMAGES):
        Image.new("RGB", (64, 64), (number * 15, 90, 200 - number * 10)).save(folder / "one.png")
        images.append(run.blobs.add_file(folder / "one.png"))
    (folder / "one.png").unlink()
    with run.ledger():
        seal_build(run, made_up(images, num_prompts), strategy)


def select(run: Path) -> None:
    """Choose again, with another strategy; go through what was chosen."""
    from pairsight.pipeline.select import load_candidates, select

    chosen, dropped = select(load_candidates(run), "preference_rule", min_margin=3.0)
    assert sum(1 for _ in chosen) == len(chosen) and sum(1 for _ in dropped) == len(dropped)


def align(run: Path) -> None:
    """All that `align` does with the data before it loads a model."""
    from pairsight.pipeline.align import AlignSpec, align_run
    from pairsight.tiny.models.shipped import shipped_model
    from pairsight.training.config import TrainingSummary
    from pairsight.training.trainer import PreferenceTrainer

    def without_model(self: Any, examples: Any, *_: object, **__: object) -> None:
        assert sum(1 for _ in examples) == len(examples)

    PreferenceTrainer._train = without_model  # type: ignore[method-assign]
    TrainingSummary.read = classmethod(lambda cls, folder: None)  # type: ignore[method-assign,assignment]
    align_run(AlignSpec.parse({"data": str(run), "model": str(shipped_model())}), quiet=True)


def inspect(run: Path) -> None:
    """What `pairsight inspect` does."""
    from pairsight.reporting.inspection_page import write_inspection

    write_inspection(run, run / "inspection.html")


def report(run: Path) -> None:
    """What `pairsight report` does."""
    from pairsight.reporting.report import write_report

    write_report(run)


def verify(run: Path) -> None:
    """What `pairsight status --verify` does."""
    from pairsight.store.verify import verify_run

    found = verify_run(run)
    assert not found.problems, found.problems


def dataset(run: Path) -> None:
    """The run's pairs read as a file of pairs, their images unpacked."""
    from pairsight.formats.pairs import read_pairs

    pairs = read_pairs(run / "data")
    assert sum(1 for _ in pairs) == len(pairs)


VERBS: dict[str, Callable[[Path], None]] = {
    "select": select,
    "align": align,
    "align again": align,
    "inspect": inspect,
    "report": report,
    "status --verify": verify,
    "a file of pairs": dataset,
}


def main() -> None:
    """Make the runs and measure every verb, each in a new process, or the one given by `--one`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 and 100,000 pairs only; prints, writes nothing")
    parser.add_argument("--one", nargs=2, metavar=("VERB", "RUN"), help="measure in this process")
    parser.add_argument("--make", nargs=2, metavar=("PROMPTS", "RUN"), help="make a run in this process")
    parser.add_argument("--folder", help="folder for the runs; default: the working directory")
    options = parser.parse_args()
    began = time.perf_counter()
    if options.make:
        make(Path(options.make[1]), int(options.make[0]))
        print(measured(began))
        return
    if options.one:
        VERBS[options.one[0]](Path(options.one[1]))
        print(measured(began))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as folder:
        for size in SIZES[: 2 if options.quick else None]:
            run = Path(folder) / str(size)
            rows.append({"verb": "build: sealing", "pairs": size, **worker("--make", str(size * 5 // 4), str(run))})
            for verb in VERBS:
                rows.append({"verb": verb, "pairs": size, **worker("--one", verb, str(run))})
                print(rows[-1], file=sys.stderr, flush=True)
    content = {"machine": machine(1, time.perf_counter() - began), "rows": rows}
    if not options.quick:
        (HERE / "streaming.json").write_text(json.dumps(content, indent=2) + "\n")
        (HERE / "STREAMING.md").write_text(page(content))
    print(page(content))


def measured(began: float) -> str:
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime
    return json.dumps({"seconds": time.perf_counter() - began, "cpu_s": cpu_s, "peak_mb": used.ru_maxrss / 1024})


def worker(*arguments: str) -> dict[str, Any]:
    """Run this script in a separate process; it prints one JSON object last."""
    command = [sys.executable, str(HERE / "streaming.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    values: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex("{") :])
    return values


def page(content: dict[str, Any]) -> str:
    """One table: a row a verb, peak memory and seconds by number of pairs, and the growth a pair."""
    about = content["machine"]
    found = {(row["verb"], row["pairs"]): row for row in content["rows"]}
    sizes = sorted({size for _, size in found})
    first, last = sizes[0], sizes[-1]
    lines = []
    for verb in dict.fromkeys(name for name, _ in found):
        cells = [f"{found[verb, size]['peak_mb']:,.0f} MB, {found[verb, size]['cpu_s']:.1f} s" for size in sizes]
        growth = (found[verb, last]["peak_mb"] - found[verb, first]["peak_mb"]) * 2**20 / (last - first)
        lines.append(f"| {verb} | {' | '.join(cells)} | {growth:,.0f} |")
    head = " | ".join(f"{size:,} pairs" for size in sizes)
    return f"""# What the pairs of a finished run cost

{about["processor"]}, {about["cores"]} cores; Python {about["python"]}; commit {about["commit"]}. Made by
`make bench-streaming` in {about["minutes"]} minutes, every verb once, in a process of its own. The time is that of the
processor, so that other work on the machine counts little.

A run that is made up: five prompts for four pairs, two completions of 200 characters each, one annotator, 16 images.
`align` chooses the pairs, takes their digest and goes through them once more, without a model, with PyTorch imported;
`align again` finds what was chosen. `a file of pairs` reads the pairs and unpacks their images.

| verb: peak memory, processor time | {head} | bytes a pair |
|---|{"---|" * (len(sizes) + 1)}
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
