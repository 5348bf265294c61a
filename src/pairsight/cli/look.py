"""`report`, `inspect`, `status`, `retry`, `salvage`, `profile`: look at a run or a profile, retry, repair damage."""

from pathlib import Path
from typing import Annotated

import typer

from pairsight.cli import flags
from pairsight.errors import ConfigError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command("report", cls=flags.Command)(report)
    app.command("inspect", cls=flags.Command)(inspect)
    app.command("status", cls=flags.Command)(status)
    app.command("retry", cls=flags.Command)(retry)
    app.command("salvage", cls=flags.Command)(salvage)
    app.command("profile", cls=flags.Command)(profile)


def report(run: Run, plugin: flags.Plugin = None) -> None:
    """Write RUN/report.html: what changed, with intervals, controls, curves and example pairs."""
    from pairsight.reporting.report import write_report

    flags.trust(plugin)
    print(write_report(run))


def inspect(
    data: Annotated[Path, typer.Argument(metavar="RUN|DATASET", help="a run folder, or a dataset as for align")],
    images: Annotated[
        Path | None, typer.Option("--images", help="the folder that a dataset's image names refer to")
    ] = None,
    format: Annotated[str | None, typer.Option("--format", help="how a dataset is read; default: found out")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="a dataset's columns: prompt=question,chosen=a,rejected=b,image=img")
    ] = None,
    on_error: Annotated[
        str | None, typer.Option("--on-error", help="a dataset's bad rows: skip and count them (default), or stop")
    ] = None,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="fetch a dataset from the hub, and images at web addresses")
    ] = False,
    plugin: flags.Plugin = None,
    benchmark_images: Annotated[
        list[Path] | None,
        typer.Option("--benchmark-images", help="warn about images that a benchmark also has; repeatable"),
    ] = None,
) -> None:
    """Print what to know about the pairs before training on them; writes RUN/inspection.html."""
    from pairsight.inspection.inspect import describe, inspect_run
    from pairsight.reporting.inspection_page import write_inspection

    flags.trust(plugin, format)
    folders = tuple(benchmark_images or ())
    reading = None
    if any((images, format, columns, on_error, allow_download)):
        from pairsight.formats.datasets.reading import Reading

        if on_error not in (None, "skip", "stop"):
            raise ConfigError(f"--on-error must be skip or stop, found '{on_error}'")
        where = None if images is None else str(images)
        reading = Reading(where, format, columns, "stop" if on_error == "stop" else "skip", allow_download)
    if not (data / "run.yaml").is_file():
        print(describe(inspect_run(data, folders, reading)))
        return
    if reading is not None:
        raise ConfigError(f"{data} is a run: leave out what says how a dataset is read")
    page = data / "inspection.html"
    print(describe(write_inspection(data, page, folders)))
    print(page)


def status(
    run: Run,
    verify: Annotated[bool, typer.Option("--verify", help="check every file and record against its hash")] = False,
) -> None:
    """Print the progress of a run: per stage what is done, failed and pending; also while it is running."""
    from pairsight.cli.show import print_status, print_verification
    from pairsight.errors import RunError
    from pairsight.store.run_folder import RunFolder
    from pairsight.store.status import run_status
    from pairsight.store.verify import verify_run

    if not verify:
        print_status(run_status(run))
        return
    RunFolder.open(run)
    try:
        print_status(run_status(run))
    except RunError as error:  # a damaged ledger has no status; the verification reports it
        print(error)
    print_verification(verify_run(run))


def retry(
    run: Run,
    stage: Annotated[str | None, typer.Option("--stage", help="only failures of this stage")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="only failures for this reason")] = None,
) -> None:
    """Let the next build or evaluate of this run retry failed items."""
    from pairsight.store.repair import retry_run

    count = retry_run(run, stage, reason)
    print(f"{count} failed items will be retried: run the same build or evaluate command")


def salvage(run: Run) -> None:
    """Rebuild lost or damaged ledgers from journals, sealed tables and what can be read; damaged files are kept."""
    from pairsight.store.repair import salvage_run

    salvaged = salvage_run(run)
    for one in salvaged:
        kept = f"{one.num_kept} results" + (f" and {one.num_answers} paid answers" if one.num_answers else "")
        if one.what != "rebuilt":
            print(f"{one.ledger}: {one.what}, {kept}")
            continue
        print(f"{one.ledger}: rebuilt, {kept} kept, {one.num_lost} to be computed again")
        if one.num_sealed:
            print(f"{one.num_sealed} of them were left in sealed tables only, which hold no raw answers of paid calls:")
            print("they are used as they were parsed, and their cost is no longer known")
        for problem in one.problems:
            print(f"{problem}; its content is to be computed again, unless a backup of it is restored first")
        if one.unreadable:
            print(
                f"nothing of the damaged ledger could be read ({one.unreadable}); the results kept are from other files"
            )
        if one.damaged is not None:
            print(f"the damaged ledger is kept as {one.damaged}")
        if not one.num_kept and not one.num_answers:
            print("nothing was left to rebuild it from, so the next run computes, and pays for, everything again:")
            print("if you have a backup of the ledger, its journal or data/ledger-*.parquet, restore that first")
    if any(one.what == "rebuilt" for one in salvaged):
        print("run the same build or evaluate command to continue")
    elif all(one.what == "intact" for one in salvaged):
        print(
            f"no ledger is damaged, nothing was changed; `pairsight status {run} --verify` checks images and tables too"
        )


def profile(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE.yaml]", help="default: list the names")] = None,
    template: Annotated[bool, typer.Option("--template", help="print its chat template, for a server")] = False,
) -> None:
    """Print what a profile of a model family says, as a file that --profile takes."""
    from pairsight.errors import ConfigError
    from pairsight.models.profiles.choice import profile_yaml, read_profile
    from pairsight.registry import profiles

    if name is None:
        print("\n".join([*profiles.names(), "none"]))
        return
    flags.trust(None, name)
    found = read_profile(name)
    if found is None:
        raise ConfigError("profile 'none' is the model as its own folder has it; there is nothing to print")
    if not template:
        print(profile_yaml(found), end="")
    elif found.turns is None:
        raise ConfigError(f"profile '{found.name}' has no turns: prompts are written by the model's own chat template")
    else:
        print(found.turns.template(found.system))
