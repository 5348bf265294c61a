"""Build, align, evaluate and report from one config file."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from pairsight.benchmarks.results import Results
from pairsight.config import BaseConfig, read_yaml, with_settings
from pairsight.errors import ConfigError, did_you_mean
from pairsight.pipeline.align import AlignSpec, align_run
from pairsight.pipeline.build import BuildSpec, Built, build_run
from pairsight.pipeline.evaluate import EvaluateSpec, evaluate_run
from pairsight.recipes.workload import Assumed
from pairsight.registry import NamedPiece
from pairsight.training.ranks.launch import launched

CONFIGS = Path(str(files("pairsight") / "configs"))
"""The configs that ship with the package: NAME.yaml, and sizes of models in shapes/NAME.json."""
SHAPES = CONFIGS / "shapes"


def find_config(given: str, folder: Path = CONFIGS, suffix: str = ".yaml") -> Path:
    """The file that a user means: a shipped one by its name, or any by its path.

    Args:
        given: a name without suffix and folder, such as seva-7b; or a path, which has one of them.
        folder: where the shipped ones are.
        suffix: theirs.

    Raises:
        ConfigError: no shipped one has this name.
    """
    path = Path(given)
    if path.suffix in (suffix, ".yml", ".json") or len(path.parts) != 1 or given.startswith("."):
        return path
    names = sorted(file.stem for file in folder.glob(f"*{suffix}"))
    if given in names:
        return folder / f"{given}{suffix}"
    hint = f"; a file is named with its folder or suffix: ./{given}" if path.exists() else did_you_mean(given, names)
    raise ConfigError(f"there is no shipped config '{given}'{hint}; there are {', '.join(names)}")


class RunConfig(BaseConfig):
    """A complete run: where it goes and the options of its parts, under the names that each verb has for them."""

    out: str = Field(description="the run folder")
    model: str = Field(description="the model of all parts: a folder or a hub name")
    shape: str | None = Field(
        None, description="the model's sizes for a dry run where it is not here: a shipped name, or a JSON file"
    )
    estimate: Assumed = Field(Assumed(), description="what a dry run takes to be so where it cannot know it")
    build: dict[str, Any] = Field(description="options of build and of the recipe; `recipe` is required")
    align: dict[str, Any] | None = Field(None, description="options of align and of the trainer; left out: no training")
    evaluate: dict[str, Any] | None = Field(None, description="options of evaluate; left out: no evaluation")

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = ()) -> Self:
        """The config in a YAML file, with settings such as `build.noise_step=300` over it.

        Raises:
            ConfigError: no file, not YAML, or an unknown or missing option.
        """
        return cls.parse(with_settings(read_yaml(path), settings), where=str(path))

    def options_of(self, part: Literal["build", "align", "evaluate"]) -> dict[str, Any]:
        """The flat options of a part; an empty `align:` part means all defaults."""
        if part == "build":
            return {"model": self.model, "out": self.out, **self.build}
        if part == "align":
            return {"model": self.model, "data": self.out, **(self.align or {})}
        return {"model": self.model, "run": self.out, **(self.evaluate or {})}

    def build_spec(self) -> BuildSpec:
        """The build; its prompts are read here."""
        return BuildSpec.parse(self.options_of("build"))

    def align_spec(self, build: BuildSpec | None = None) -> AlignSpec:
        """The training.

        Args:
            build: the build that the run will have; None: the run exists and is read.
        """
        if build is None:
            return AlignSpec.parse(self.options_of("align"))
        made = NamedPiece(build.recipe.name, build.recipe.to_plain())
        return AlignSpec.parse(self.options_of("align"), build.options.recipe, build.strategy, made)

    def evaluate_spec(self) -> EvaluateSpec:
        """The evaluation."""
        return EvaluateSpec.parse(self.options_of("evaluate"))


def plan(config: RunConfig) -> str:
    """Check every option, file and model folder that can be checked without loading a model.

    Returns:
        What will be done, a part a line.

    Raises:
        PairsightError: the first thing that is wrong.
    """
    build = config.build_spec()
    lines = [f"build: {build.recipe.name}, {len(build.source.given)} prompts, strategy {build.strategy.name}"]
    if config.align is not None:
        align = config.align_spec(build)
        launched().refuse_other_count(align.options.devices)  # now, not after hours of building
        training = align.training
        name = align.options.name or training.training_name
        times = f", each example {training.repeat} times an epoch" if training.repeat > 1 else ""
        epochs = f"{training.num_train_epochs:g} epochs{times}"
        lines.append(f"align: {name}, learning rate {training.learning_rate:g}, {epochs}")
    if config.evaluate is not None:
        if config.align is None and not config.evaluate.get("adapters"):
            raise ConfigError("evaluate needs an align part, or adapters of its own, to compare with the base")
        lines.append(f"evaluate: {', '.join(config.evaluate_spec().options.benchmarks)}")
    return "\n".join([f"run {config.out} with {config.model}", *(f"  {line}" for line in lines)])


def run_all(config: RunConfig, quiet: bool = False) -> tuple[Built, Results]:
    """Do all parts in order, then write the report; each part resumes where it stopped.

    Returns:
        What was built, and the run's results; these are empty when nothing was evaluated.
    """
    from pairsight.reporting.report import write_report

    built = build_run(config.build_spec(), quiet=quiet)
    if config.align is not None:
        align_run(config.align_spec(), quiet=quiet)
    results = evaluate_run(config.evaluate_spec(), quiet=quiet) if config.evaluate is not None else Results()
    write_report(Path(config.out))
    return built, results
