"""What a verb prints when it is done: short tables on standard output."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from pairsight.benchmarks.results import Metric, Metrics, Results, Section
    from pairsight.pipeline.align import Aligned
    from pairsight.pipeline.build import Built
    from pairsight.pipeline.convert import Converted
    from pairsight.store.attempts import Spent
    from pairsight.store.status import RunStatus
    from pairsight.store.verify import Verification
    from pairsight.training.forecast.forecast import Forecast


def print_build(built: "Built") -> None:
    """Counts of a finished build, what was dropped and why, and what to do next."""
    prompts = f"{built.num_prompts} prompts → " if built.num_prompts else ""  # without prompts the writer wrote them
    print(f"{built.run}: {prompts}{built.num_pairs} {built.examples}")
    for (stage, reason), count in sorted(built.dropped.items(), key=lambda item: -item[1]):
        print(f"  dropped {count}: {reason} ({stage})")
    for name, figures in built.measured.items():
        print(f"  {name.replace('_', ' ')}: {', '.join(f'{what} {value:.4g}' for what, value in figures.items())}")
    for stage, spent in built.spent.items():
        print_spent(stage, spent)
    print_failures(built)
    if built.num_pairs:
        plugins = "".join(f" --plugin {shlex.quote(file)}" for file in built.plugins)
        align = f"pairsight align {built.run} --model {_to_align(built.model)}{plugins}"
        print(f"next: pairsight inspect {built.run}; {align}")
    else:
        print(
            f"there are no {built.examples} to align on; `pairsight inspect {built.run}` and the reasons above say why"
        )


def print_failures(built: "Built") -> None:
    """The failed items of each stage by reason, and how to retry them."""
    for stage, reasons in built.failed.items():
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        print(f"failed in {stage}: {counts}; `pairsight retry {built.run}` and the same command try them again")


def _to_align(model_name: str) -> str:
    """What `align` takes for the model that made the completions: for an adapter, its merged model or its base."""
    from pairsight.models.folders import base_of_adapter

    if not model_name or model_name.startswith("endpoint:"):
        return "MODEL"
    base = base_of_adapter(model_name)
    merged = Path(model_name) / "merged"
    return model_name if base is None else str(merged) if (merged / "config.json").is_file() else base


def print_converted(converted: "Converted") -> None:
    """What was written, and how the layout's own tool takes it."""
    rows = f" as {converted.num_rows:,} rows" if converted.num_rows != converted.num_records else ""
    files = f", {converted.num_files:,} images beside them" if converted.num_files else ""
    print(f"{converted.target}: {converted.num_records:,} {converted.gives}{rows}{files}")
    if converted.next_step:
        print(f"next: {converted.next_step}")


def print_align(aligned: "Aligned") -> None:
    """Where the adapter is and what to do next."""
    summary = aligned.summary
    counts = f"{aligned.num_examples} examples" if summary is None else str(summary)
    print(f"{aligned.adapter}: aligned on {counts}")
    for sentence in summary.sentences() if summary is not None else ():
        print(f"  {sentence}")
    if aligned.merged is not None:
        print(f"{aligned.merged}: the full model")


def print_forecast(found: "Forecast", rate: float | None) -> None:
    """What a training will take: tokens, arithmetic, time at a rate in TFLOP/s, memory by part, and whether it fits."""
    tokens, device = found.tokens, found.device
    how = "" if found.prepared == found.examples else f", from {found.prepared} of them"
    times = f", each {found.repeat} times an epoch" if found.repeat > 1 else ""
    where = f"a GPU of {_gib(device.memory)}" if device.on_gpu else f"this CPU with {_gib(device.memory)} free"
    epochs = f"{found.epochs:g} epochs, {found.steps} steps"
    print(f"{found.examples} examples{how}{times}, {epochs}; in {found.precision} on {where}")
    if found.skipped:
        print(f"  {found.skipped:.1%} of the examples are skipped")
    print(
        f"  tokens an example: prompt {tokens.prompt:.0f}, of these image {tokens.image:.0f}; completions "
        f"{tokens.completion:.0f}; together, shared ones once, {tokens.shared:.0f} (most: {tokens.most})"
    )
    phases = {"reference": found.reference, "training": found.training}
    for name, phase in phases.items():
        if phase is not None:
            times = f" x {found.epochs:g}" if name == "training" else ""
            print(
                f"  {name}: {phase.passes} passes of {phase.tokens:.0f} tokens (most: {phase.most_tokens}), "
                f"{phase.flops:.3g} FLOP{times}"
            )
    if found.tower_flops:
        print(f"  vision tower: {found.tower_flops:.3g} FLOP")
    time = (
        "give --rate for the time"
        if rate is None
        else f"{found.flops / rate / 1e12 / 3600:.2f} hours at {rate:g} TFLOP/s"
    )
    print(f"  in all: {found.flops:.3g} FLOP; {time}")
    for name, phase in phases.items():
        if phase is not None:
            parts = ", ".join(f"{part} {_gib(size)}" for part, size in phase.memory.items() if size)
            print(f"  memory in the {name}: {_gib(phase.peak)} at its peak ({parts})")
    room = f"{_gib(device.usable)} of {_gib(device.memory)} that tensors can take"
    if found.fits:
        print(f"it fits into {room}")
    elif found.advice is None:
        print(f"it does not fit into {room}, with no setting tried: use a smaller model, or a larger device")
    else:
        setting, peak = found.advice
        print(f"it does not fit into {room}; it does with --set {setting.replace(' ', ' --set ')} (peak {_gib(peak)})")


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def print_results(results: "Results") -> None:
    """One table per system and benchmark: every metric of base and aligned models, the difference with its interval."""
    console = _console()
    for system in results.systems.values():
        for section in system.sections:
            _print_metrics(console, f"{system.name}: {_ruled(section)}", section.metrics)
            _print_unanswered(section)
    if not results.systems:
        print_scores(results)


def print_scores(results: "Results") -> None:
    """One table per benchmark of one model's metrics with their intervals."""
    console = _console()
    for section in results.sections:
        table = Table(title=_ruled(section), title_justify="left")
        for column in ("metric", "value", "95 % interval", "items", "unparsed"):
            table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=column == "metric")
        for metric in section.metrics.values():
            interval = f"{_number(metric.low)} … {_number(metric.high)}"
            counts = (str(metric.num_items), str(metric.unparsed))
            table.add_row(metric.name, _number(metric.base), interval, *counts)
        console.print(table)
        _print_unanswered(section)


def lacks_answers(results: "Results") -> bool:
    """Whether questions are left out of the figures because a model gave no answer."""
    sections = [*results.sections, *(section for system in results.systems.values() for section in system.sections)]
    return any(any(section.failed.values()) for section in sections)


def _print_unanswered(section: "Section") -> None:
    """The questions left out of all figures because a model gave no answer."""
    for model, count in section.failed.items():
        first = next(iter(section.failed_items.get(model, ())), "")
        if count:
            what = "question has" if count == 1 else "questions have"
            print(f"{count} {what} no answer by {model} and {'is' if count == 1 else 'are'} left out: {first}")


def _ruled(section: "Section") -> str:
    """A benchmark and its file with the rule that read its answers: a fallback is never taken for the original."""
    parser = section.settings.get("parser")
    return f"{section.title}, {parser}" if parser else section.title


def print_demo(results: "Results", report: Path) -> None:
    """The demo's closing table: base and systems side by side, then where the report is."""
    console = _console()
    console.print(side_by_side(results))
    print(f"report: {report}")


_SHORT = ("accuracy", "f1", "yes_rate", "chair_i", "recall", "caption_length", "text_accuracy")
"""What the closing table shows, where it was measured; the report has everything."""


def side_by_side(results: "Results") -> Table:
    """Base and every system (controls after their system) by metric, with intervals of the paired differences."""
    columns: list[tuple[str, Metrics]] = []
    for name, system in results.systems.items():
        columns.append((name, system.metrics))
        columns += [(f"{name}: {control}", part.metrics) for control, part in system.controls.items()]
    table = Table(title="held-out scenes, greedy; below: 95 % interval of the difference to base", title_justify="left")
    table.add_column("metric")
    table.add_column("base", justify="right")
    for name, _ in columns:
        table.add_column(name.replace(": ", "\n").replace("_", " "), justify="right")
    for metric in (metric for metric in _SHORT if columns and metric in columns[0][1]):
        cells = [_number(columns[0][1][metric].base)]
        cells += [_cell(metrics.get(metric)) for _, metrics in columns]
        table.add_row(metric.replace("_", " "), *cells)
    return table


def print_status(status: "RunStatus") -> None:
    """Per stage: done, failed by reason, pending, speed and time left; running processes; finished tables."""
    console = _console()
    table = Table(title=str(status.path), title_justify="left")
    for column in ("phase", "stage", "done", "failed", "pending", "items/s", "time left"):
        table.add_column(column, justify="left" if column in ("phase", "stage") else "right")
    for stage in status.stages:
        failed = ", ".join(f"{count} {reason}" for reason, count in stage.failed.items()) or "0"
        pending = "?" if stage.pending is None else str(stage.pending)
        speed = "" if stage.items_per_s is None else f"{stage.items_per_s:.1f}"
        left = "" if stage.seconds_left is None else f"{stage.seconds_left:.0f} s"
        table.add_row(stage.phase, stage.stage, str(stage.done), failed, pending, speed, left)
    console.print(table)
    for stage in status.stages:
        if stage.spent is not None:
            print_spent(stage.stage, stage.spent)
        for server in stage.servers:
            print(f"  {server.url}: {server.calls} calls, {server.answered} answered")
    for phase, pid in status.running.items():
        print(f"running: {phase} (process {pid})")
    for name, rows in status.tables.items():
        print(f"sealed: {name}, {rows} rows")


def print_spent(stage: str, spent: "Spent") -> None:
    """What a paid stage has used, over all starts of the run."""
    tokens = f"{spent.prompt_tokens} prompt and {spent.completion_tokens} completion tokens"
    print(f"{stage}: {spent.calls} calls, {tokens}, cost {spent.cost:.4f}")
    if spent.unknown_outcomes:
        print(f"  {spent.unknown_outcomes} of unknown outcome, at most {spent.unknown_cost:.4f} of that")
    if spent.echoed_keys:
        print(f"  {spent.echoed_keys} answers held the key and were not kept")
    if spent.replaced_texts:
        print(f"  {spent.replaced_texts} answers held invalid Unicode, replaced by U+FFFD")


def print_verification(found: "Verification") -> None:
    """How much was checked, and every problem.

    Raises:
        RunError: there are problems, so that the exit status says so.
    """
    from pairsight.errors import RunError

    print(f"checked {found.num_results} results, {found.num_blobs} images, {found.num_files} tables")
    for notice in found.notices:
        print(f"note: {notice}")
    for problem in found.problems:
        print(f"damaged: {problem}")
    if found.problems:
        what = "problem" if len(found.problems) == 1 else "problems"
        raise RunError(f"{len(found.problems)} {what} found, each with what to do about it")


def _print_metrics(console: Console, title: str, metrics: "Metrics") -> None:
    table = Table(title=title, title_justify="left")
    for column in ("metric", "base", "aligned", "difference", "95 % interval", "better"):
        left = column in ("metric", "better")
        table.add_column(column, justify="left" if left else "right", no_wrap=column == "metric")
    for metric in metrics.values():
        interval = f"{_signed(metric.low)} … {_signed(metric.high)}"
        compared = (_number(metric.aligned), _signed(metric.difference), interval) if metric.compared else ("", "", "")
        table.add_row(metric.name, _number(metric.base), *compared, metric.better)
    console.print(table)


def _cell(metric: "Metric | None") -> str:
    if metric is None:
        return "–"
    return f"{_number(metric.aligned)}\n{_short(metric.low)}…{_short(metric.high)}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _short(value: float | None) -> str:
    """A signed number in as few characters as possible: -.061, +2.36"""
    if value is None:
        return "–"
    return f"{value:+.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.2f}"


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
