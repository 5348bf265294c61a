"""The verbs that do the work: `build`, `align`, `evaluate`, `score`, `convert`, `run` and `study`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags
from pairsight.errors import ConfigError

Values = Mapping[str, object]
"""The options that were given, flat, by name."""
PARTLY_FAILED = 3
"""The exit status when the work is done but items failed."""
DOES_NOT_FIT = 1
"""The exit status of a dry run whose training does not fit into the device's memory."""

Memory = Annotated[
    float | None, typer.Option("--memory", min=0.1, help="with --dry-run: GiB of the GPU it is for; default: here")
]
Rate = Annotated[
    float | None, typer.Option("--rate", min=1e-6, help="with --dry-run: TFLOP a second, to say how long it takes")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    options = "pairsight.options"
    flags.add_verb(app, build, f"{options}:BuildOptions", "pairsight.recipes.synthetic.recipe:Synthetic")
    flags.add_verb(app, align, f"{options}:AlignOptions", "pairsight.training.config:TrainingConfig")
    flags.add_verb(app, evaluate, f"{options}:EvaluateOptions")
    flags.add_verb(app, score, f"{options}:ScoreOptions")
    flags.add_verb(app, convert, "pairsight.pipeline.conversion_options:ConvertOptions")
    app.command("run", cls=flags.Command)(run)
    app.command("study", cls=flags.Command)(study)


def build(
    values: Values,
    update: Annotated[
        bool, typer.Option("--update", help="change a run's options; only what is missing is computed")
    ] = False,
    quiet: flags.Quiet = False,
) -> int:
    """Build preference data: prompts -> completions -> pairs, in a run folder that resumes where it stopped."""
    from pairsight.cli.show import print_build
    from pairsight.pipeline.build import BuildSpec, build_run

    built = build_run(BuildSpec.parse(values), update=update, quiet=quiet)
    print_build(built)
    return PARTLY_FAILED if built.failed else 0


def align(
    values: Values,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print tokens, arithmetic, memory and what makes it fit; train nothing")
    ] = False,
    memory: Memory = None,
    rate: Rate = None,
    quiet: flags.Quiet = False,
) -> int:
    """Align a model with preference pairs; writes a PEFT adapter that plain transformers and peft load."""
    if dry_run:
        from pairsight.cli.show import print_forecast
        from pairsight.pipeline.align import AlignSpec, forecast_run

        found = forecast_run(AlignSpec.parse(values), memory=memory, quiet=quiet, say=print)
        print_forecast(found, rate)
        return 0 if found.fits else DOES_NOT_FIT
    _refuse_of_dry_runs(memory, rate)
    from pairsight.cli.show import print_align
    from pairsight.pipeline.align import AlignSpec, align_run
    from pairsight.training.ranks.launch import launched, start

    launch = launched()
    if launch.size > 1:
        from pairsight.training.ranks.joined import joined

        with joined(launch) as world:
            aligned = align_run(
                AlignSpec.parse(values), quiet=quiet or not world.first, say=print if world.first else _silent
            )
            if world.first:
                print_align(aligned)
        return 0
    spec = AlignSpec.parse(values)
    if spec.options.devices > 1:
        return start(spec.options.devices, flags.WORDS)
    print_align(align_run(spec, quiet=quiet, say=print))
    return 0


def _refuse_of_dry_runs(memory: float | None, rate: float | None) -> None:
    """ConfigError for what only a dry run reads."""
    for flag, given in (("--memory", memory), ("--rate", rate)):
        if given is not None:
            raise ConfigError(f"{flag} says what a dry run is for: add --dry-run, or leave {flag} out")


def _silent(sentence: str) -> None:
    """Say nothing: another process says it."""


def evaluate(values: Values, quiet: flags.Quiet = False) -> int:
    """Evaluate the base and its adapters on benchmarks, with intervals of the paired differences."""
    from pairsight.cli.show import lacks_answers, print_results
    from pairsight.pipeline.evaluate import EvaluateSpec, evaluate_run

    results = evaluate_run(EvaluateSpec.parse(values), quiet=quiet)
    print_results(results)
    return PARTLY_FAILED if lacks_answers(results) else 0


def score(values: Values) -> int:
    """Score answers made elsewhere, by a benchmark's official rule."""
    from pairsight.cli.show import lacks_answers, print_scores
    from pairsight.pipeline.evaluate import ScoreSpec, score_run

    results = score_run(ScoreSpec.parse(values))
    print_scores(results)
    return PARTLY_FAILED if lacks_answers(results) else 0


def convert(values: Values) -> None:
    """Write a dataset, or a run's pairs, in the layout of another tool; says first what that layout cannot hold."""
    from pairsight.cli.show import print_converted
    from pairsight.pipeline.convert import ConvertSpec, convert_run

    print_converted(convert_run(ConvertSpec.parse(values)))


def run(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="YAML with the parts build, align and evaluate, or a shipped one's name"),
    ],
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="print stages, counts, tokens, cost and memory; read no weights, run nothing"),
    ] = False,
    memory: Memory = None,
    rate: Rate = None,
    plugin: flags.Plugin = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> int:
    """Build, align, evaluate and report from one file; each part resumes where it stopped."""
    from pairsight.config import read_yaml, with_settings
    from pairsight.pipeline.run import RunConfig, find_config, plan, run_all

    typed, file = with_settings({}, settings or []), find_config(config)
    flags.trust(plugin, typed)
    flags.check_config(with_settings(read_yaml(file), settings or []), typed, str(file))
    parsed = RunConfig.read(file, settings or [])
    if dry_run:
        from pairsight.cli.plan import print_dry_run
        from pairsight.pipeline import dry_run as estimates

        found = estimates.dry_run(parsed, memory=memory)
        print_dry_run(found, rate)
        return 0 if found.forecast is None or found.forecast.fits else DOES_NOT_FIT
    _refuse_of_dry_runs(memory, rate)
    print(plan(parsed))
    from pairsight.cli.show import lacks_answers, print_failures, print_results

    built, results = run_all(parsed, quiet=quiet)
    print_failures(built)
    print_results(results)
    return PARTLY_FAILED if built.failed or lacks_answers(results) else 0


def study(
    name: Annotated[str, typer.Argument(help="which study, or file.py:Class")],
    run: Annotated[Path | None, typer.Option("--run", help="the run to study, for a study of one run")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="where to write")] = None,
    plugin: flags.Plugin = None,
    config: flags.Config = None,
    settings: flags.Set = None,
    quiet: flags.Quiet = False,
) -> None:
    """Run a study and print its tables; figures and numbers go to files."""
    from pairsight.registry import studies

    flags.trust(plugin, name)
    chosen = studies.get(name)
    for result in chosen.parse(flags.merge(config, settings, {"run": run, "out": out}), name).results(quiet=quiet):
        print(result.markdown())
