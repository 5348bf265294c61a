"""Remake bench/RESULTS.md and bench/results.json: training and sampling against the peers, interleaved, medians.

`python bench/run.py` takes about half an hour on two cores; `--quick` one smaller run of each, under ten minutes;
`--swift PYTHON` also runs ms-swift, with the interpreter of an environment that has it (`make bench-peers`).
Nothing else may run on the machine meanwhile: only ratios of interleaved runs count.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flops import training
from llava_shape import TINY, Item, Shape, build_items, build_model

HERE = Path(__file__).parent
JSON = HERE / "results.json"


@dataclass(frozen=True)
class Case:
    """One comparison: what is trained, and the goals for our speed over TRL's and, where there is one, ms-swift's."""

    key: str
    title: str
    goal: float
    pairs: int
    swift_goal: float | None = None
    vocabulary: int = 4096
    epochs: int = 1
    questions_per_image: int = 1
    rejected: int = 1


SHARED = "pairs/s, 4,096, two epochs, two questions an image, two rejected"
CASES = (
    Case("one_epoch", "pairs/s, vocabulary 4,096, one epoch", 2.8, 32, 2.1),
    Case("two_epochs", "pairs/s, 4,096, two epochs", 3.3, 16, 2.5, epochs=2),
    Case("shared_images", SHARED, 9.0, 16, 6.5, epochs=2, questions_per_image=2, rejected=2),
    Case("large_vocabulary", "pairs/s, 32,000, one epoch", 6.0, 16, vocabulary=32000),
)
PARTS = (*(case.key for case in CASES), "sampling", "growth")
PEERS = {"trl": ("TRL", "train_ratio", "memory_ratio"), "swift": ("ms-swift", "swift_ratio", "swift_memory_ratio")}
"""A peer's name, and what our speed and our memory over its are called."""


@dataclass
class Results:
    """The numbers by key, and by key the row of the table that shows it."""

    threads: int
    repeats: int
    commit: str
    swift: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, title: str, values: list[float], detail: str, *, goal: str, unit: str = "×") -> None:
        middle = statistics.median(values)
        self.numbers[key] = middle
        digits = 2 if middle >= 0.1 else 4
        ranged = f" ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else ""
        row = f"| {title} | {detail}: **{middle:.{digits}f}{unit}**{ranged} | {goal} | {len(values)} | {self.commit} |"
        self.numbers.setdefault("rows", {})[key] = row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--swift", metavar="PYTHON", help="an interpreter that has ms-swift")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="remake these, keep the others' rows")
    given = parser.parse_args()
    results = Results(given.threads, 1 if given.quick else 3, commit(), given.swift)
    if len(given.only) < len(PARTS) and JSON.is_file():
        results.numbers = json.loads(JSON.read_text())
    with tempfile.TemporaryDirectory(prefix="pairsight-bench-") as name:
        folder = Path(name)
        for part in given.only:
            if part == "sampling":
                sampling(results, quick=given.quick)
            elif part == "growth":
                growth(folder, 2_000 if given.quick else 10_000, results)
            else:
                case = next(case for case in CASES if case.key == part)
                compare_training(case, folder, 8 if given.quick else case.pairs, results)
            write(results)
    print(report(results))


def write(results: Results) -> None:
    """What is known so far, so that an interrupted run leaves its finished parts."""
    results.numbers["machine"] = machine(results)
    JSON.write_text(json.dumps(results.numbers, indent=2, ensure_ascii=False) + "\n")
    (HERE / "RESULTS.md").write_text(report(results))


def compare_training(case: Case, folder: Path, pairs: int, results: Results) -> None:
    """Interleave our training and the peers'; note speed, and from the first case memory and arithmetic."""
    world, shape = folder / str(case.vocabulary), Shape(case.vocabulary)
    if not (world / "model").is_dir():
        build_model(world / "model", shape)
    prompts = pairs // case.rejected
    options = [f"--world={world}", f"--vocabulary={case.vocabulary}", f"--epochs={case.epochs}"]
    options += [f"--prompts={prompts}", f"--questions-per-image={case.questions_per_image}"]
    options += [f"--rejected={case.rejected}", f"--threads={results.threads}"]
    goals = {"trl": case.goal} | ({"swift": case.swift_goal} if results.swift and case.swift_goal else {})
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in ("ours", *goals)}
    rates = []
    for _ in range(results.repeats):
        for side, done in runs.items():
            python = results.swift if side == "swift" else None
            done.append(worker("train_worker.py", side, *options, python=python))
            rates.append(worker("matrix_rate.py", f"--threads={results.threads}")["flops_per_s"])
    speed = {side: [run["pairs"] / run["seconds"] for run in done] for side, done in runs.items()}
    for peer, goal in goals.items():
        ratios = [mine / theirs for mine, theirs in zip(speed["ours"], speed[peer], strict=True)]
        detail = f"{statistics.median(speed['ours']):.3f} against {statistics.median(speed[peer]):.3f}"
        name, speed_key, _ = PEERS[peer]
        results.add(f"{speed_key}_{case.key}", f"{case.title}, over {name}", ratios, detail, goal=f"≥ {goal}×")
    if case is CASES[0]:
        memory_and_arithmetic(case, shape, build_items(world / "images", shape, prompts), runs, rates, results)


def memory_and_arithmetic(  # noqa: PLR0917
    case: Case,
    shape: Shape,
    items: Sequence[Item],
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    rates: Sequence[float],
    results: Results,
) -> None:
    """Peak memory over the peers', and the share of the machine's matrix rate that needed arithmetic reaches."""
    for peer in runs.keys() & PEERS.keys():
        peaks = [mine["peak_mb"] / theirs["peak_mb"] for mine, theirs in zip(runs["ours"], runs[peer], strict=True)]
        megabytes = {side: statistics.median(run["peak_mb"] for run in runs[side]) for side in ("ours", peer)}
        detail = f"{megabytes['ours']:.0f} against {megabytes[peer]:.0f} MB"
        name, _, memory_key = PEERS[peer]
        goal = "≤ 0.5×" if peer == "trl" else "–"
        results.add(memory_key, f"peak memory, 4 pairs a step, over {name}", peaks, detail, goal=goal)
    needed, rate = training(shape, items, case.epochs), statistics.median(rates)
    shares = [needed / run["seconds"] / rate for run in runs["ours"]]
    detail = f"{needed / 1e9 / len(items):.0f} GFLOP a pair (`flops.py`), product of 2048²: {rate / 1e9:.0f} GFLOP/s"
    trees = [run["tree_seconds"] / run["seconds"] for run in runs["ours"]]
    results.add("tree_share", "packing, trees and masks, of a training's time", trees, "share", goal="< 0.02", unit="")
    title = "useful arithmetic over a matrix product's"
    results.add("matrix_rate_share", title, shares, detail, goal="≥ 0.75", unit="")


def sampling(results: Results, *, quick: bool) -> None:
    small = ("--prompts=4", "--repeats=1") if quick else ()
    done = worker("sampling.py", f"--threads={results.threads}", *small)
    values = [done[f"sampling_ratio{end}"] for end in ("_low", "", "_high")]
    detail = f"{done['ours_s']:.1f} against {done['generate_s']:.1f} s"
    title = "4 completions of 64 tokens a prompt, speed over `generate`"
    results.add("sampling_ratio", title, values, detail, goal="≥ 1.7×")


def growth(folder: Path, many: int, results: Results) -> None:
    """What a pair costs when there are many, over what it costs among a hundred."""
    build_model(folder / "tiny" / "model", TINY)
    options = (f"--world={folder / 'tiny'}", f"--threads={results.threads}")
    few = [worker("growth_worker.py", *options, "--pairs=100") for _ in range(3)]
    lots = worker("growth_worker.py", *options, f"--pairs={many}")
    base = statistics.median(run["seconds"] / run["pairs"] for run in few)
    cost = lots["seconds"] / lots["pairs"]
    detail = f"{1e3 * cost:.1f} against {1e3 * base:.1f} ms"
    results.add(
        "cost_growth", f"cost of a pair among {many:,} over among 100, tiny", [cost / base], detail, goal="≤ 1.1×"
    )


def worker(script: str, *arguments: str, python: str | None = None) -> dict[str, float]:
    """Run one of our scripts in a process of its own, by default with this interpreter; it prints one JSON object."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [python or sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    values: dict[str, float] = json.loads(done.stdout[done.stdout.rindex("{") :])
    print(script, *arguments[:1], values, file=sys.stderr, flush=True)
    return values


def commit() -> str:
    git = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()


def machine(results: Results) -> dict[str, Any]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    known = results.numbers.get("machine", {}).get("versions", {})
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": results.threads,
        "python": platform.python_version(),
        "versions": known
        | {name: version(name) for name in ("torch", "transformers", "trl", "peft", "pairsight")}
        | swift_versions(results.swift),
    }


def swift_versions(python: str | None) -> dict[str, str]:
    if python is None:
        return {}
    code = "from importlib.metadata import version as v; print(v('ms-swift'), v('transformers'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    swift, transformers = done.stdout.split()
    return {"ms-swift": swift, "its transformers": transformers}


def report(results: Results) -> str:
    about = results.numbers["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    return f"""# What training and sampling cost

{about["processor"]}, {about["cores"]} cores, {about["threads"]} threads; {versions}.
Medians (and ranges) of interleaved runs, each a process of its own; made by `make bench` and `make bench-peers`.

A LLaVA-shaped random model (336 px, 576 image tokens, hidden 512 × 6 layers, vision 256 × 6), LoRA r 16 on the language
model's linear layers, fp32; prompts of 20 words, completions of 30–150; 4 pairs a step. Ours includes tokenising and
the reference pass; the peers' clocks start at `train()`. TRL is its `DPOTrainer`, ms-swift `swift rlhf --rlhf_type dpo`
with `use_logits_to_keep`, both with gradient checkpointing off and one pair a forward pass, four accumulated, which of
1, 2 and 4 was TRL's fastest here (`train_worker.py trl --per-pass N`; docs/LOG.md).

| measured | result | goal | runs | commit |
|---|---|---|---|---|
{chr(10).join(results.numbers["rows"].values())}
"""


if __name__ == "__main__":
    main()
