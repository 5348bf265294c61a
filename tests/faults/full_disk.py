"""Verbs on a small file system with little room left, then again with room: one JSON line a case.

A program, because it mounts a file system in its own name space: `unshare -rm python full_disk.py MOUNT WORLD VERB
KIB...` runs the verb with so many KiB free, and each time once more without the filler. It forks after the imports.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

from pairsight.cli.main import main

ROOM_KIB = 128 << 10
BUILD = "build seva --model {world}/model --prompts {world}/prompts.json --images {world}/images --limit 8 --quiet"
ALIGN = "align {run} --model {world}/model --quiet --set max_steps=4 --set save_steps=1"
VERBS = {
    "build": (f"{BUILD} --out {{run}}", ()),
    "align": (ALIGN, ("build",)),
    "align with tensorboard": (f"{ALIGN} --set report_to=[tensorboard]", ("build",)),
    "align full": (f"{ALIGN} --set tuning=full --set save_total_limit=1", ("build",)),
    "align and merge": (f"{ALIGN} --merge", ("build",)),
    "merge": (f"{ALIGN} --merge", ("build", "align")),
    "evaluate": (
        "evaluate {run} --model {world}/model --benchmark pope={world}/pope.jsonl --images {world}/images --limit 6 "
        "--quiet",
        ("build", "align"),
    ),
    "report": ("report {run}", ("build", "align")),
    "inspect": ("inspect {run}", ("build",)),
    "tiny": ("tiny --out {run} --scenes 3", ()),
    "demo": ("demo --out {run} --system seva --quiet", ()),
}
"""Verb -> its command, and what has been done before, with room."""


def call(command: str) -> tuple[int, str]:
    """A command's status and what it says on standard error, in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 2)  # also what threads and libraries write
        os.close(reading)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main(command.split())
            except BaseException:  # noqa: BLE001 - told as it is
                traceback.print_exc()
                status = 99
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def fill(mount: Path, free_kib: int) -> Path:
    """A file that leaves only so much room."""
    filler = mount / "filler"
    left = os.statvfs(mount)
    filler.write_bytes(bytes(max(0, left.f_bavail * left.f_frsize - (free_kib << 10))))
    return filler


def run(mount: Path, world: Path, verb: str, sizes: list[int]) -> None:
    """Try a verb at each size; prints what came of it, and of the same command once there is room."""
    command, before = VERBS[verb]
    folder = mount / "run"
    for name in before:
        status, said = call(VERBS[name][0].format(run=folder, world=world))
        assert status == 0, said
    seed = mount / "seed"
    shutil.copytree(folder, seed) if before else seed.mkdir()
    for size in sizes:
        shutil.rmtree(folder, ignore_errors=True)
        if before:
            shutil.copytree(seed, folder)
        filler = fill(mount, size)
        full = call(command.format(run=folder, world=world))
        filler.unlink()
        again = call(command.format(run=folder, world=world))
        print(json.dumps({"verb": verb, "free_kib": size, "full": full, "again": again}), flush=True)


if __name__ == "__main__":
    there = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_KIB}k", "tmpfs", str(there)], check=True)
    run(there, Path(sys.argv[2]), sys.argv[3], [int(size) for size in sys.argv[4:]])
