"""`pairsight build`: prompts -> candidates -> pairs."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("build")(build)


def build(
    recipe: Annotated[str, typer.Argument(help="seva, feedback, synthetic, or file.py:Class")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="a folder, a hub name, or endpoint:NAME@URL; repeatable")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="LLaVA-style JSON, JSONL, or a folder of images (with --question)")
    ] = None,
    images: flags.Images = None,
    out: flags.Out = None,
    annotator: Annotated[str | None, typer.Option("--annotator", help="the model that rates (feedback)")] = None,
    writer: Annotated[str | None, typer.Option("--writer", help="the model that writes texts (synthetic)")] = None,
    completions: Annotated[
        Path | None, typer.Option("--completions", help="rate these instead of sampling (feedback)")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="how the file is read: a format's name, or file.py:Class")
    ] = None,
    question: Annotated[str | None, typer.Option("--question", help="the question for a folder of images")] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--sources", help="keep images whose path starts so; repeatable")
    ] = None,
    questions_per_dialogue: Annotated[
        int | None, typer.Option("--questions-per-dialogue", help="draw so many questions of each dialogue")
    ] = None,
    per_source: Annotated[int | None, typer.Option("--per-source", help="draw so many prompts of each source")] = None,
    limit: flags.Limit = None,
    seed: flags.Seed = None,
    engine: flags.Engine = None,
    workers: flags.Workers = None,
    on_error: Annotated[
        str | None, typer.Option("--on-error", help="stop (default) or skip and count bad rows")
    ] = None,
    keep_loaded: Annotated[
        bool, typer.Option("--keep-loaded", help="keep every model in memory, for large machines (synthetic)")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="change a run's options: computes only what is then missing")
    ] = False,
    plugin: flags.Plugin = None,
    config: flags.Config = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> None:
    """Build preference data: prompts -> completions -> pairs, in a run folder that resumes where it stopped."""
    from pairsight.cli.show import print_build
    from pairsight.pipeline.build import build_from_options

    given = {
        "model": model[0] if model and len(model) == 1 else model,
        "prompts": prompts, "images": images, "out": out, "annotator": annotator, "writer": writer,
        "completions": completions, "format": format,
        "question": question, "sources": sources, "questions_per_dialogue": questions_per_dialogue,
        "per_source": per_source, "limit": limit, "seed": seed, "engine": engine, "workers": workers,
        "on_error": on_error, "keep_loaded": keep_loaded or None,
    }  # fmt: skip
    flags.trust(plugin, recipe)
    values = flags.merge(config, settings, given)
    values["recipe"] = recipe
    print_build(build_from_options(values, update=update, quiet=quiet))
