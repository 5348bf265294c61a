"""`pairsight show ...`: what is not part of a run, to look at."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verbs below `show` to the command."""
    shown = typer.Typer(
        cls=flags.Group, add_completion=False, rich_markup_mode=None, help="Show what is not part of a run."
    )
    shown.callback()(_show)
    shown.command("distortions", cls=flags.Command)(distortions)
    app.add_typer(shown, name="show")


def _show() -> None:
    """Show what is not part of a run."""


def distortions(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="an image file")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="where the sheet goes; default: beside the image")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--distortion", help="a distortion, e.g. moco_v2+diffusion:500; repeatable; default: all"),
    ] = None,
    views: Annotated[int, typer.Option("--views", min=1, max=16, help="views of each distortion")] = 1,
    side: Annotated[int, typer.Option("--side", min=32, max=1024, help="side of each picture, in pixels")] = 224,
    seed: Annotated[int, typer.Option("--seed", min=0, help="the random seed of the first view")] = 0,
) -> None:
    """Save one image under every augmentation and noise step, side by side, as a PNG."""
    from pairsight.errors import ConfigError
    from pairsight.images import contact_sheet
    from pairsight.images.load import open_image

    file = image.with_name(f"{image.stem}-distortions.png") if out is None else out
    if file.suffix.lower() != ".png":
        raise ConfigError(f"--out {file}: the sheet is a PNG, so its name must end in .png")
    if file.is_dir() or not file.parent.is_dir():
        raise ConfigError(f"--out {file} must be a file in a folder that is there")
    shown = contact_sheet.views(open_image(image), names or (), seed=seed, views_each=views)
    contact_sheet.contact_sheet(shown, side).save(file, "PNG")
    print(f"{file}: {len(shown)} pictures; noise (approx.) is drawn at the image's own size and clipped")
