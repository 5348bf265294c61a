"""`convert-weights`: checkpoints of other layouts as folders that every verb takes, and back."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("convert-weights", cls=flags.Command)(convert_weights)


def convert_weights(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="a folder of a model, adapter or pipeline, or one pickled file")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="the folder to write; new or empty")],
) -> None:
    """Convert pickled weights to safetensors, running none of their code."""
    from pairsight.models.checkpoints.convert import to_safetensors

    done = to_safetensors(source.expanduser(), target.expanduser())
    print(f"{done.folder}: {done.num_tensors} tensors, {done.num_bytes / 1e9:.2f} GB")
    for note in done.notes:
        print(note)
