"""The device that the processes of `gpu.py` run on: what it is, how fast a matrix product is, and its memory.

`python bench/card.py FILE SIZE REPEATS` writes what it is, and the rate of bf16 products of SIZE². Without a card all
functions use the CPU, so that every line runs there too.
"""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from matrix_rate import product_rates

PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "trl", "datasets", "flash-attn", "pairsight")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_SYNCHRONISING = "called a synchronizing CUDA operation"


def main(arguments: Sequence[str], line: str) -> None:
    path, size, repeats = arguments
    write_json(Path(path), {"machine": facts(), "rate": matrix_rate(int(size), int(repeats))})


def wait_for_turn() -> str:
    """The line that says that the card is free now; processes are started before that, to import their libraries."""
    return "" if sys.stdin.isatty() else sys.stdin.readline().strip()


def write_json(path: Path, value: Any) -> None:
    """Write a file so that a reader, or a run that was cut, never finds half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    draft.replace(path)


def facts() -> dict[str, Any]:
    """Card, driver, memory, processor and versions."""
    found: dict[str, Any] = {"device": DEVICE, "python": platform.python_version(), "cores": os.cpu_count()}
    if DEVICE == "cuda":
        free, total = torch.cuda.mem_get_info()
        about = torch.cuda.get_device_properties(0)
        found |= {"card": about.name, "capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda}
        found |= {"driver": driver(), "free_gb": free / 1e9, "total_gb": total / 1e9}
        found |= {"multiprocessors": about.multi_processor_count}
    return found | {"versions": {name: number for name in PACKAGES if (number := installed(name))}}


def installed(package: str) -> str:
    """The version of a package; "" where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def driver() -> str:
    """The driver's version by `nvidia-smi`."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else "unknown"


def matrix_rate(size: int, repeats: int) -> dict[str, float]:
    """Best and median rate of bf16 products, in operations per second."""
    rates = product_rates(torch.bfloat16, size, repeats, DEVICE)
    return {"best_flops_per_s": max(rates), "median_flops_per_s": statistics.median(rates), "size": size}


def synchronize() -> None:
    """Wait until the device has done all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def release() -> None:
    """Give back what dropped objects held on a card."""
    if DEVICE == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def held_bytes() -> int:
    """Bytes of all live tensors on the device."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch._C._cuda_clearCublasWorkspaces()
        return torch.cuda.memory_allocated()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules answer with a warning when they are asked what they are
        tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def mark_peak() -> None:
    """From here on `peak_bytes` counts."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most bytes that tensors took since `mark_peak`; on a CPU the process's memory."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def limit_memory(num_bytes: int) -> None:
    """Let this process use no more of a larger card."""
    if DEVICE == "cuda" and (total := torch.cuda.mem_get_info()[1]) > num_bytes:
        torch.cuda.set_per_process_memory_fraction(num_bytes / total)


@contextmanager
def synchronisations() -> Iterator[Counter[str]]:
    """Count, by line of code, the operations inside that make the CPU wait for the card: `file:line`."""
    found: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if DEVICE == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    found.update(f"{one.filename}:{one.lineno}" for one in caught if _SYNCHRONISING in str(one.message))


if __name__ == "__main__":
    main(sys.argv[1:], wait_for_turn())
