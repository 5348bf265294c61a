"""Bytes of a ledger that change on disk: a clear error or the right results, never wrong ones, and a way to go on."""

import random
import shutil
from pathlib import Path

import pytest
from small_build import Shout

from pairsight.engine.runner import Runner
from pairsight.errors import RunError
from pairsight.records import ImageRef, ItemError
from pairsight.store.ledger import Ledger
from pairsight.store.repair import salvage_run
from pairsight.store.run_folder import RunFolder
from pairsight.store.verify import verify_run

WORDS = [f"word{i}" for i in range(120)]


def results(run: RunFolder, notes: Path) -> list[object]:
    with run.lock("build"), Ledger(run.path / "ledger.sqlite") as ledger:
        return list(Runner(ledger)(Shout("!", "shout", notes, batch_size=40), WORDS))


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_byte_never_gives_a_wrong_result(tmp_path: Path, seed: int, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    file = run.path / "ledger.sqlite"
    data = bytearray(file.read_bytes())
    drawn = random.Random(seed)
    data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    file.write_bytes(data)
    expected = [ItemError("three") if word == "word3" else ImageRef(word + "!") for word in WORDS]
    verify_run(run.path)
    try:
        assert results(run, tmp_path / "notes") == expected
    except RunError as error:
        assert "\n" not in str(error)
        try:
            salvage_run(run.path)
        except RunError as gone:
            assert "nothing can be read" in str(gone) or "upgrade" in str(gone)
        else:
            assert results(run, tmp_path / "notes") == expected
            assert verify_run(run.path).problems == ()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run = RunFolder.create(folder / "run", {})
    results(run, folder / "notes")
    return run.path
