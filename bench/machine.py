"""On what a figure was measured: the code's commit, the machine, and how busy it was."""

import os
import platform
import resource
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def busy_seconds() -> float:
    """Seconds for which all cores together were busy, including time taken by the host."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")


def child_seconds() -> float:
    """CPU seconds of our finished processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commit() -> str:
    """The commit of the measured code; changes to documents and to this script's output do not make it dirty."""
    code = ("src", "bench/*.py", "constraints.txt", "pyproject.toml")
    described = ["git", "describe", "--always"]
    changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", *code]
    name, dirty = (
        subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False).stdout.strip()
        for command in (described, changed)
    )
    return f"{name}-dirty" if dirty else name


def machine(threads: int) -> str:
    """Processor, cores and threads."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.machine()
    return f"{processor}, {os.cpu_count()} cores, {threads} threads, Python {platform.python_version()}"
