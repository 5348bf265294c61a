"""Measure the engines and write bench/ENGINES.md and bench/engines.json: items per second, memory, start of long runs.

The model does nothing; every item is planned, keyed by SHA-256, processed, encoded and committed with
`synchronous=FULL`, as in a real run. `--quick` uses fewer items. Each measurement is a separate process; the machine
must be otherwise idle.
"""

import argparse
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pairsight.engine.runner import Runner, open_engine
from pairsight.engine.stage import Json, Resources
from pairsight.records import Completion
from pairsight.store.ledger import Ledger

TEXT = "A small red cube stands to the left of a blue ball; both cast a shadow to the right. " * 2
IMAGE = "ab" * 32
COMPARED = 100_000
"""The number of items with which engines are compared."""
ENGINES = ("local", "processes", "ray")
HERE = Path(__file__).parent
STEPS = ("read_prompts_s", "identity_s", "images_s", "planning_s")


@dataclass(frozen=True)
class NoOp:
    """Completions of 170 characters at no cost, with keys like those of a generation."""

    batch_size: int = 64
    name: str = "no-op"
    version: int = 1
    output: type[Completion] = Completion
    resources: Resources = field(default_factory=Resources)

    def key(self, item: int) -> Mapping[str, Json]:
        sampling = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": 512}
        prompt = [["user", f"What is to be seen in picture {item}?", [IMAGE]]]
        return {"model": f"sha256:{IMAGE}", "prompt": prompt, "sampling": sampling, "sample_index": 0, "seed": item}

    def item_id(self, item: int) -> str:
        return f"prompt-{item}:0"

    def setup(self) -> None: ...

    def process(self, items: Sequence[int]) -> Iterator[Completion]:
        for item in items:
            yield Completion(f"prompt-{item}:0", f"prompt-{item}", TEXT, "stop", "m", item, 0)

    def close(self) -> None: ...


def measure(engine: str, workers: int, num_items: int, folder: Path) -> dict[str, Any]:
    """One run, in this process; the first items warm up the workers and are not timed."""
    warm, stage = 256, NoOp()
    with Ledger(folder / "ledger.sqlite") as ledger, open_engine(engine, workers) as running:
        with running.open(stage) as opened:
            runner = Runner(ledger, Warm(opened))
            runner(stage, range(warm))
            began = time.perf_counter()
            results = runner(stage, range(warm, warm + num_items))
            seconds = time.perf_counter() - began
        read_began = time.perf_counter()
        num_read = sum(1 for _ in results)
        read_s = time.perf_counter() - read_began
    with Ledger(folder / "ledger.sqlite") as ledger:
        began = time.perf_counter()
        runner = Runner(ledger)
        runner(stage, range(warm))
        assert len(runner(stage, range(warm, warm + num_items))) == num_read == num_items
        resume_s = time.perf_counter() - began
    return {
        "engine": engine,
        "workers": workers,
        "items": num_items,
        "items_per_s": num_items / seconds,
        "resumed_start_s": resume_s,
        "read_back_items_per_s": num_items / read_s,
        "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ledger_bytes_per_item": (folder / "ledger.sqlite").stat().st_size / num_items,
    }


class Warm:
    """An engine whose workers are already started, so that the start is not part of the rate."""

    def __init__(self, workers: Any) -> None:
        self._workers = workers

    def open(self, stage: Any) -> Any:
        return self

    def __enter__(self) -> Any:
        return self._workers

    def __exit__(self, *_: object) -> None: ...


def main() -> None:
    """Run all measurements, each in a new process, or the one given by `--one`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "WORKERS", "ITEMS"), help="measure in this process")
    parser.add_argument("--folder", help="folder for the ledgers; default: the working directory")
    parser.add_argument("--out", default=HERE, help="folder for the results")
    options = parser.parse_args()
    if options.one:
        engine, workers, items = options.one
        with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as folder:
            print(json.dumps(measure(engine, int(workers), int(items), Path(folder))))
        return
    began = time.perf_counter()
    repeats, sizes = (1, (10_000, COMPARED)) if options.quick else (3, (10_000, COMPARED, 1_000_000))
    plan = [("local", 1, size) for size in sizes if size != COMPARED]
    plan += [(engine, 1 if engine == "local" else 2, COMPARED) for engine in ENGINES] * repeats  # interleaved
    folder = ["--folder", options.folder] if options.folder else []
    found = [
        worker("engines.py", "--one", engine, str(workers), str(items), *folder) for engine, workers, items in plan
    ]
    resumed = worker("resumed_start.py", "--items", str(max(sizes)), *folder)
    content = {"machine": machine(repeats, time.perf_counter() - began), "engines": found, "resumed_build": resumed}
    out = Path(options.out)
    (out / "engines.json").write_text(json.dumps(content, indent=2) + "\n")
    (out / "ENGINES.md").write_text(report(content))
    print(report(content))


def worker(script: str, *arguments: str) -> dict[str, Any]:
    """Run one of our scripts in a separate process; it prints one JSON object."""
    done = subprocess.run([sys.executable, str(HERE / script), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    values: dict[str, Any] = json.loads(done.stdout[done.stdout.rindex("{") :])
    print(script, *arguments, values, file=sys.stderr, flush=True)
    return values


def report(content: dict[str, Any]) -> str:
    """The tables: engines at equal numbers of items (medians), one engine at increasing numbers, a resumed build."""
    about, found, resumed = content["machine"], content["engines"], content["resumed_build"]
    compared = {
        engine: [one["items_per_s"] for one in found if one["engine"] == engine and one["items"] == COMPARED]
        for engine in ENGINES
    }
    local = statistics.median(compared["local"])
    engines = [
        f"| {engine} | {statistics.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) "
        f"| {statistics.median(rates) / local:.2f} |"
        for engine, rates in compared.items()
    ]
    by_size: dict[int, list[dict[str, Any]]] = {}
    for one in found:
        if one["engine"] == "local":
            by_size.setdefault(one["items"], []).append(one)

    def middle(runs: list[dict[str, Any]], name: str) -> float:
        return statistics.median(one[name] for one in runs)

    sizes = [
        f"| {items:,} | {middle(runs, 'items_per_s'):,.0f} | {middle(runs, 'driver_peak_mb'):.0f} "
        f"| {middle(runs, 'ledger_bytes_per_item'):.0f} | {middle(runs, 'resumed_start_s'):.1f} "
        f"| {middle(runs, 'read_back_items_per_s'):,.0f} | {len(runs)} |"
        for items, runs in sorted(by_size.items())
    ]
    steps = ", ".join(f"{name.removesuffix('_s').replace('_', ' ')} {resumed[name]:.1f}" for name in STEPS)
    return f"""# What the ledger and the engines cost

{about["processor"]}, {about["cores"]} cores; Python {about["python"]}, SQLite {about["sqlite"]}, Ray {about["ray"]};
commit {about["commit"]}. Made by `make bench-engines` in {about["minutes"]} minutes, {about["repeats"]} interleaved
runs an engine.

A model that does nothing, completions of 170 characters, batches of 64, every batch committed durably.

| engine, {COMPARED:,} items | items/s, median (range) | of local |
|---|---|---|
{chr(10).join(engines)}

Goals: 3,000 items/s in this process, 0.7 of that through Ray. Processes and Ray have 2 workers.

| items, in this process | items/s | peak MB | ledger bytes an item | planning it again, s | read back, items/s | runs |
|---|---|---|---|---|---|---|
{chr(10).join(sizes)}

A finished build of {resumed["items"]:,} completions ({resumed["items"] // 4:,} prompts, {resumed["items"] // 8:,}
images) starts again in {resumed["start_s"]:.1f} s (seconds: {steps}), with {resumed["peak_mb"]:.0f} MB at its peak;
choosing pairs and writing all tables again takes {resumed["select_and_seal_s"]:.1f} s more. Goal: 15 s for 10⁶ items.
"""


def machine(repeats: int, seconds: float) -> dict[str, Any]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    git = ["git", "describe", "--always", "--dirty"]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "ray": version("ray"),
        "commit": subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip(),
        "repeats": repeats,
        "minutes": round(seconds / 60, 1),
    }


if __name__ == "__main__":
    main()
