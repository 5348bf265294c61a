"""`pairsight run`: build, align and evaluate from one config file."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("run")(run)


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML with the parts build, align and evaluate")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything and print the plan, run nothing")
    ] = False,
    plugin: flags.Plugin = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> None:
    """Build, align, evaluate and report from one file; each part resumes where it stopped."""
    from pairsight.config import read_yaml, with_settings
    from pairsight.pipeline.run import RunConfig, plan, run_all

    words = with_settings({}, settings or [])
    flags.trust(plugin, words)
    flags.check_words(with_settings(read_yaml(config), settings or []), words, str(config))
    parsed = RunConfig.read(config, settings or [])
    print(plan(parsed))
    if not dry_run:
        from pairsight.cli.show import print_results

        print_results(run_all(parsed, quiet=quiet))
