"""`pairsight tiny` and `pairsight demo`: the embedded default as files and as an endpoint, and its demonstration."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags
from pairsight.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    group = typer.Typer(add_completion=False, rich_markup_mode=None)
    group.callback(invoke_without_command=True)(tiny)
    group.command("serve", cls=flags.Command)(serve)
    app.add_typer(group, name="tiny", cls=flags.Group)
    app.command("demo", cls=flags.Command)(demo)


def tiny(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option("--out", help="the folder to write")] = None,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="how many scenes")] = 200,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="the seed of the scenes; no model was trained on them")
    ] = 0,
) -> None:
    """Write a rendered world with known truth and a tiny model, so that every verb can be tried on files."""
    if context.invoked_subcommand is not None:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            raise ConfigError(f"--{given[0]} is for `tiny`, and `tiny {context.invoked_subcommand}` writes no world")
        return
    if out is None:
        raise ConfigError("say where the world goes: pairsight tiny --out DIR")
    from pairsight.tiny.world.world_files import write_world

    write_world(out, scenes=scenes, seed=seed)
    print(f"{out}: model/ images/ prompts.json pope.jsonl truth.jsonl ({scenes} scenes, seed {seed})")


def serve(
    world: Annotated[Path, typer.Option("--world", help="the folder that `tiny --out` wrote")],
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="the port on 127.0.0.1; 0 picks a free one")
    ] = 0,
) -> None:
    """Serve the world's truth as an endpoint, for --annotator and --writer; Ctrl-C stops it."""
    from pairsight.tiny.truth.server import TruthServer

    server = TruthServer(world, port)
    print(server.model_name, flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()


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
