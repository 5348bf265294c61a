"""Build, align, evaluate and report from one config file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from pairsight.benchmarks.results import Results
from pairsight.config import BaseConfig, read_yaml, with_settings
from pairsight.errors import ConfigError

if TYPE_CHECKING:
    from pairsight.pipeline.build import Built


class RunConfig(BaseConfig):
    """A whole run: where it goes and the options of its parts, each with the names its verb has."""

    out: str = Field(description="the run folder")
    model: str = Field(description="the model of all parts: a folder or a hub name")
    build: dict[str, Any] = Field(description="options of build and of the recipe; `recipe` is required")
    align: dict[str, Any] | None = Field(None, description="options of align and of the trainer; left out: no training")
    evaluate: dict[str, Any] | None = Field(None, description="options of evaluate; left out: no evaluation")

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = ()) -> Self:
        """The config in a YAML file, with `--set build.noise_step=300` and the like laid over it.

        Raises:
            ConfigError: no file, no YAML, an unknown or missing option.
        """
        return cls.parse(with_settings(read_yaml(path), settings), where=str(path))

    def build_values(self) -> dict[str, Any]:
        """The flat options of `build`."""
        return {"model": self.model, "out": self.out, **self.build}

    def align_values(self) -> dict[str, Any]:
        """The flat options of `align`; an empty `align:` part means all defaults."""
        return {"model": self.model, "data": self.out, **(self.align or {})}

    def evaluate_values(self) -> dict[str, Any]:
        """The flat options of `evaluate`."""
        return {"model": self.model, "run": self.out, **(self.evaluate or {})}


def plan(config: RunConfig) -> str:
    """Check every option, file and model folder that can be checked without loading a model; say what will be done.

    Raises:
        PairsightError: the first thing that is wrong.
    """
    from pairsight.pipeline.align import AlignSpec
    from pairsight.pipeline.build import build_strategy, check_build
    from pairsight.pipeline.evaluate import EvaluateSpec

    lines = [check_build(config.build_values())]
    if config.align is not None:
        recipe = str(config.build.get("recipe", ""))
        align = AlignSpec.parse(config.align_values(), recipe, built_with=build_strategy(config.build))
        training = align.training
        name = align.options.name or training.training_name
        lines.append(f"align: {name}, learning rate {training.learning_rate:g}, {training.num_train_epochs:g} epochs")
    if config.evaluate is not None:
        if config.align is None and not config.evaluate.get("adapters"):
            raise ConfigError("evaluate needs an align part, or adapters of its own, to compare the base with")
        evaluation = EvaluateSpec.parse(config.evaluate_values())
        lines.append(f"evaluate: {', '.join(evaluation.options.benchmarks)}")
    return "\n".join([f"run {config.out} with {config.model}", *(f"  {line}" for line in lines)])


def run_all(config: RunConfig, quiet: bool = False) -> "tuple[Built, Results]":
    """Do all parts in order, then write the report; each part resumes where it stopped.

    Returns:
        What was built, and the run's results; these are empty when nothing was evaluated.
    """
    from pairsight.pipeline.align import align_from_options
    from pairsight.pipeline.build import build_from_options
    from pairsight.pipeline.evaluate import evaluate_from_options
    from pairsight.reporting.report import write_report

    built = build_from_options(config.build_values(), quiet=quiet)
    if config.align is not None:
        align_from_options(config.align_values(), quiet=quiet)
    results = evaluate_from_options(config.evaluate_values(), quiet=quiet) if config.evaluate is not None else Results()
    write_report(Path(config.out))
    return built, results
