"""`pairsight study`: a study is runs, one table and one figure."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("study")(study)


def study(
    name: Annotated[str, typer.Argument(help="which study, or file.py:Class")],
    run: Annotated[Path | None, typer.Option("--run", help="the run it looks at, where it looks at one")] = None,
    out: flags.Out = None,
    plugin: flags.Plugin = None,
    config: flags.Config = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> None:
    """Run a study and print its tables; figures and numbers go to files."""
    from pairsight.registry import studies

    flags.trust(plugin, name)
    chosen = studies.get(name)
    for result in chosen.parse(flags.merge(config, settings, {"run": run, "out": out}), name).results(quiet=quiet):
        print(result.markdown())
