"""Check and time training on one GPU, in one command of at most 8 minutes; writes gpu.json and GPU.md.

    python bench/gpu.py --out DIR          # default: $OUT where it is set, else bench/
    python bench/gpu.py --tiny --out DIR   # every line on the CPU with tiny models, no figures

In this order, each result written to DIR/gpu.json as soon as it is known, so that a run that is cut gives figures too:
the machine and its bf16 matrix rate; whether the fast paths compute what plain transformers computes (`gpu_checks.py`);
then LLaVA-1.5-7B's shape with random bf16 weights, ours against TRL (`gpu_speed.py`), until the minutes are used up.

An environment, with a network (the pinned torch of the package index is the CUDA build):

    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]' && .venv/bin/python bench/gpu.py

Without one, on a machine whose Python (here 3.12) has PyTorch 2.6 or later with CUDA and its usual neighbours: fetch
wheels for that Python and processor elsewhere (36 MB), carry them with the repository, and unpack them beside:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp -c constraints.txt -d wheels \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -r bench/gpu_wheels.txt

    pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=site &&
        pip install --no-index --no-deps --no-build-isolation --upgrade --target site . && python3 bench/gpu.py

Where TRL is missing, ours is measured alone, and the table says so.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import card
from gpu_speed import SHAPES, Job, Way
from gpu_table import CASES, LIMIT_80_GB, Case, report
from llava_shape import build_folder
from machine import commit

HERE = Path(__file__).parent
RESERVE_S = 6.0
"""Seconds kept for writing the table."""
STEP = 8


@dataclass(frozen=True)
class Plan:
    """The size of everything.

    Args:
        shape: a name in `gpu_speed.SHAPES`.
        checks_s: seconds that the checks may take.
        case_s: seconds without which a side's measurement is not begun, and those it may take.
        measured_s: seconds that TRL's measured training should take.
        matrix: size and number of products.
        step: pairs per optimizer step.
        most_pairs: pairs per epoch at most.
        per_pass: pairs per forward pass that are tried with TRL.
    """

    shape: str
    checks_s: float
    case_s: tuple[float, float]
    measured_s: float
    matrix: tuple[int, int]
    step: int
    most_pairs: int
    per_pass: tuple[int, ...]


FULL = Plan("llava-7b", 140.0, (25.0, 100.0), 18.0, (8192, 60), STEP, 512, (1, 2, 4, 8))
TINY = Plan("tiny", 110.0, (1.0, 100.0), 0.0, (64, 3), 2, 4, (1, 2))


@dataclass
class Run:
    """What is known so far, and the time left."""

    plan: Plan
    out: Path
    seconds: float
    began: float = field(default_factory=time.monotonic)
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left for measuring."""
        return self.seconds - (time.monotonic() - self.began) - RESERVE_S

    def note(self, **more: Any) -> None:
        """Add results and write all."""
        self.found |= more
        card.write_json(self.out / "gpu.json", self.found)

    def skip(self, what: str, why: str) -> None:
        """Note what is missing, and why."""
        print(f"{what}: {why}", file=sys.stderr, flush=True)
        self.note(missing=[*self.found.get("missing", []), {"what": what, "why": why}])


@dataclass(frozen=True)
class Turn:
    """One process's time on the card.

    Args:
        command: script and arguments.
        seconds: without which it is not begun, and those it may take.
        line: what it is told when the card is free.
        keep: notes what it wrote, which may be a part where it was cut.
    """

    title: str
    command: tuple[str, ...]
    seconds: tuple[float, float]
    line: Callable[[], str]
    keep: Callable[[], None]


class Child:
    """A process that imports its libraries and waits for its turn."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self._log = folder / f"{time.monotonic_ns()}.log"
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        script, *arguments = command
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / script), *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                env=environment,
            )

    def finish(self, line: str, seconds: float) -> str:
        """Give it the card until it ends; "" or why it failed."""
        try:
            self._process.communicate(line + "\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            return f"cut after {seconds:.0f} s"
        if self._process.returncode == 0:
            return ""
        return "failed: " + " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])[-600:]

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU: no figures")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", HERE)))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--cases", default=",".join(case.key for case in CASES), help="the trainings to time")
    given = parser.parse_args(arguments)
    if not given.tiny and card.DEVICE != "cuda":
        parser.error("no GPU is visible to PyTorch; --tiny runs every line on the CPU")
    if unknown := set(given.cases.split(",")) - {case.key for case in CASES}:
        parser.error(f"--cases: no case '{min(unknown)}'; there are {', '.join(case.key for case in CASES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    run = Run(TINY if given.tiny else FULL, given.out, 60 * given.minutes)
    run.note(commit=commit(), tiny=given.tiny, minutes=given.minutes)
    with tempfile.TemporaryDirectory(prefix="pairsight-gpu-") as name:
        everything(run, Path(name), [case for case in CASES if case.key in given.cases.split(",")])
    run.note(seconds=round(time.monotonic() - run.began, 1))
    text = report(run.found)
    print(text)
    if not given.tiny:
        (run.out / "GPU.md").write_text(text)


def turns(run: Run, folder: Path, cases: Sequence[Case]) -> Iterator[Turn]:
    """All sections in their order."""
    size = [str(number) for number in run.plan.matrix]
    sides = ["trl", "ours"] if card.installed("trl") else ["ours"]
    if "trl" not in sides:
        run.skip("TRL", "it is not installed")

    def machine(when: str, out: Path) -> None:
        if found := read(out, {}):
            run.note(**{"machine": found["machine"], f"matrix_{when}": found["rate"]})

    before, after, checks = (folder / f"{name}.json" for name in ("before", "after", "checks"))
    yield Turn("machine", ("card.py", str(before), *size), (0.0, 60.0), str, lambda: machine("before", before))
    tiny = ["--tiny"] if run.found["tiny"] else []
    arguments = ("gpu_checks.py", f"--out={checks}", *tiny)
    limits = (0.0, run.plan.checks_s)
    yield Turn("checks", arguments, limits, str, lambda: run.note(checks=read(checks, [])))
    for case in cases:
        for side in sides:
            yield speed_turn(run, folder, case, side)
    yield Turn("machine again", ("card.py", str(after), *size), (2.0, 60.0), str, lambda: machine("after", after))


def speed_turn(run: Run, folder: Path, case: Case, side: str) -> Turn:
    """One side of one case."""
    out = folder / f"{case.key}-{side}.json"

    def keep() -> None:
        speed = run.found.get("speed", {})
        run.note(speed=speed | {case.key: speed.get(case.key, {}) | {side: read(out, {})}})

    def line() -> str:
        return json.dumps(asdict(job(run, folder, out, case, side)))

    return Turn(f"{case.key}, {side}", ("gpu_speed.py", side), run.plan.case_s, line, keep)


def everything(run: Run, folder: Path, cases: Sequence[Case]) -> None:
    """Take all turns, the process of the next one importing its libraries meanwhile."""
    build_folder(folder / "model", SHAPES[run.plan.shape])
    all_turns = list(turns(run, folder, cases))
    ready = Child(folder, all_turns[0].command)
    for number, turn in enumerate(all_turns):
        child = ready
        if number + 1 < len(all_turns):
            ready = Child(folder, all_turns[number + 1].command)
        if run.left < turn.seconds[0]:
            child.stop()
            run.skip(turn.title, f"{max(0.0, run.left):.0f} of {run.seconds:.0f} s left")
            continue
        began = time.monotonic()
        failure = child.finish(turn.line(), min(turn.seconds[1], run.left))
        turn.keep()
        run.note(took=run.found.get("took", {}) | {turn.title: round(time.monotonic() - began, 1)})
        if failure:
            run.skip(turn.title, failure)


def job(run: Run, folder: Path, out: Path, case: Case, side: str) -> Job:
    """What a side measures, given what was measured before."""
    plan, speed = run.plan, run.found.get("speed", {})
    theirs = speed.get(case.key, {}).get("trl", {})
    best = next((found["trl"]["way"] for found in speed.values() if "way" in found.get("trl", {})), None)
    search = best is None if side == "trl" else case is CASES[0]
    if best is not None:
        ways = fallbacks(Way(**theirs.get("way", best)))
    else:
        ways = tuple(Way(n) for n in plan.per_pass)
        ways += tuple(Way(plan.per_pass[-1], "flash_attention_2") for _ in [0] if card.installed("flash-attn"))
        ways += tuple(Way(n, checkpointing=True) for n in plan.per_pass)
    return Job(
        world=str(folder),
        out=str(out),
        shape=plan.shape,
        epochs=case.epochs,
        questions=case.questions,
        rejected=case.rejected,
        rank=case.rank,
        projector=case.projector,
        step=plan.step,
        pairs=theirs.get("pairs", 0),
        most_pairs=plan.most_pairs,
        seconds=plan.measured_s,
        ways=ways,
        search=search,
        limit_bytes=LIMIT_80_GB if case.limited and side == "ours" else 0,
    )


def fallbacks(best: Way) -> tuple[Way, ...]:
    """The fastest way of an earlier case, then with fewer pairs in a pass, then with activations recomputed."""
    sizes = [best.per_pass >> shift for shift in range(best.per_pass.bit_length())]
    kept = tuple(Way(size, best.attention, best.checkpointing) for size in sizes)
    return (*kept, Way(best.per_pass, best.attention, True))


def read(path: Path, otherwise: Any) -> Any:
    """What a process has written so far."""
    return json.loads(path.read_text()) if path.is_file() else otherwise


if __name__ == "__main__":
    main()
