"""`pairsight demo`: see a small vision-language model improve."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="where to write")] = Path("runs/demo"),
    system: Annotated[
        str | None, typer.Option("--system", help="seva, feedback or synthetic; default: the first two")
    ] = None,
    quiet: flags.Quiet = False,
) -> None:
    """Run the systems on the embedded default and compare base and aligned models on held-out scenes."""
    from pairsight.cli.show import print_demo
    from pairsight.tiny.demo import run_demo

    print_demo(*run_demo(out, system=system, quiet=quiet))
