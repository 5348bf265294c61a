"""Calls on a run folder that a stranger may have made, and what lies beside it; the run itself is in conftest.py."""

import shlex
from pathlib import Path

from pairsight.cli import main

VERBS = {
    "report": "report {run}",
    "inspect": "inspect {run}",
    "status": "status {run} --verify",
    "retry": "retry {run}",
    "salvage": "salvage {run}",
    "align": "align {run} --model {model} --name stranger --limit 2 --set max_steps=1 --quiet",
    "align again": "align {run} --model {model} --name dpo --set max_steps=2 --set save_steps=1 --quiet",
    "evaluate": "evaluate {run} --model {model} --benchmark pope={world}/pope.jsonl --images {world}/images --limit 1 "
    "--quiet",
    "build": "build seva --model {model} --prompts {world}/prompts.json --images {world}/images --limit 6 --out {run} "
    "--quiet",
    "study": "study strategies --run {run} --set rate_factors=[1.0] --set model={model} "
    "--set 'benchmarks={{pope: {world}/pope.jsonl}}' "
    "--set 'validation={{pope: {world}/pope.jsonl}}' --set choose_by=pope.accuracy --quiet",
}
CHEAP = ("report", "inspect", "status", "retry", "salvage")
"""The verbs that load no model: these are tried on everything."""


def call(verb: str, run: Path, world: Path, *more: str) -> int:
    words = shlex.split(VERBS[verb].format(run=run, model=world / "model", world=world))
    return main([*words, *more])


def outside(run: Path) -> dict[str, bytes]:
    """Everything beside the run, byte by byte."""
    return {
        str(path): path.read_bytes()
        for path in run.parents[1].rglob("*")
        if path.is_file() and run not in path.parents and not path.is_symlink()
    }
