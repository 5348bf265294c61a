"""Locks on network file systems: other hosts are kept out, and told in words; killed processes of this host are not."""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from pairsight.errors import LockedError, RunError
from pairsight.store import lock
from pairsight.store.lock import exclusive_lock, folder_lock, network_type
from pairsight.store.run_folder import RunFolder
from pairsight.store.status import run_status

OTHER = {"host": "node7", "boot": "another boot", "machine": "another machine", "pid": 4711}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is on NFS, as far as this process can see."""
    mounts = tmp_path / "mounts"
    folder = tmp_path / "on nfs"
    folder.mkdir()
    exported = str(folder.resolve()).replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/export {exported} nfs4 rw,vers=4.2 0 0\n")
    monkeypatch.setattr(lock, "MOUNTS", mounts)
    return folder


def test_the_innermost_mount_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(lock, "MOUNTS", mounts)
    lines = [
        "/dev/vda / ext4 rw 0 0",
        "server:/a /net nfs4 rw 0 0",
        "server:/a /netting nfs rw 0 0",
        "tmpfs /net/scratch tmpfs rw 0 0",
        "me@there:/ /net/far fuse.sshfs rw 0 0",
        "overlay /net/box fuse.fuse-overlayfs rw 0 0",
        "//nas/share /mnt/a\\040share cifs rw 0 0",
        "server:/b /twice nfs rw 0 0",
        "/dev/vdb /twice xfs rw 0 0",
    ]
    mounts.write_text("\n".join([*lines, "", "broken"]))
    types = {
        "/": "", "/home/me/run": "", "/net": "nfs4", "/net/run": "nfs4", "/netting/run": "nfs", "/nets": "",
        "/net/scratch/run": "", "/net/far/run": "fuse.sshfs", "/net/box/run": "", "/mnt/a share/run": "cifs",
        "/twice/run": "",
    }  # fmt: skip
    assert {path: network_type(Path(path)) for path in types} == types
    mounts.unlink()
    assert network_type(Path("/net")) == ""


def test_a_local_lock_needs_no_claim(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "build", "build"), folder_lock(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["build"]


def test_a_claim_says_who_holds_it_and_goes_with_the_lock(network: Path) -> None:
    with exclusive_lock(network / "build", "build"):
        note = json.loads((network / "build.host").read_text())
        assert note["pid"] == os.getpid()
        assert note["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert note["host"]
        assert int(note["started"]) > 0
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"), exclusive_lock(network / "build", "build"):
            pass
    assert not (network / "build.host").exists()


@pytest.mark.parametrize("note", [json.dumps(OTHER), "", "{", "[]"])
def test_another_hosts_claim_is_refused_with_what_to_do(network: Path, note: str) -> None:
    (network / "build.host").write_text(note)
    with pytest.raises(LockedError) as error, exclusive_lock(network / "build", "build of first"):
        pass
    assert "build of first: process" in str(error.value)
    assert "on a network file system (nfs4)" in str(error.value)
    assert f"remove {network / 'build.host'} if that process has ended" in str(error.value)
    (network / "build.host").unlink()
    with exclusive_lock(network / "build", "build of first"):
        pass


def test_what_a_killed_process_of_this_host_left_is_taken_over(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (network / "build.host").write_text(json.dumps({**OTHER, "boot": boot}))
    with exclusive_lock(network / "build", "build"):
        assert json.loads((network / "build.host").read_text())["pid"] == os.getpid()
    here = {"host": "node1", "boot": "after", "machine": "m1"}
    monkeypatch.setattr(lock, "_this_host", lambda: here)
    (network / "build.host").write_text(json.dumps({**OTHER, **here, "boot": "before the restart"}))
    with exclusive_lock(network / "build", "build"):
        pass
    (network / "build.host").write_text(json.dumps({**OTHER, **here, "boot": "before", "machine": "its clone"}))
    with pytest.raises(LockedError), exclusive_lock(network / "build", "build"):
        pass


def test_a_folder_on_a_network_is_locked_through_a_file_and_waits_for_other_hosts(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = network / ".folder-lock.host"
    with folder_lock(network):
        assert claim.exists()
    claim.write_text(json.dumps(OTHER))
    timer = threading.Timer(0.2, claim.unlink)
    timer.start()
    with folder_lock(network):
        assert json.loads(claim.read_text())["pid"] == os.getpid()
    timer.join()
    claim.write_text(json.dumps(OTHER))
    monkeypatch.setattr(lock, "SECONDS_FOR_ANOTHER_HOST", 0.0)
    with pytest.raises(LockedError, match="process 4711 on host node7"), folder_lock(network):
        pass


def test_a_run_on_a_network_works_and_is_not_read_while_another_host_writes_it(network: Path) -> None:
    run = RunFolder.create(network / "run", {})
    with run.lock("build"), run.ledger():
        assert run_status(run.path).running == {"build": os.getpid()}
    (run.path / ".locks" / "build.host").write_text(json.dumps(OTHER))
    with pytest.raises(LockedError, match=r"is written by process 4711 on host node7, .*: read it there, or remove"):
        run_status(run.path)
    with pytest.raises(LockedError, match="process 4711 on host node7"), run.lock("build"):
        pass


def test_a_file_system_without_locks_is_one_clear_error(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"cannot lock .*No locks available; .*put the run on a local disk"):
        RunFolder.create(network / "run", {})
    with (
        pytest.raises(RunError, match=r"network file system \(nfs4\) without locks"),
        exclusive_lock(network / "build", "build"),
    ):
        pass
