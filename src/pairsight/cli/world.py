"""`pairsight tiny`: the embedded default as plain files, and its truth behind a loopback endpoint."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pairsight.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    group = typer.Typer(add_completion=False, rich_markup_mode=None)
    group.callback(invoke_without_command=True)(tiny)
    group.command("serve")(serve)
    app.add_typer(group, name="tiny")


def tiny(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", help="the folder to write")] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="how many scenes")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="which scenes; none was trained on")] = 0,
) -> None:
    """Write a rendered world with known truth and a tiny model, so that every verb can be tried on files."""
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise ConfigError("say where the world goes: pairsight tiny --out DIR")
    from pairsight.tiny.world.world_files import write_world

    write_world(out, scenes=scenes, seed=seed)
    print(f"{out}: model/ images/ prompts.json pope.jsonl truth.jsonl ({scenes} scenes, seed {seed})")


def serve(
    world: Annotated[Path, typer.Option("--world", help="the folder that `tiny --out` wrote")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="of 127.0.0.1; 0 takes a free one")] = 0,
) -> None:
    """Serve the world's truth as an endpoint, for --annotator and --writer; Ctrl-C ends it."""
    from pairsight.tiny.truth.server import TruthServer

    server = TruthServer(world, port)
    print(server.reference, flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()
