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
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="safetensors: the same without pickles; transformers: out of the layout of LLaVA's authors; "
            "llava: into it; default: transformers for a folder in that layout, else safetensors",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="the model below LoRA weights of that layout")
    ] = None,
    vision_tower: Annotated[
        str | None,
        typer.Option(
            "--vision-tower",
            metavar="DIR",
            help="where the CLIP tower is that a config names; with --to llava: its name",
        ),
    ] = None,
) -> None:
    """Convert weights: pickles to safetensors, running none of their code, or LLaVA's original layout and back."""
    from pairsight.models.checkpoints.layouts import Conversion

    done = Conversion(source.expanduser(), target.expanduser(), to, base, vision_tower).run()
    print(f"{done.folder}: {done.num_tensors} tensors, {done.num_bytes / 1e9:.2f} GB")
    for note in done.notes:
        print(note)
