"""Flags come from the options' classes: each declared flag is there, says what the class says, and is read back."""

import shlex
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from pydantic import Field

from pairsight.cli import flags
from pairsight.cli.main import app
from pairsight.config import BaseConfig, Option, option_facts
from pairsight.errors import ConfigError
from pairsight.options import AlignOptions, BuildOptions, EvaluateOptions, ScoreOptions
from pairsight.recipes.synthetic.recipe import Synthetic
from pairsight.training.config import TrainingConfig

CLASSES = {
    "build": (BuildOptions, Synthetic),
    "align": (AlignOptions, TrainingConfig),
    "evaluate": (EvaluateOptions,),
    "score": (ScoreOptions,),
}
BESIDE = {
    "build": {"--update", "--plugin", "--config", "--set", "--quiet"},
    "align": {"--plugin", "--config", "--set", "--quiet", "--dry-run", "--memory", "--rate"},
    "evaluate": {"--plugin", "--config", "--set", "--quiet"},
    "score": {"--plugin", "--config", "--set"},
}
EVERYDAY = {
    "build": "model prompts images out annotator writer completions distorted question sources questions-per-dialogue "
    "per-source limit seed engine workers on-error keep-loaded format profile chat-template",
    "align": "model adapter out loss strategy name merge devices learning-rate beta limit seed format profile "
    "chat-template columns images on-error allow-download",
    "evaluate": "model adapter benchmark images out name export-official parser on-error temperature limit seed engine "
    "workers profile chat-template judge",
    "score": "answers out benchmark model parser seed judge verdicts",
}
"""The flags, written out by hand."""


class Example(BaseConfig):
    """One option of every kind that a flag can have."""

    data: Annotated[str, Option(argument="DATA", path=True)] = Field(description="what is read")
    one: Annotated[str | tuple[str, ...], Option("--one")] = Field("x", description="one, or several")
    many: Annotated[tuple[str, ...], Option("--many")] = Field((), description="several")
    named: Annotated[dict[str, str], Option("--pair", value="NAME=PATH")] = Field({}, description="by name")
    number: Annotated[int | None, Option("--number")] = Field(None, description="a number")
    rate: Annotated[float, Option("--rate")] = Field(0.5, description="a rate")
    yes: Annotated[bool, Option("--yes")] = Field(False, description="yes")
    folder: Annotated[str | None, Option("--folder", path=True)] = Field(None, description="a folder")
    hidden: int = Field(3, description="not a flag")


@pytest.fixture
def call():
    """Calls a command made from `Example`, and returns what its body was given."""
    seen = []

    def body(values, loud: Annotated[bool, typer.Option("--loud")] = False):
        """Say it."""
        seen.append((dict(values), loud))

    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    flags.add_verb(one, body, f"{__name__}:Example")

    def run(*words: str):
        one(args=list(words), standalone_mode=False)
        return seen.pop()

    return run


def test_what_is_given_reaches_the_body_by_the_options_names(call):
    assert call("a/") == ({"data": "a"}, False)
    given = shlex.split("a --one p --many q --pair n=f --pair m=g --number 3 --rate 0.25 --yes --folder ./b/ --loud")
    assert call(*given) == (
        {
            "data": "a", "one": "p", "many": ["q"], "named": {"n": "f", "m": "g"}, "number": 3, "rate": 0.25,
            "yes": True, "folder": "b",
        },
        True,
    )  # fmt: skip
    assert call(*["a", "--one", "p", "--one", "q", "--many", "r", "--many", "s", "--set", "hidden=4"]) == (
        {"data": "a", "one": ["p", "q"], "many": ["r", "s"], "hidden": 4},
        False,
    )


def test_a_pair_without_a_path_and_a_name_twice_are_refused(call):
    with pytest.raises(ConfigError, match="--pair 'n' must be NAME=PATH"):
        call("a", "--pair", "n")
    with pytest.raises(ConfigError, match="--pair names 'n' twice"):
        call("a", "--pair", "n=f", "--pair", "n=g")


@pytest.mark.parametrize("verb", CLASSES)
def test_a_verb_has_the_flags_that_its_classes_declare_with_their_words(verb):
    command = typer.main.get_command(app).commands[verb]
    declared = {}
    for cls in CLASSES[verb]:
        for name, facts in option_facts(cls).items():
            if facts.flag:
                declared.setdefault(facts.flag, cls.model_fields[name].description)
    shown = {one.opts[-1]: one.help for one in command.params if one.param_type_name == "option"}
    assert {flag: shown[flag] for flag in declared} == declared
    assert shown.keys() - declared.keys() == BESIDE[verb]
    assert set(declared) == {f"--{flag}" for flag in EVERYDAY[verb].split()}


def test_the_list_of_verbs_is_light():
    code = (
        "import sys; from pairsight.cli.main import main; main(['--help']);"
        "print([m for m in ('pydantic', 'httpx', 'torch', 'numpy', 'pairsight.options') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
