"""Compare training and sampling with peers, in interleaved runs; write bench/RESULTS.md and bench/results.json.

`--rows one_epoch,bf16` measures only these rows and keeps the others in the table, each with its own commit;
`--swift PYTHON` also runs ms-swift, with the interpreter of an environment that has it (`make bench-peers`); `--quick`
runs everything once with smaller inputs, in under ten minutes, and prints the table without writing it.
The machine must be otherwise idle: only ratios of interleaved runs count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flops import training
from llava_shape import TINY, Shape, build_items, build_model
from machine import busy_seconds, child_seconds, commit, machine
from table import Row, machines, markdown, merged, read_rows, write_rows

HERE = Path(__file__).parent
JSON, TABLE = HERE / "results.json", HERE / "RESULTS.md"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "pairsight")
SWIFT_PACKAGES = ("ms-swift", "torch", "transformers", "peft", "trl")

Runs = Mapping[str, Sequence[Mapping[str, float]]]
"""Side -> the output of each of its runs."""


@dataclass(frozen=True)
class Case:
    """One comparison of trainings.

    Args:
        key: the name for `--rows`.
        title: a description of the training.
        pairs: pairs per epoch.
        goals: peer -> the goal for the ratio of our speed to its speed; None: no goal.
        settings: the settings of all sides, a name in `train_worker.SETTINGS`.
        ours: our sides: `ours` trains as `align` does by default, `grouped` with `group_by_image`.
        memory_goal: the goal for the ratio of our peak memory to TRL's; None: not measured, 0: no goal.
    """

    key: str
    title: str
    pairs: int
    goals: Mapping[str, float | None]
    settings: str = "plain"
    vocabulary: int = 4096
    epochs: int = 1
    questions_per_image: int = 1
    rejected: int = 1
    ours: tuple[str, ...] = ("ours",)
    memory_goal: float | None = None


CASES = (
    Case("one_epoch", "vocabulary 4,096, one epoch", 32, {"trl": 2.8, "swift": 2.1}, memory_goal=0.5),
    Case("two_epochs", "4,096, two epochs", 16, {"trl": 3.3, "swift": 2.5}, epochs=2),
    Case(
        "shared_images",
        "4,096, two epochs, two questions an image, two rejected",
        16,
        {"trl": 9.0, "swift": 6.5},
        epochs=2,
        questions_per_image=2,
        rejected=2,
        ours=("grouped", "ours"),
    ),
    Case("large_vocabulary", "32,000, one epoch", 16, {"trl": 6.0, "swift": None}, vocabulary=32000),
    Case("feedback", "4,096, feedback's defaults", 16, {"trl": None}, "feedback", epochs=3, memory_goal=0),
    Case("bf16", "4,096, one epoch, bf16", 32, {"trl": None}, "bf16", memory_goal=0),
)
PARTS = (*(case.key for case in CASES), "sampling", "growth", "start")
PEERS = {"trl": ("TRL", "train_ratio", "memory_ratio"), "swift": ("ms-swift", "swift_ratio", "swift_memory_ratio")}
"""Peer -> its name, and the keys of our speed and memory relative to it."""
VARIANTS = {"ours": ", ours without `group_by_image`", "grouped": ", ours with `group_by_image`"}
"""How a row names our side if there are two."""


@dataclass(frozen=True)
class Setup:
    """How and where everything is run, and the share of the cores used by other processes during each run."""

    threads: int
    repeats: int
    quick: bool
    swift: str | None
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    def pairs(self, case: Case) -> int:
        """Pairs per epoch; in a quick run enough for two or three steps in total."""
        return max(4, 8 // case.epochs) * case.rejected if self.quick else case.pairs

    def prompts(self, case: Case) -> int:
        """Prompts per epoch."""
        return self.pairs(case) // case.rejected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--swift", metavar="PYTHON", help="an interpreter that has ms-swift")
    parser.add_argument("--rows", metavar="ROW[,ROW]", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    given = parser.parse_args()
    asked = given.rows.split(",")
    if unknown := [name for name in asked if name not in PARTS]:
        parser.error(f"--rows: no row '{unknown[0]}'; there are {', '.join(PARTS)}")
    rows = {} if given.quick else read_rows(JSON, PARTS)
    with tempfile.TemporaryDirectory(prefix="pairsight-bench-") as name:
        about = {"commit": commit(), "machine": machine(given.threads), "swift": swift_versions(given.swift)}
        setup = Setup(given.threads, 1 if given.quick else 3, given.quick, given.swift, Path(name), about)
        before = matrix_rate(setup)
        for part in (part for part in PARTS if part in asked):
            measured, before = measure(part, before, setup)
            rows = merged(rows, measured, PARTS)
            if not given.quick:  # after each row, so that an interrupted run keeps the finished ones
                write_rows(JSON, rows)
                TABLE.write_text(report(rows))
    print(report(rows))


def measure(part: str, before: Mapping[str, float], setup: Setup) -> tuple[dict[str, Row], Mapping[str, float]]:
    """The rows of a part, and the matrix rate after it."""
    setup.others.clear()
    case = next((case for case in CASES if case.key == part), None)
    if case is not None:
        runs = train(case, setup)
        rows = speeds(case, runs) | ({} if case.memory_goal is None else memory(case, runs))
    else:
        rows = {"sampling": sampling, "growth": growth, "start": start}[part](setup)
    after = matrix_rate(setup)
    if case is CASES[0]:
        rows |= arithmetic(case, runs["ours"], before, after, setup)
    rates = (before["best_flops_per_s"] / 1e9, after["best_flops_per_s"] / 1e9)
    packages = {name: version(name) for name in PACKAGES}
    done = {}
    for key, row in rows.items():
        versions = packages | (setup.about["swift"] if key.startswith("swift") else {})
        done[key] = replace(
            row,
            part=part,
            commit=setup.about["commit"],
            machine=setup.about["machine"],
            versions=versions,
            matrix_gflops=rates,
            others=max(setup.others),
        )
    return done, after


def train(case: Case, setup: Setup) -> Runs:
    """Run our trainings and the peers', interleaved."""
    world, shape = setup.folder / str(case.vocabulary), Shape(case.vocabulary)
    if not (world / "model").is_dir():
        build_model(world / "model", shape)
    options = [f"--world={world}", f"--vocabulary={case.vocabulary}", f"--epochs={case.epochs}"]
    options += [f"--prompts={setup.prompts(case)}", f"--questions-per-image={case.questions_per_image}"]
    options += [f"--rejected={case.rejected}", f"--settings={case.settings}", f"--threads={setup.threads}"]
    peers = [peer for peer in case.goals if peer != "swift" or setup.swift]
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in (*case.ours, *peers)}
    for _ in range(setup.repeats):
        for side, done in runs.items():
            python = setup.swift if side == "swift" else None
            done.append(worker(setup, "train_worker.py", side, *options, python=python))
    return runs


def speeds(case: Case, runs: Runs) -> dict[str, Row]:
    """The ratio of our speed to the peers'."""
    speed = {side: [run["pairs"] / run["seconds"] for run in done] for side, done in runs.items()}
    rows = {}
    for side in case.ours:
        for peer in runs.keys() & PEERS.keys():
            ratios = [mine / theirs for mine, theirs in zip(speed[side], speed[peer], strict=True)]
            detail = f"{statistics.median(speed[side]):.3f} against {statistics.median(speed[peer]):.3f}"
            name, key, _ = PEERS[peer]
            variant = VARIANTS[side] if len(case.ours) > 1 else ""
            title = f"pairs/s, {case.title}{variant}, over {name}"
            ending = f"_{side}" if side != "ours" else ""
            rows[f"{key}_{case.key}{ending}"] = row(title, detail, ratios, at_least=case.goals[peer])
    return dict(sorted(rows.items(), key=lambda entry: "ms-swift" in entry[1].title))


def memory(case: Case, runs: Runs) -> dict[str, Row]:
    """The ratio of our peak memory to the peers'."""
    rows = {}
    for peer in (peer for peer in PEERS if peer in runs):
        peaks = [mine["peak_mb"] / theirs["peak_mb"] for mine, theirs in zip(runs["ours"], runs[peer], strict=True)]
        megabytes = {side: statistics.median(run["peak_mb"] for run in runs[side]) for side in ("ours", peer)}
        detail = f"{megabytes['ours']:.0f} against {megabytes[peer]:.0f} MB"
        name, _, key = PEERS[peer]
        goal = (case.memory_goal or None) if peer == "trl" else None
        ending = f"_{case.key}" if case is not CASES[0] else ""
        rows[f"{key}{ending}"] = row(f"peak memory, {case.title}, over {name}", detail, peaks, at_most=goal)
    return rows


def arithmetic(
    case: Case,
    ours: Sequence[Mapping[str, float]],
    before: Mapping[str, float],
    after: Mapping[str, float],
    setup: Setup,
) -> dict[str, Row]:
    """The share of a training spent on packing, and the share of the machine's matrix rate that it reaches."""
    shape = Shape(case.vocabulary)
    items = build_items(setup.folder / str(case.vocabulary) / "images", shape, setup.prompts(case))
    needed = training(shape, items, case.epochs)
    best = max(before["best_flops_per_s"], after["best_flops_per_s"])
    shares = [needed / run["seconds"] / best for run in ours]
    found = " and ".join(
        f"{rate['best_flops_per_s'] / 1e9:.0f} (median {rate['median_flops_per_s'] / 1e9:.0f})"
        for rate in (before, after)
    )
    reached = statistics.median(needed / run["seconds"] for run in ours) / 1e9
    detail = (
        f"{needed / 1e9 / len(items):.0f} GFLOP a pair (`flops.py`), {reached:.0f} GFLOP/s; best of many products of "
        f"2048² before and after: {found} GFLOP/s"
    )
    trees = [run["tree_seconds"] / run["seconds"] for run in ours]
    return {
        "tree_share": row("packing, trees and masks, of a training's time", "share", trees, unit="", at_most=0.02),
        "matrix_rate_share": row("needed arithmetic over a matrix product's", detail, shares, unit="", at_least=0.75),
    }


def sampling(setup: Setup) -> dict[str, Row]:
    """The ratio of our sampling speed to `generate`'s."""
    small = ("--prompts=4", "--repeats=1") if setup.quick else ()
    done = worker(setup, "sampling.py", f"--threads={setup.threads}", *small)
    values = [done[f"sampling_ratio{end}"] for end in ("_low", "", "_high")]
    detail = f"{done['ours_s']:.1f} against {done['generate_s']:.1f} s"
    title = "4 completions of 64 tokens a prompt, speed over `generate`"
    return {"sampling_ratio": row(title, detail, values, at_least=1.7)}


def growth(setup: Setup) -> dict[str, Row]:
    """The cost per pair with many pairs relative to the cost with a hundred."""
    many = 2_000 if setup.quick else 10_000
    build_model(setup.folder / "tiny" / "model", TINY)
    options = (f"--world={setup.folder / 'tiny'}", f"--threads={setup.threads}")
    few = [worker(setup, "growth_worker.py", *options, "--pairs=100") for _ in range(3)]
    lots = worker(setup, "growth_worker.py", *options, f"--pairs={many}")
    base = statistics.median(run["seconds"] / run["pairs"] for run in few)
    cost = lots["seconds"] / lots["pairs"]
    title, detail = (
        f"cost of a pair among {many:,} over among 100, tiny",
        f"{1e3 * cost:.1f} against {1e3 * base:.1f} ms",
    )
    return {"cost_growth": row(title, detail, [cost / base], at_most=1.1)}


def start(setup: Setup) -> dict[str, Row]:
    """What a start costs with many pairs of LLaVA's shape: memory, the first start's time, and a second start's."""
    few, many = (200, 1_000) if setup.quick else (10_000, 1_000_000)
    options = (f"--world={setup.folder / 'start'}", f"--threads={setup.threads}")
    runs = {
        count: [worker(setup, "start_worker.py", name, *options, f"--pairs={count}") for name in ("first", "second")]
        for count in (few, many)
    }
    (few_first, few_second), (first, second) = runs[few], runs[many]
    per_pair = [1e3 * run["tokenise_s"] / run["pairs"] for run in (few_first, first)]
    resident = (second["memory"] - few_second["memory"]) / (many - few)
    mapped = f"{few:,} to {many:,} pairs, {second['bytes_on_disk'] / many:.0f} bytes a pair in mapped files"
    peak, of = max(first["memory"], second["memory"]) / 1e9, f"among {many:,} pairs"
    first_detail = f"{first['tokenise_s']:.0f} s; a pair"
    growth_detail = f"{per_pair[1]:.2f} against {per_pair[0]:.2f} ms"
    return {
        "memory_bytes_per_pair": row(
            "own memory of a pair, its reference included", mapped, [resident], unit=" B", at_most=1024
        ),
        "start_memory_gb": row("peak of own memory above the model's at a start", of, [peak], unit=" GB", at_most=1.5),
        "first_start_ms": row(
            f"tokenising at the first start, {of}", first_detail, [per_pair[1]], unit=" ms", at_most=2
        ),
        "second_start_s": row(f"a later start, {of}", "to the first step", [second["start_s"]], unit=" s", at_most=30),
        "start_growth": row(
            f"tokenising a pair among {many:,} over among {few:,}",
            growth_detail,
            [per_pair[1] / per_pair[0]],
            at_most=1.1,
        ),
    }


def row(
    title: str,
    detail: str,
    values: Sequence[float],
    *,
    unit: str = "×",
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """A row without the data on commit, machine and versions."""
    return Row("", title, detail, tuple(values), unit, at_least, at_most)


def matrix_rate(setup: Setup) -> dict[str, float]:
    """The best and the median of many plain matrix products."""
    return worker(setup, "matrix_rate.py", f"--threads={setup.threads}")


def worker(setup: Setup, script: str, *arguments: str, python: str | None = None) -> dict[str, float]:
    """Run one of our scripts in a separate process, by default with this interpreter; it prints one JSON object."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}  # all figures are for the CPU
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **hidden}
    command = [python or sys.executable, str(HERE / script), *arguments]
    began, busy, own = time.perf_counter(), busy_seconds(), child_seconds()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    foreign = busy_seconds() - busy - (child_seconds() - own)
    setup.others.append(max(0.0, foreign / (time.perf_counter() - began) / (os.cpu_count() or 1)))
    values: dict[str, float] = json.loads(done.stdout[done.stdout.rindex("{") :])
    print(script, *arguments[:1], values, f"others {setup.others[-1]:.0%}", file=sys.stderr, flush=True)
    return values


def swift_versions(python: str | None) -> dict[str, str]:
    """Versions in ms-swift's environment; packages other than ms-swift are labelled as ms-swift's."""
    if python is None:
        return {}
    code = f"from importlib.metadata import version as v; print(*map(v, {SWIFT_PACKAGES!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    numbers = zip(SWIFT_PACKAGES, done.stdout.split(), strict=True)
    return {name if name == "ms-swift" else f"ms-swift's {name}": number for name, number in numbers}


def report(rows: Mapping[str, Row]) -> str:
    """The text of bench/RESULTS.md."""
    return markdown(rows, ABOUT.format(machines=machines(rows.values())))


ABOUT = """# What training and sampling cost

{machines}
**Everything here ran on a CPU; no figure comes from a GPU.** Medians (and ranges) of interleaved runs, each a process
of its own; made by `make bench` and `make bench-peers`. Rows may be measured at different times
(`bench/run.py --rows`), so each names its commit, and the rate of a plain fp32 matrix product (2048², best of many)
before and after it, and the largest share of the cores that other processes took during one of its runs.

The goals, in pairs a second over TRL: 2.8 (one epoch), 3.3 (two epochs), 9 (shared images), 6 (vocabulary 32,000); over
ms-swift: 2.1, 2.5 and 6.5 for the first three. The other comparisons of trainers have no goal.

A LLaVA-shaped random model (336 px, 576 image tokens, hidden 512 × 6 layers, vision 256 × 6), fp32, LoRA r 16 on the
language model's linear layers unless a row says otherwise; prompts of 20 words, completions of 30–150; 4 pairs a step.
TRL is its `DPOTrainer`, ms-swift `swift rlhf --rlhf_type dpo` with `use_logits_to_keep`, both with gradient
checkpointing off and one pair a forward pass, four accumulated: of 1, 2 and 4 pairs that was TRL's fastest here
(`train_worker.py trl --per-pass N`; docs/LOG.md). In such a pass chosen and rejected are two sequences, each with the
image and the prompt, padded to the longer of the two, and every step computes the reference again.

What is timed: ours from the files to the written adapter (loading the model, tokenising, the reference pass, the
first-batch check, training); the peers' `train()` alone, which processes images and tokenises as it goes, with model
and trainer made before. Memory is the peak above what the process held before: ours from the loaded model, theirs from
the trainer on.

- **Two questions an image, two rejected**: two prompts an image, each with one chosen and two rejected completions,
  which are two pairs for a peer. With `group_by_image`, which is off by default, ours draws the prompts on one image
  together; the peers have no such option.
- **feedback's defaults**: the recipe's `default_training` on both sides (DPO with β 0.1, r 128, α 256, dropout 0.05,
  the projector trained, three epochs), except that a step has 4 pairs, not 128. TRL trains the projector as
  `modules_to_save`, at the adapters' learning rate (5e-5; ours 2e-5), and with `disable_dropout=False`, as its default
  would switch the adapters' dropout off. TRL draws dropout for every sequence, ours once for what sequences share.
- **Starts** (`start_worker.py`): made-up pairs of LLaVA's shape (576 image tokens, 20 words, completions of 30–150),
  ten on an image of 1,000, a tiny model. The time goes until the first training step and includes reading all pairs; a
  later start finds tokens and reference log-probs on disk (which are made up, not computed). A process's own memory
  does not count pages of mapped files, which the system drops when memory is short.
- **bf16**: TRL as its users run it, the model loaded in bfloat16 and `bf16=True` (autocast); ours with `bf16=true`. On
  both sides frozen weights are bfloat16 and adapters fp32. The matrix rate beside the row is the fp32 one.
"""


if __name__ == "__main__":
    main()
