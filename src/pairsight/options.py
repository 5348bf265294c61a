"""The options of each verb, each declared once, for command line, config files, records, resume check and reports.

An option's name is the same on the command line and in a config file. What is not in the field itself (its flag,
whether it is part of a run's identity, ...) is in its `Option`.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from pairsight.config import BaseConfig, Option
from pairsight.engine.calls.options import CallOptions
from pairsight.errors import ConfigError
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.registry import ALLOWED_IN_A_NAME, BASE, is_adapter_name, is_folder_name, recipes

if TYPE_CHECKING:
    from pairsight.recipes.recipe import Recipe

ANNOTATION_FILE = "annotation.yaml"
"""In a run's folder: its option `annotation`, where that is not the default, as `annotation: FILE` takes it."""

# Options that several verbs share.
Engine = Annotated[
    Literal["local", "processes", "ray"],
    Option("--engine", results=False),
    Field(description="local, processes or ray"),
]
Workers = Annotated[int, Option("--workers", results=False), Field(ge=1, description="number of workers of the engine")]
Calls = Annotated[
    CallOptions, Option(results=False), Field(description="rate limits, retries and budget of calls to endpoints")
]
Endpoint = Annotated[EndpointOptions, Option(identity=False), Field(description="the form of requests to endpoints")]
ProfileName = Annotated[
    str | None,
    Option("--profile", value="NAME|FILE.yaml", identity=False, late=True),
    Field(description="how images are shown and prompts written: llava-1.5, llava_v1, a YAML file, or none"),
]
ChatTemplate = Annotated[
    str | None,
    Option("--chat-template", value="NAME|FILE", identity=False, late=True),
    Field(description="for a model whose folder has no chat template: vicuna_v1, llama-2, plain, or a file of Jinja"),
]


class BuildOptions(BaseConfig):
    """The options of `build`, apart from the recipe's own."""

    recipe: Annotated[str, Option(argument="recipe", recorded=False)] = Field(
        description="seva, feedback, synthetic, or file.py:Class"
    )
    model: Annotated[str | tuple[str, ...], Option("--model", identity=False, value="MODEL")] = Field(
        (), description="what makes the completions: a folder, a hub name, or endpoint:NAME@URL; repeatable"
    )
    prompts: Annotated[
        str | dict[str, str] | None, Option("--prompts", identity=False, path=True, value="[SOURCE=]FILE")
    ] = Field(
        None,
        description="LLaVA-style JSON, JSONL, or a folder of images (with --question); several, repeated: SOURCE=FILE",
    )
    completions: Annotated[
        str | dict[str, str] | None, Option("--completions", identity=False, path=True, value="[SOURCE=]FILE")
    ] = Field(
        None, description="rate these instead of sampling (feedback), or choose among them, the first one clean (seva)"
    )
    distorted: Annotated[tuple[str, ...], Option("--distorted", identity=False, value="[SOURCE=]FILE", late=True)] = (
        Field((), description="answers to distorted images, in the order of those in --completions (seva); repeatable")
    )
    dataset_answers: Annotated[bool, Option(needs="prompts")] = Field(
        False, description="keep the prompts' own answers as completions, for strategy sft"
    )
    images: Annotated[
        str | dict[str, str] | None,
        Option("--images", identity=False, path=True, needs="a file", value="[SOURCE=]DIR"),
    ] = Field(
        None,
        description="the folder that image names refer to; default: where the prompts are; repeated, SOURCE=DIR is the "
        "folder of names that begin with SOURCE/",
    )
    out: Annotated[str, Option("--out", value="DIR", path=True, results=False, recorded=False)] = Field(
        description="where to write: the run folder"
    )
    annotator: Annotated[str | None, Option("--annotator", identity=False)] = Field(
        None, description="the model that rates (feedback)"
    )
    annotation: Annotated[AnnotationOptions, Option(late=True)] = Field(
        OURS, description="how the annotator (feedback) or judge (synthetic) is asked: options, or a YAML file of them"
    )
    writer: Annotated[str | None, Option("--writer", identity=False)] = Field(
        None, description="the model that writes texts (synthetic)"
    )
    strategy: Annotated[str | None, Option(recorded=False)] = Field(
        None, description="how pairs are chosen; default: the recipe's own"
    )
    format: Annotated[str | None, Option("--format", identity=False, late=True)] = Field(
        None, description="how the file is read: a format's name, or file.py:Class"
    )
    question: Annotated[str | None, Option("--question", needs="prompts")] = Field(
        None, description="the question for a folder of images"
    )
    sources: Annotated[tuple[str, ...], Option("--sources", needs="prompts")] = Field(
        (), description="keep images whose path starts with this; repeatable"
    )
    questions_per_dialogue: Annotated[int | None, Option("--questions-per-dialogue", needs="prompts")] = Field(
        None, ge=1, description="draw this many questions from each dialogue"
    )
    per_source: Annotated[int | None, Option("--per-source", needs="prompts")] = Field(
        None, ge=1, description="draw this many prompts from each source"
    )
    complete_dialogues: Annotated[bool, Option(needs="prompts", late=True)] = Field(
        False, description="let per_source draw dialogues, with all questions drawn from each, instead of prompts"
    )
    strip_short_answer: Annotated[bool | tuple[str, ...], Option(needs="prompts")] = Field(
        False, description="remove instructions such as 'Answer with a single word': true, or of which sources"
    )
    limit: Annotated[int | None, Option("--limit", needs="a file")] = Field(
        None, ge=1, description="use only this many prompts, the first ones"
    )
    seed: Annotated[int, Option("--seed")] = Field(
        0, ge=0, description="the random seed of sampling, distortion and selection"
    )
    profile: ProfileName = None
    chat_template: ChatTemplate = None
    load_in_4bit: Annotated[bool | None, Option(identity=False, late=True)] = Field(
        None, description="keep the language model's linear layers in 4 bits (nf4) while it makes completions"
    )
    engine: Engine = "local"
    workers: Workers = 1
    on_error: Annotated[Literal["stop", "skip"], Option("--on-error", needs="a file")] = Field(
        "stop", description="stop (default) or skip and count bad rows"
    )
    calls: Calls = CallOptions()
    endpoint: Endpoint = EndpointOptions()
    trust_remote_code: bool = Field(False, description="run code that comes with the model; only for models you trust")

    @field_validator("strip_short_answer", "sources", mode="before")
    @classmethod
    def _as_sources(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        if isinstance(names, list | tuple) and not all(str(source).strip() for source in names):
            raise ValueError("an empty source names every row; name a source, e.g. ocr_vqa/")
        return [source.strip() for source in names] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _draws_dialogues(self) -> Self:
        if self.complete_dialogues and self.per_source is None:
            raise ValueError("complete_dialogues says how per_source draws: give --per-source as well")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """All models that make completions."""
        return (self.model,) if isinstance(self.model, str) else self.model


class AlignOptions(BaseConfig):
    """The options of `align`, apart from the trainer's own."""

    data: Annotated[str, Option(argument="RUN|DATASET", path=True, identity=False)] = Field(
        description="a run folder, or a dataset: a file, a folder, or OWNER/NAME on the hub"
    )
    model: Annotated[str, Option("--model", value="MODEL", identity=False, recorded=False)] = Field(
        description="the model to align: a folder or a hub name"
    )
    profile: ProfileName = None
    chat_template: ChatTemplate = None
    format: Annotated[str | None, Option("--format", late=True, needs="a dataset")] = Field(
        None, description="how a dataset is read: a format's name, or file.py:Class; default: it is found out"
    )
    images: Annotated[str | None, Option("--images", identity=False, path=True, late=True, needs="a dataset")] = Field(
        None, description="the folder that a dataset's image names refer to; default: the dataset's own"
    )
    columns: Annotated[str | None, Option("--columns", value="NAME=COLUMN,…", late=True, needs="a dataset")] = Field(
        None, description="what a dataset calls its columns: prompt=question,chosen=a,rejected=b,image=img"
    )
    on_error: Annotated[Literal["stop", "skip"] | None, Option("--on-error", late=True, needs="a dataset")] = Field(
        None, description="a dataset's bad rows: stop (default), or skip and count them"
    )
    allow_download: Annotated[bool, Option("--allow-download", identity=False, recorded=False, needs="a dataset")] = (
        Field(False, description="fetch a dataset from the hub, and images at web addresses")
    )
    adapter: Annotated[str | None, Option("--adapter", value="DIR", path=True, identity=False, late=True)] = Field(
        None, description="go on from this adapter, with its rank and scale, instead of from the model alone"
    )
    out: Annotated[str | None, Option("--out", value="DIR", path=True, results=False, recorded=False)] = Field(
        None, description="where to write; default: RUN/align/NAME"
    )
    name: Annotated[str | None, Option("--name", results=False, recorded=False)] = Field(
        None, description="the adapter's name inside the run; default: the loss, or a strategy without pairs"
    )
    strategy: Annotated[str | None, Option("--strategy", recorded=False)] = Field(
        None, description="choose pairs from the candidates again, with this strategy; default: the run's pairs"
    )
    strategy_options: Annotated[dict[str, Any], Option(recorded=False)] = Field(
        {}, description="the strategy's own options, e.g. min_total"
    )
    max_length_difference: int | None = Field(
        None, ge=0, description="keep pairs whose chosen and rejected differ by at most this many words (a control)"
    )
    text_only_prompts: bool = Field(True, description="also learn from prompts without an image")
    per_source: Annotated[dict[str, PositiveInt], Option(late=True)] = Field(
        {}, description="use only this many pairs of each of these sources, drawn by seed: {ocr_vqa: 4300}"
    )
    limit: Annotated[int | None, Option("--limit")] = Field(
        None, ge=1, description="use only this many pairs, drawn by seed"
    )
    devices: Annotated[int, Option("--devices", results=False, recorded=False)] = Field(
        1, ge=1, description="train in this many processes, a GPU each (without GPUs: on the CPU)"
    )
    merge: Annotated[bool, Option("--merge", results=False, recorded=False)] = Field(
        False, description="also write the full merged model, to OUT/merged"
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not is_adapter_name(value):
            raise ValueError(f"{ALLOWED_IN_A_NAME}, and not '{BASE}'")
        return value


class EvaluateOptions(BaseConfig):
    """The options of `evaluate`."""

    run: Annotated[str | None, Option(argument="[RUN]", path=True, identity=False)] = Field(
        None, description="the run whose adapters are evaluated and whose results.json is written"
    )
    model: Annotated[str, Option("--model", value="MODEL")] = Field(
        description="the base model, always evaluated: a folder, a hub name, or endpoint:NAME@URL"
    )
    adapters: Annotated[dict[str, str], Option("--adapter", value="NAME=DIR", identity=False)] = Field(
        {}, description="an adapter or full model to compare; repeatable; default: all of the run's"
    )
    benchmarks: Annotated[dict[str, str], Option("--benchmark", value="NAME=PATH", by_benchmark=True)] = Field(
        description="an official file, or folder, of a benchmark; repeatable"
    )
    images: Annotated[str | None, Option("--images", path=True, identity=False)] = Field(
        None, description="the folder that image names refer to"
    )
    out: Annotated[str | None, Option("--out", value="DIR", path=True, results=False)] = Field(
        None, description="where to write; default: RUN/evaluate/NAME"
    )
    name: Annotated[str, Option("--name", results=False)] = Field(
        "held-out", description="the evaluation's name inside the run"
    )
    benchmark_options: Annotated[dict[str, dict[str, Any]], Option(by_benchmark=True)] = Field(
        {}, description="benchmark name -> its own options, and temperature, prompt_suffix, max_new_tokens"
    )
    export_official: Annotated[str | None, Option("--export-official", path=True, results=False)] = Field(
        None, description="also write what the official scripts and servers accept"
    )
    parser: Annotated[Literal["official", "robust"], Option("--parser", identity=False)] = Field(
        "official", description="official (default) or robust"
    )
    temperature: Annotated[float | None, Option("--temperature", by_benchmark=True)] = Field(
        None, ge=0, le=5, description="instead of greedy decoding"
    )
    judge: Annotated[str | None, Option("--judge", value="MODEL", identity=False)] = Field(
        None, description="what judges the answers to benchmarks that need it: a folder, or endpoint:NAME@URL"
    )
    second_judge: Annotated[str | None, Option(identity=False, needs="judge")] = Field(
        None, description="another judge, to say how far the two agree"
    )
    batch_size: Annotated[int, Option(results=False)] = Field(32, ge=1, description="questions answered at once")
    limit: Annotated[int | None, Option("--limit")] = Field(
        None, ge=1, description="use only this many groups of each benchmark"
    )
    seed: Annotated[int, Option("--seed")] = Field(
        0, ge=0, description="the random seed of sampled answers and of the bootstrap"
    )
    profile: Annotated[str | None, Option("--profile", value="NAME|FILE.yaml")] = Field(
        None, description="how images are shown and prompts written; default: as the adapters were trained"
    )
    chat_template: ChatTemplate = None
    load_in_4bit: bool = Field(
        False, description="keep the language model's linear layers in 4 bits (nf4) while it answers"
    )
    engine: Engine = "local"
    workers: Workers = 1
    on_error: Annotated[Literal["stop", "skip"], Option("--on-error", identity=False)] = Field(
        "stop", description="stop (default) or skip and count bad images and questions"
    )
    calls: Calls = CallOptions()
    endpoint: Endpoint = EndpointOptions()
    trust_remote_code: Annotated[bool, Option(identity=False)] = Field(
        False, description="run code that comes with the model; only for models you trust"
    )

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not is_folder_name(value):
            raise ValueError(ALLOWED_IN_A_NAME)
        return value

    @model_validator(mode="after")
    def _is_compared_with_a_judge(self) -> Self:
        if self.second_judge is not None and self.judge in (None, self.second_judge):
            raise ValueError("second_judge needs another --judge to be compared with")
        return self


class ScoreOptions(BaseConfig):
    """The options of `score`."""

    answers: Annotated[str, Option("--answers", value="FILE", path=True, required=True)] = Field(
        description="answers in the benchmark's official format"
    )
    out: Annotated[str, Option("--out", value="DIR", path=True, required=True)] = Field(description="where to write")
    benchmarks: Annotated[dict[str, str], Option("--benchmark", value="NAME=PATH")] = Field(
        description="one official file, or folder, of a benchmark"
    )
    benchmark_options: dict[str, dict[str, Any]] = Field({}, description="benchmark name -> its own options")
    model: Annotated[str, Option("--model")] = Field("model", description="the model that gave the answers")
    parser: Annotated[Literal["official", "robust"], Option("--parser")] = Field(
        "official", description="official (default) or robust"
    )
    seed: Annotated[int, Option("--seed")] = Field(0, ge=0, description="the random seed of the bootstrap")
    verdicts: Annotated[str | None, Option("--verdicts", value="FILE", path=True)] = Field(
        None, description="a judge's verdicts on these answers, as the official script keeps them"
    )
    judge: Annotated[str | None, Option("--judge", value="MODEL")] = Field(
        None, description="what judges answers to a benchmark that needs it: a folder, or endpoint:NAME@URL"
    )
    calls: Calls = CallOptions()
    endpoint: Endpoint = EndpointOptions()

    @model_validator(mode="after")
    def _has_one_source_of_verdicts(self) -> Self:
        if self.verdicts is not None and self.judge is not None:
            raise ValueError("give --judge or --verdicts, not both")
        unused = [name for name in ("calls", "endpoint") if name in self.model_fields_set and self.judge is None]
        if unused:
            raise ValueError(f"{unused[0]} changes nothing without a --judge that is asked")
        return self


def recipe_class(name: str) -> "type[Recipe]":
    """The recipe's class, by name or `file.py:Class`."""
    if not name:
        raise ConfigError(
            f"build: option 'recipe' is missing; it is one of {', '.join(recipes.names())}, or file.py:Class"
        )
    found: type[Recipe] = recipes.get(name)
    return found
