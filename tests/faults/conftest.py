"""A finished run that a stranger may have changed, made once for all files of this folder."""

import shlex
import shutil
from pathlib import Path

import pytest
from strangers import VERBS

import run_folders
from pairsight.cli import main
from pairsight.tiny.world.world_files import write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "w"
    write_world(out, scenes=8)
    return out


@pytest.fixture(scope="session")
def template(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one adapter."""
    run = tmp_path_factory.mktemp("run") / "stranger"
    assert main(shlex.split(VERBS["build"].format(run=run, model=world / "model", world=world))) == 0
    align = f"align {run} --model {world}/model --name dpo --set max_steps=2 --set save_steps=1 --quiet"
    assert main(align.split()) == 0
    run_folders.write_results(run)
    return run


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "inside" / "run")
    return tmp_path / "inside" / "run"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A Python file with one piece of every kind, which leaves a file `ran` beside itself when it is loaded."""
    file = tmp_path / "stranger.py"
    file.write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).write_text('it ran')\n"
        "from pairsight.recipes.seva import SeVa\n"
        "from pairsight.selection.clean_over_distorted import CleanOverDistorted\n"
        "from pairsight.training.losses import dpo\n"
        "from pairsight.tiny.world.benchmark import TinyWorld\n"
        "class Recipe(SeVa):\n    name = 'mine'\n"
        "class Strategy(CleanOverDistorted):\n    name = 'mine'\n"
        "loss = dpo\nbenchmark = TinyWorld\n"
    )
    return file
