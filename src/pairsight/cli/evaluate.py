"""`pairsight evaluate`: base and aligned models on benchmarks."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("evaluate")(evaluate)
    app.command("score")(score)


def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="the run whose adapters are meant")] = None,
    model: flags.Model = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="NAME=DIR", help="an adapter or full model to compare; repeatable"),
    ] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", metavar="NAME=PATH", help="an official file; repeatable")
    ] = None,
    images: flags.Images = None,
    out: flags.Out = None,
    name: Annotated[str | None, typer.Option("--name", help="the evaluation's name inside the run")] = None,
    export_official: Annotated[
        Path | None, typer.Option("--export-official", help="also write what the official scripts and servers accept")
    ] = None,
    parser: Annotated[str | None, typer.Option("--parser", help="official (default) or robust")] = None,
    on_error: Annotated[
        str | None, typer.Option("--on-error", help="stop (default) or skip and count bad images and questions")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="instead of greedy decoding")] = None,
    limit: flags.Limit = None,
    seed: flags.Seed = None,
    engine: flags.Engine = None,
    workers: flags.Workers = None,
    plugin: flags.Plugin = None,
    config: flags.Config = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> None:
    """Evaluate the base and its adapters on benchmarks, with intervals of the paired differences."""
    from pairsight.cli.show import print_results
    from pairsight.pipeline.evaluate import evaluate_from_options

    given = {
        "run": run, "model": model, "adapters": flags.named_paths(adapter, "adapter"),
        "benchmarks": flags.named_paths(benchmark, "benchmark"), "images": images, "out": out, "name": name,
        "export_official": export_official, "parser": parser, "temperature": temperature, "limit": limit,
        "seed": seed, "engine": engine, "workers": workers, "on_error": on_error,
    }  # fmt: skip
    flags.trust(plugin)
    print_results(evaluate_from_options(flags.merge(config, settings, given), quiet=quiet))


def score(
    answers: Annotated[Path, typer.Option("--answers", help="answers in the benchmark's official format")],
    out: Annotated[Path, typer.Option("--out", help="where to write")],
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", metavar="NAME=PATH", help="one official file")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="whose answers they are")] = None,
    parser: Annotated[str | None, typer.Option("--parser", help="official (default) or robust")] = None,
    seed: flags.Seed = None,
    plugin: flags.Plugin = None,
    config: flags.Config = None,
    settings: flags.Set = None,
) -> None:
    """Score answers made elsewhere by a benchmark's official rule."""
    from pairsight.cli.show import print_scores
    from pairsight.pipeline.evaluate import score_from_options

    given = {
        "answers": answers, "out": out, "benchmarks": flags.named_paths(benchmark, "benchmark"), "model": model,
        "parser": parser, "seed": seed,
    }  # fmt: skip
    flags.trust(plugin)
    print_scores(score_from_options(flags.merge(config, settings, given)))
