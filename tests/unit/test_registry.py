"""A user's own piece that is of another kind is refused in one line that says what is expected."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pairsight import registry
from pairsight.cli.main import main
from pairsight.errors import ConfigError

PIECES = """
from typing import ClassVar

from pairsight.config import BaseConfig
from pairsight.models.scorers.base import Scorer
from pairsight.recipes.recipe import Recipe
from pairsight.selection.strategy import Strategy
from pairsight.training.loss_grid import LossInputs, LossOutputs, loss


def plain(x):
    return x


class Bare:
    pass


class Unfinished(Strategy):
    name: ClassVar[str] = "unfinished"


class HalfRecipe(Recipe):
    name: ClassVar[str] = "half"


class Options(BaseConfig):
    name: ClassVar[str] = "options"


class HalfScorer(Scorer):
    pass


@loss(reference=False)
def mine(x: LossInputs, *, scale: float = 1.0) -> LossOutputs:
    return LossOutputs(-scale * x.policy_logps_BNK[:, 0, 0], x.policy_logps_BNK[:, 0])
"""


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    file = tmp_path / "pieces.py"
    file.write_text(PIECES)
    return file


@pytest.mark.parametrize(
    ("table", "attribute", "message"),
    [
        ("losses", "plain", "is a function without spec; it must be a function marked with @loss"),
        ("strategies", "plain", "is a function; it must be a class derived from .*Strategy"),
        ("strategies", "Bare", "is the class Bare; it must be a class derived from .*Strategy"),
        ("strategies", "Unfinished", "is the class Unfinished without __call__"),
        ("recipes", "plain", "is a function; it must be a class derived from .*Recipe"),
        ("recipes", "Options", "is the class Options; it must be a class derived from .*Recipe"),
        ("recipes", "HalfRecipe", "without default_strategy, default_training, candidates; it must be"),
        ("studies", "plain", "is a function; it must be a class derived from .*Study, with results"),
        ("scorers", "plain", "is a function; it must be a class derived from .*Scorer"),
        ("scorers", "HalfScorer", "is the class HalfScorer without score; it must be"),
        ("benchmarks", "plain", "is a function; it must be a class derived from .*Benchmark"),
        ("formats", "plain", "is a function; it must be a class derived from .*RowFormat"),
        ("losses", "absent", "pieces.py defines no 'absent'"),
    ],
)
def test_a_piece_of_another_kind_says_what_is_expected(pieces: Path, table, attribute, message):
    with registry.plugins(pieces), pytest.raises(ConfigError, match=message):
        getattr(registry, table).get(f"{pieces}:{attribute}")


def test_code_is_loaded_only_from_files_that_this_call_names(pieces: Path, tmp_path: Path):
    name = f"{pieces}:mine"
    refused = re.escape(f"loss '{name}' is code, and only a file names it, not this command; if you trust it, add ")
    for words in ([], [tmp_path / "other.py"], [f"see {pieces}:mine"], [{"loss": 3}], [None], ["\0.py"]):
        with registry.plugins(*words), pytest.raises(ConfigError, match=f"{refused}--plugin {pieces}"):
            registry.losses.get(name)
    for words in ([pieces], [name], [{"loss": ["dpo", name]}], [{name: "pope.jsonl"}], [str(pieces)]):
        with registry.plugins(*words):
            assert registry.losses.get(name).__name__ == "mine"
    with pytest.raises(ConfigError, match=refused):
        registry.losses.get(name)
    with pytest.raises(ConfigError, match="is code"):
        registry.losses.get("a\0b.py:x")


def test_a_marked_loss_from_a_file_works(pieces: Path):
    with registry.plugins(pieces):
        assert not registry.losses.get(f"{pieces}:mine").spec.reference


@pytest.mark.parametrize("text", ["def broken(:\n", "import nothing_of_this_name\n", "1 / 0\n"])
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "bad.py").write_text(text)
    with registry.plugins(tmp_path / "bad.py"), pytest.raises(ConfigError, match="cannot be imported") as raised:
        registry.losses.get(f"{tmp_path / 'bad.py'}:f")
    assert "\n" not in str(raised.value)


def test_a_loss_is_called_as_its_function_and_nothing_else(pieces: Path):
    pieces.write_text(PIECES.replace("@loss(", '@loss("other", '))
    with registry.plugins(pieces), pytest.raises(ConfigError, match="@loss takes no name, found 'other'"):
        registry.losses.get(f"{pieces}:mine")


def test_the_built_in_losses():
    assert registry.losses.names() == [
        "bradley_terry", "cdpo", "dpo", "hinge", "ipo", "kto", "mdpo", "mpo", "multi_negative", "orpo", "robust", "sft",
        "simpo", "vision_contrast",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="unknown loss 'dpp'; did you mean 'dpo'"):
        registry.losses.get("dpp")
    with pytest.raises(ConfigError, match=r"loss 'dpo' is already registered as pairsight\.training\.losses:dpo"):
        registry.losses.add("dpo", "mine:dpo")


@pytest.mark.parametrize("words", [["--help"], ["align", "--help"]])
def test_help_does_not_import_torch(words: list[str]):
    code = f"import sys; from pairsight.cli.main import main; main({words}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("name", "plain"), [("dpo", "dpo"), ("mine.py:f", "f"), ("/a b/mine.py:f", "f"), ("../x/mine.py:Mine", "Mine")]
)
def test_a_piece_from_a_file_is_called_by_its_attribute(name: str, plain: str):
    assert registry.plain_name(name) == plain


def test_a_worker_takes_pieces_from_the_files_it_was_told_to_load(pieces: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_OF_A_WORKER", set())
    registry.load_files([pieces])
    assert registry.losses.get(f"{pieces}:mine").__name__ == "mine"
    with pytest.raises(ConfigError, match="is code"):
        registry.losses.get(f"{pieces.with_name('other.py')}:mine")


def test_an_entry_point_that_names_nothing_is_refused():
    table = registry.Registry("loss", {"gone": "pairsight.training.losses:gone"})
    with pytest.raises(ConfigError, match=r"loss 'gone': pairsight\.training\.losses defines no 'gone'"):
        table.get("gone")


def test_an_entry_point_whose_package_is_not_installed_is_refused():
    table = registry.Registry("loss", {"gone": "no_package_of_this_name.losses:gone"})
    with pytest.raises(ConfigError, match=r"loss 'gone': no_package_of_this_name\.losses cannot be imported"):
        table.get("gone")


@pytest.mark.parametrize("verb", ["build", "align", "align --strategy"])
def test_no_verb_answers_a_plain_function_with_a_traceback(pieces: Path, capsys, verb: str):
    piece = f"{pieces}:plain"
    rest = ["--model", "m", "--out", str(pieces.parent / "o")]
    given = {
        "build": ["build", piece],
        "align": ["align", "d.parquet", "--loss", piece],
        "align --strategy": ["align", "d.parquet", "--strategy", piece],
    }
    assert main([*given[verb], *rest]) == 1
    error = capsys.readouterr().err
    assert "it must be" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("table", ["recipes", "strategies", "scorers", "benchmarks", "losses", "studies", "formats"])
def test_what_is_built_in_is_of_its_kind(table: str):
    known = getattr(registry, table)
    assert known.names()
    for name in known.names():
        known.get(name)
