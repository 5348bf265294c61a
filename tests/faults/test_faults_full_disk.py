"""Every verb on a file system without room: one line that says so, and with room the same command finishes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import full_disk
import pytest

from pairsight.tiny.world.world_files import write_world

SIZES = {
    "build": (0, 100),
    "evaluate": (0, 40),
    "tiny": (0, 40, 2000),
    "report": (0, 40),
    "inspect": (0, 8),
    "demo": (0, 14_000, 44_000),
}
"""KiB left; a training needs some thousands, the demo 12,000 for its world and 60,000 in all."""


def may_mount(folder: Path) -> bool:
    """Whether a file system can be mounted in a name space of one's own, as not everywhere."""
    if shutil.which("unshare") is None:
        return False
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def without_notes(said: str) -> str:
    """What a verb says beside what a merge says of its rounding."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("rounded to the base's "))


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=() if verb == "build" else pytest.mark.long) for verb in full_disk.VERBS]
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(verb: str, tmp_path: Path) -> None:
    mount, world = tmp_path / "mount", tmp_path / "world"
    mount.mkdir()
    if not may_mount(mount):
        pytest.skip("no file system can be mounted here")
    write_world(world, scenes=12)
    sizes = SIZES.get(verb, (0, 40, 200, 700, 1500, 4000))
    words = ["unshare", "-rm", sys.executable, full_disk.__file__, mount, world, verb, *sizes]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [case["free_kib"] for case in cases] == list(sizes), done.stderr
    for case in cases:
        status, said = case["full"][0], without_notes(case["full"][1])
        if status:
            assert status == 1, case
            assert said.startswith("error: ") and said.count("\n") == 1, case
            assert "space" in said or "full" in said, case
        else:
            assert said == "", case
        assert (case["again"][0], without_notes(case["again"][1])) == (0, ""), case
    assert cases[0]["full"][0] == 1
