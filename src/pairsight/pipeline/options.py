"""The options of each verb, with the same names on the command line and in a config file."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pairsight.config import BaseConfig
from pairsight.engine.calls.options import CallOptions
from pairsight.errors import ConfigError, did_you_mean
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.registry import recipes

if TYPE_CHECKING:
    from pairsight.recipes.recipe import Recipe


class BuildOptions(BaseConfig):
    """What `build` needs beside the recipe's own options."""

    flags: ClassVar[Mapping[str, str]] = {"model": "--model REF", "out": "--out DIR"}

    recipe: str = Field(description="a recipe's name, or file.py:Class")
    model: str | tuple[str, ...] = Field(description="what makes the completions; several where the recipe takes them")
    prompts: str | None = Field(None, description="a LLaVA-style JSON, a JSONL, or a folder of images")
    completions: str | None = Field(None, description="completions that exist already, to be rated, instead of prompts")
    dataset_answers: bool = Field(False, description="keep the prompts' own answers as completions, for strategy sft")
    images: str | None = Field(None, description="the folder that image names refer to; default: where `prompts` lies")
    out: str = Field(description="the run folder")
    annotator: str | None = Field(None, description="the model that rates completions, where the recipe needs one")
    writer: str | None = Field(None, description="the model that writes texts, where the recipe needs one")
    strategy: str | None = Field(None, description="how pairs are chosen; default: the recipe's own")
    format: str | None = Field(
        None, description="how prompts or completions are read: a format's name, or file.py:Class"
    )
    question: str | None = Field(None, description="the question asked of every image of a folder")
    sources: tuple[str, ...] = Field((), description="keep only images whose path starts with one of these")
    questions_per_dialogue: int | None = Field(None, ge=1, description="draw so many questions of each dialogue")
    per_source: int | None = Field(None, ge=1, description="draw so many prompts of each source")
    strip_short_answer: bool = Field(False, description="remove instructions such as 'Answer with a single word'")
    limit: int | None = Field(None, ge=1, description="use only the first so many prompts")
    seed: int = Field(0, ge=0, description="the seed of sampling, distortion and selection")
    engine: Literal["local", "processes", "ray"] = Field("local", description="where the work runs")
    workers: int = Field(1, ge=1, description="workers of the engine")
    on_error: Literal["stop", "skip"] = Field("stop", description="what a bad row of the prompts does")
    calls: CallOptions = Field(CallOptions(), description="rates, patience and budget of calls to endpoints")
    endpoint: EndpointOptions = Field(EndpointOptions(), description="how endpoints are asked")
    trust_remote_code: bool = Field(False, description="run code that comes with the model; only for models you trust")

    @property
    def models(self) -> tuple[str, ...]:
        """All models that make completions."""
        return (self.model,) if isinstance(self.model, str) else self.model


class AlignOptions(BaseConfig):
    """What `align` needs beside the trainer's own options."""

    flags: ClassVar[Mapping[str, str]] = {"model": "--model REF"}

    data: str = Field(description="a run folder, or a file or folder of preference pairs")
    model: str = Field(description="the model to align: a folder or a hub name")
    format: str | None = Field(None, description="how a file of pairs is read: a format's name, or file.py:Class")
    out: str | None = Field(None, description="the adapter's folder; default: RUN/align/NAME")
    name: str | None = Field(None, description="the adapter's name; default: the loss, or a strategy without pairs")
    strategy: str | None = Field(None, description="choose anew from the run's candidates; default: as it was built")
    strategy_options: dict[str, Any] = Field({}, description="the strategy's own options, e.g. min_total")
    max_length_difference: int | None = Field(
        None, ge=0, description="keep pairs whose chosen and rejected differ by at most so many words (a control)"
    )
    text_only_prompts: bool = Field(True, description="also learn from prompts without an image")
    limit: int | None = Field(None, ge=1, description="use only so many pairs, drawn by seed")
    merge: bool = Field(False, description="also write the full merged model, to OUT/merged")


class EvaluateOptions(BaseConfig):
    """What `evaluate` needs."""

    flags: ClassVar[Mapping[str, str]] = {"model": "--model REF", "benchmarks": "--benchmark NAME=PATH"}

    run: str | None = Field(None, description="the run whose adapters and results.json are meant")
    model: str = Field(description="the base model, always evaluated")
    adapters: dict[str, str] = Field({}, description="name -> adapter or full model; default: all of the run's")
    benchmarks: dict[str, str] = Field(description="benchmark name -> its official file or folder")
    images: str | None = Field(None, description="the folder that image names refer to")
    out: str | None = Field(None, description="default: RUN/evaluate/NAME")
    name: str = Field("held-out", description="the evaluation's name inside the run")
    benchmark_options: dict[str, dict[str, Any]] = Field({}, description="benchmark name -> its own options")
    export_official: str | None = Field(None, description="a folder for the answers as official scripts want them")
    parser: Literal["official", "robust"] = Field("official", description="how answers are read")
    temperature: float | None = Field(None, ge=0, le=5, description="instead of the benchmark's own decoding")
    batch_size: int = Field(32, ge=1, description="questions answered at once")
    limit: int | None = Field(None, ge=1, description="only so many groups of each benchmark")
    seed: int = Field(0, ge=0, description="the seed of sampled answers and of the bootstrap")
    engine: Literal["local", "processes", "ray"] = Field("local", description="where the work runs")
    workers: int = Field(1, ge=1, description="workers of the engine")
    on_error: Literal["stop", "skip"] = Field("stop", description="what a bad row or image of a benchmark does")
    calls: CallOptions = Field(CallOptions(), description="rates, patience and budget of calls to endpoints")
    endpoint: EndpointOptions = Field(EndpointOptions(), description="how endpoints are asked")
    trust_remote_code: bool = Field(False, description="run code that comes with the model; only for models you trust")


class ScoreOptions(BaseConfig):
    """What `score` needs."""

    flags: ClassVar[Mapping[str, str]] = {
        "benchmarks": "--benchmark NAME=PATH",
        "answers": "--answers FILE",
        "out": "--out DIR",
    }

    benchmarks: dict[str, str] = Field(description="the benchmark's name -> its official file or folder; one")
    benchmark_options: dict[str, dict[str, Any]] = Field({}, description="benchmark name -> its own options")
    answers: str = Field(description="the answers, in the benchmark's official format")
    out: str = Field(description="where tables and results go")
    model: str = Field("model", description="whose answers they are")
    parser: Literal["official", "robust"] = Field("official", description="how answers are read")
    seed: int = Field(0, ge=0, description="the seed of the bootstrap")


def split(
    values: Mapping[str, Any], own: type[BaseConfig], other: type[BaseConfig], where: str, also: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide one flat mapping of options between a verb's own class and another's (the recipe's, the trainer's).

    Args:
        values: option name -> value.
        own: the verb's options.
        other: the recipe's or the trainer's; a name that both have goes to both.
        where: what to call the verb in an error.
        also: further names that are known, to offer in an error.

    Raises:
        ConfigError: a name neither knows, with the nearest right one.
    """
    mine = {name: value for name, value in values.items() if name in own.model_fields}
    rest = {name: value for name, value in values.items() if name not in own.model_fields}
    for name in rest:
        if name not in other.model_fields:
            known = [*own.model_fields, *other.model_fields, *also]
            raise ConfigError(f"{where}: unknown option '{name}'{did_you_mean(name, known)}")
    shared = {name: values[name] for name in other.model_fields if name in mine}
    return mine, {**shared, **rest}


def recipe_class(name: str) -> "type[Recipe]":
    """The recipe's class, by name or `file.py:Class`."""
    if not name:
        raise ConfigError(
            f"build: option 'recipe' is missing; it is one of {', '.join(recipes.names())}, or file.py:Class"
        )
    found: type[Recipe] = recipes.get(name)
    return found
