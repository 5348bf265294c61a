"""`pairsight align`: pairs -> adapter."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("align")(align)


def align(
    data: Annotated[Path, typer.Argument(metavar="RUN|DATASET", help="a run folder, or preference pairs")],
    model: flags.Model = None,
    out: flags.Out = None,
    loss: Annotated[
        list[str] | None, typer.Option("--loss", help="e.g. dpo; several, repeated or with commas, are summed")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="how a file of pairs is read: a format's name, or file.py:Class")
    ] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", help="choose pairs anew from the candidates")] = None,
    name: Annotated[str | None, typer.Option("--name", help="the adapter's name inside the run")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="also write the full merged model")] = False,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="the peak learning rate")] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="how strongly the reference holds")] = None,
    limit: flags.Limit = None,
    seed: flags.Seed = None,
    plugin: flags.Plugin = None,
    config: flags.Config = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> None:
    """Align a model with preference pairs; writes a PEFT adapter that plain transformers and peft load."""
    from pairsight.cli.show import print_align
    from pairsight.pipeline.align import align_from_options

    given = {
        "model": model, "out": out, "loss": loss[0] if loss and len(loss) == 1 else loss, "strategy": strategy,
        "format": format, "name": name, "merge": merge, "learning_rate": learning_rate, "beta": beta, "limit": limit,
        "seed": seed,
    }  # fmt: skip
    flags.trust(plugin)
    values = flags.merge(config, settings, given)
    values["data"] = str(data)
    print_align(align_from_options(values, quiet=quiet))
