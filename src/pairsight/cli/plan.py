"""What a dry run of a complete run prints: its stages, counts, tokens, cost and memory, and what was assumed."""

from typing import TYPE_CHECKING

from pairsight.cli.show import print_forecast

if TYPE_CHECKING:
    from pairsight.pipeline.dry_run import DryRun, Estimate


def print_dry_run(found: "DryRun", rate: float | None) -> None:
    """All of it, part by part.

    Args:
        found: what was estimated.
        rate: TFLOP a second, to say how long the training takes; None: it is not said.
    """
    config = found.config
    print(f"dry run of {config.out} with {config.model}: no weights are read, no model is called, nothing is written")
    print("  all figures below are estimates")
    if found.missing:
        print(f"  not here, and needed by the run: {', '.join(found.missing)}")
    print(f"  assumed: {_assumed(found)}; change one with --set estimate.NAME=VALUE")
    prompts = f"{found.num_prompts} prompts" if found.num_prompts else "prompts by the writer"
    print(f"build: {found.recipe}, {prompts}, strategy {found.strategy}")
    if not found.stages:
        print("  this recipe does not say what its stages do")
    for stage in found.stages:
        print(f"  {_stage(stage)}")
    _print_cost(found)
    if found.align is not None:
        training = found.align.training
        name = found.align.options.name or training.training_name
        print(
            f"align: {name} of {found.align.options.model}, learning rate {training.learning_rate:g}, "
            f"{training.num_train_epochs:g} epochs, about {found.num_examples} {found.examples}"
        )
        if found.forecast is not None:
            print_forecast(found.forecast, rate)
        else:
            print(f"  memory: no forecast, {found.no_forecast}")
    for asked in found.asked:
        count = "questions unknown" if asked.count is None else f"{asked.count} questions"
        how = "" if asked.is_counted else " (its file is not here)"
        print(f"evaluate: {asked.name}, {count}{how}, each to the base and to the aligned model")


def _assumed(found: "DryRun") -> str:
    assumed = found.config.estimate
    parts = [f"{name} {value}" for name, value in assumed.to_plain().items() if value not in (None, {})]
    return ", ".join(parts)


def _stage(found: "Estimate") -> str:
    work = found.work
    text = f"{work.stage}: {work.count} {work.unit} by {work.by}"
    if not work.prompt_tokens and not work.completion_tokens:
        return text
    images = "" if not work.images else ", images left out" if found.image_tokens is None else ", images included"
    tokens = f"about {_number(found.prompt_tokens)} tokens read{images}"
    return f"{text}; {tokens}, {_number(found.completion_tokens)} written"


def _print_cost(found: "DryRun") -> None:
    """What the endpoints' stages cost together, at the prices of `build.calls.prices`."""
    paid = [stage for stage in found.stages if stage.is_paid]
    if not paid:
        print("  cost: nothing is paid for, no stage calls an endpoint")
        return
    total = sum(stage.cost for stage in paid if stage.cost is not None)
    known = [stage for stage in paid if stage.cost is not None]
    if known:
        parts = ", ".join(f"{stage.work.unit} {stage.cost:.2f}" for stage in known)
        print(f"  cost: about {total:.2f} at the prices of build.calls.prices, a million tokens ({parts})")
    for name in dict.fromkeys(stage.work.by for stage in paid if stage.cost is None):
        print(f"  cost of {name}: not known; its price goes into build.calls.prices, {{MODEL: {{prompt, completion}}}}")


def _number(value: float) -> str:
    """A count in millions or thousands where it is one."""
    for size, name in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if value >= size:
            return f"{value / size:.3g}{name}"
    return f"{value:.0f}"
