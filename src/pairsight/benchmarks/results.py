"""The results of an evaluation as records, and their form in `results.json`; see docs/dataflow.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from pairsight.benchmarks.published import PrintedFigure, Scalar, printed_figures
from pairsight.bounded import as_object
from pairsight.errors import DataError

SCHEMA = 2
"""The schema that is written. Schema 1, whose benchmarks have no evaluation and no file, can also be read."""

Verdict = Literal["better", "worse", "moved", "unclear", "unknown"]
"""`moved`: changed, but neither direction is better. `unclear`: the interval includes zero. `unknown`: no interval."""

_IRRELEVANT_SETTINGS = ("batch_size", "answers")
"""Settings that affect neither which questions were asked nor how."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the base and the aligned model, or of one model alone (`compared` False: its value is `base`).

    Values are fractions, never percent. `low` and `high` are the 95 % interval of the difference, or of the value if
    nothing is compared. None: undefined or unknown.
    """

    name: str
    better: str = ""
    base: float | None = None
    aligned: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    num_items: int | None = None
    unparsed: int | None = None
    unparsed_base: int | None = None
    temperature: float | None = None
    compared: bool = True

    @property
    def verdict(self) -> Verdict:
        """The conclusion that the interval allows."""
        if self.difference is None or self.low is None or self.high is None:
            return "unknown"
        if self.low <= 0.0 <= self.high:
            return "unclear"
        if self.better not in ("higher", "lower"):
            return "moved"
        return "better" if (self.difference > 0) == (self.better == "higher") else "worse"

    @classmethod
    def from_plain(cls, name: str, plain: Mapping[str, object]) -> Self:
        """An entry of `metrics` in `results.json`."""
        return cls(
            name=name,
            better=str(plain.get("better", "")),
            base=_number(plain.get("base", plain.get("value"))),
            aligned=_number(plain.get("aligned")),
            difference=_number(plain.get("difference")),
            low=_number(plain.get("low")),
            high=_number(plain.get("high")),
            p_value=_number(plain.get("p_value")),
            num_items=_count(plain.get("num_items")),
            unparsed=_count(plain.get("unparsed")),
            unparsed_base=_count(plain.get("unparsed_base")),
            temperature=_number(plain.get("temperature")),
            compared="value" not in plain,
        )

    def to_plain(self) -> dict[str, object]:
        """The metric as JSON."""
        plain: dict[str, object] = {"value": self.base, "low": self.low, "high": self.high}
        if self.compared:
            figures = ("base", "aligned", "difference", "low", "high", "p_value")
            plain = {figure: getattr(self, figure) for figure in figures}
        plain["better"] = self.better
        optional = ("num_items", "unparsed", "unparsed_base", "temperature")
        return plain | {name: getattr(self, name) for name in optional if getattr(self, name) is not None}


Metrics = Mapping[str, Metric]
"""Metric name -> metric."""


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark on one file in one evaluation, with its settings.

    Attributes:
        name: the benchmark's name; "" for a system's metrics that belong to no benchmark (schema 1).
        metrics: by the chosen parser, on all scored groups.
        evaluation: the evaluation's name within its run; "" if there is only one.
        file: the benchmark's file or folder, as given; "" if unknown (schema 1).
        models: fingerprints of the measured models: `base` and `aligned`; or `model`, whose answer file was scored.
        settings: how it was run: sha256 (of the file), rows, parser, prompt_suffix, temperature, limit and so on.
        fallbacks: what replaces missing tools of the original scorer.
        mean_words: model -> mean number of words of its answers.
        failed: model -> number of samples without an answer.
        failed_items: model -> the first of these samples, with the reason.
        other_parser: (parser, its metrics).
        categories: category -> metrics.
        published: figures that papers printed of the base.
    """

    name: str
    metrics: Metrics
    evaluation: str = ""
    file: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()
    mean_words: Mapping[str, float | None] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    failed_items: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_parser: tuple[str, Metrics] | None = None
    categories: Mapping[str, Metrics] = field(default_factory=dict)
    published: tuple[PrintedFigure, ...] = ()

    @property
    def title(self) -> str:
        """The title of its tables, with evaluation and file if known: "pope (held-out, random.json)"."""
        model = self.models.get("model", "")
        parts = [self.evaluation, Path(self.file).name, "" if model == "model" else model]
        details = ", ".join(part for part in parts if part)
        return f"{self.name} ({details})" if details else self.name

    def measures_same_as(self, other: "Section") -> bool:
        """Whether both are the same benchmark on the same file in the same evaluation, so that one replaces the other.

        If a file is unknown (schema 1), its hash decides.
        """
        if self.name != other.name or self.models.get("model") != other.models.get("model"):
            return False
        if self.file and other.file:
            return (self.evaluation, _resolved(self.file)) == (other.evaluation, _resolved(other.file))
        hash_here, hash_there = self.settings.get("sha256"), other.settings.get("sha256")
        return hash_here == hash_there or hash_here is None or hash_there is None

    def differs_from(self, other: "Section") -> str:
        """What makes this section incomparable with another one of the same measurement; "" if they can be compared.

        Compares the base model, the file's contents and the settings that both sections have.
        """
        if "base" in self.models and self.models["base"] != other.models.get("base", self.models["base"]):
            return "another base model"
        for name, value in self.settings.items():
            if name not in _IRRELEVANT_SETTINGS and other.settings.get(name, value) != value:
                return "another version of the file" if name == "sha256" else f"{name.replace('_', ' ')} {value}"
        return ""

    @classmethod
    def from_plain(cls, key: str, plain: Mapping[str, object]) -> Self:
        """An entry of `benchmarks` in `results.json`, of either schema."""
        other = _mapping(plain.get("other_parser"))
        named = ("evaluation", "benchmark", "file")
        return cls(
            name=str(plain.get("benchmark", key)),
            metrics=_metrics(plain.get("metrics")),
            evaluation=str(plain.get("evaluation", "")),
            file=str(plain.get("file", "")),
            models={str(role): str(model) for role, model in _mapping(plain.get("models")).items()},
            settings={name: value for name, value in plain.items() if isinstance(value, Scalar) and name not in named},
            fallbacks=_texts(plain.get("fallbacks")),
            mean_words={model: _number(words) for model, words in _mapping(plain.get("mean_words")).items()},
            failed={model: _count(count) or 0 for model, count in _mapping(plain.get("failed")).items()},
            failed_items={model: _texts(items) for model, items in _mapping(plain.get("failed_items")).items()},
            other_parser=(str(other["parser"]), _metrics(other.get("metrics"))) if other.get("parser") else None,
            categories={name: _metrics(metrics) for name, metrics in _mapping(plain.get("categories")).items()},
            published=printed_figures(plain.get("published")),
        )

    def to_plain(self) -> dict[str, object]:
        """The section as JSON."""
        identity = {"evaluation": self.evaluation, "benchmark": self.name, "file": self.file}
        plain: dict[str, object] = {name: value for name, value in identity.items() if value}
        plain |= {"models": dict(self.models)} if self.models else {}
        plain |= self.settings
        plain |= {
            "fallbacks": list(self.fallbacks),
            "mean_words": dict(self.mean_words),
            "failed": dict(self.failed),
            "failed_items": {model: list(items) for model, items in self.failed_items.items()},
            "metrics": _plain_metrics(self.metrics),
        }
        if self.other_parser is not None:
            plain["other_parser"] = {"parser": self.other_parser[0], "metrics": _plain_metrics(self.other_parser[1])}
        if self.categories:
            plain["categories"] = {name: _plain_metrics(metrics) for name, metrics in self.categories.items()}
        if self.published:
            plain["published"] = [figure.to_plain() for figure in self.published]
        return plain


@dataclass(frozen=True, slots=True)
class DataCounts:
    """The numbers of prompts and pairs of an adapter's run, and of dropped prompts by reason."""

    prompts: int
    pairs: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, plain: Mapping[str, object]) -> Self:
        """A system's `data` in `results.json`."""
        dropped = {str(reason): _count(count) or 0 for reason, count in _mapping(plain.get("dropped")).items()}
        return cls(_count(plain.get("prompts")) or 0, _count(plain.get("pairs")) or 0, dropped)

    def to_plain(self) -> dict[str, object]:
        """The counts as JSON."""
        return {"prompts": self.prompts, "pairs": self.pairs, "dropped": dict(self.dropped)}


@dataclass(frozen=True, slots=True)
class System:
    """One aligned model, compared with its base.

    Attributes:
        name: unique in its file.
        sections: its benchmarks; the first one's metrics are the system's.
        base: the base's fingerprint.
        aligned: the folder of the adapter or full model, relative to the run's folder if it is inside.
        adapter: the adapter's name.
        data: its training data.
        controls: control trainings to compare it with, by name.
    """

    name: str
    sections: tuple[Section, ...] = ()
    base: str = ""
    aligned: str = ""
    adapter: str = ""
    data: DataCounts | None = None
    controls: Mapping[str, "System"] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        """The first section's metrics."""
        return self.sections[0].metrics if self.sections else {}

    @property
    def figures(self) -> list[tuple[Section, Metric]]:
        """All metrics with the section each belongs to."""
        return [(section, metric) for section in self.sections for metric in section.metrics.values()]

    def control(self, name: str, section: Section, metric: str) -> Metric | None:
        """A control's metric on the same benchmark and file; None if it was not measured."""
        sections = self.controls[name].sections if name in self.controls else ()
        return next((one.metrics.get(metric) for one in sections if one.measures_same_as(section)), None)

    @classmethod
    def from_plain(cls, name: str, plain: Mapping[str, object]) -> Self:
        """An entry of `systems`, or of a system's `controls`, in `results.json`.

        Top-level metrics that repeat no benchmark's become a section without a name.
        """
        sections = [Section.from_plain(key, as_object(one)) for key, one in _mapping(plain.get("benchmarks")).items()]
        own = _metrics(plain.get("metrics"))
        if own and all(section.metrics != own for section in sections):
            sections.insert(0, Section("", own))
        models, data = _mapping(plain.get("models")), plain.get("data")
        controls = {key: System.from_plain(key, as_object(one)) for key, one in _mapping(plain.get("controls")).items()}
        return cls(
            name=name,
            sections=tuple(sections),
            base=str(models.get("base", "")),
            aligned=str(models.get("aligned", "")),
            adapter=str(plain.get("adapter", "")),
            data=DataCounts.from_plain(data) if isinstance(data, Mapping) else None,
            controls={key: control for key, control in controls.items() if control.sections},
        )

    def to_plain(self) -> dict[str, object]:
        """The system as JSON."""
        models = {"base": self.base, "aligned": self.aligned}
        plain: dict[str, object] = {"adapter": self.adapter} if self.adapter else {}
        plain |= {"models": {role: model for role, model in models.items() if model}}
        plain |= {"data": self.data.to_plain()} if self.data is not None else {}
        plain |= {"metrics": _plain_metrics(self.metrics), "benchmarks": _plain_sections(self.sections)}
        plain["controls"] = {name: control.to_plain() for name, control in self.controls.items()}
        return plain


@dataclass(frozen=True, slots=True)
class Results:
    """The content of a `results.json`: systems compared with their base, and sections of one model alone.

    Attributes:
        systems: by name, in the order they were added.
        sections: of a model that was evaluated alone.
        base: that model's fingerprint.
        run: the run's name.
        primary: the system whose metrics are also the file's top-level metrics.
    """

    systems: Mapping[str, System] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    base: str = ""
    run: str = ""
    primary: str = ""

    @property
    def primary_first(self) -> tuple[System, ...]:
        """All systems, the primary one first."""
        return tuple(sorted(self.systems.values(), key=lambda system: system.name != self.primary))

    @classmethod
    def from_plain(cls, plain: Mapping[str, object]) -> Self:
        """The content of a file of either schema.

        Raises:
            DataError: another schema, or a part has an unexpected shape.
        """
        schema = plain.get("schema", 1) if isinstance(plain, Mapping) else type(plain).__name__
        if schema not in (1, SCHEMA):
            raise DataError(f"schema {schema!r}, this Pairsight reads 1 and {SCHEMA}")
        try:
            named = as_object(plain.get("systems", {}))
            systems = {name: System.from_plain(name, as_object(one)) for name, one in named.items()}
            alone = System.from_plain("", plain).sections
            return cls(
                systems=systems,
                sections=tuple(section for section in alone if section.name or not systems),
                base=str(_mapping(plain.get("models")).get("base", "")),
                run=str(plain.get("run", "")),
                primary=str(plain.get("primary", "")),
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"a part has an unexpected shape: {error}") from None

    def to_plain(self) -> dict[str, object]:
        """The content as JSON."""
        plain: dict[str, object] = {"schema": SCHEMA}
        plain |= {"run": self.run} if self.run else {}
        if self.primary:
            plain |= {"primary": self.primary, "metrics": _plain_metrics(self.systems[self.primary].metrics)}
        plain |= {"models": {"base": self.base}} if self.base else {}
        if self.sections:
            plain["benchmarks"] = _plain_sections(self.sections)
        if self.systems:
            plain["systems"] = {name: system.to_plain() for name, system in self.systems.items()}
        return plain


def finite(value: float) -> float | None:
    """The number for JSON; None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def _plain_sections(sections: Sequence[Section]) -> dict[str, object]:
    """Sections by a unique key: EVALUATION/NAME, or NAME if there is only one evaluation."""
    plain: dict[str, object] = {}
    for section in sections:
        if not section.name:
            continue
        key = f"{section.evaluation}/{section.name}" if section.evaluation else section.name
        file, model = Path(section.file).name, section.models.get("model", "")
        keys = (key, f"{key} ({file})", f"{key} ({file}, {model})", f"{key} ({section.file}, {model})")
        unused = next((candidate for candidate in keys if candidate not in plain), f"{keys[-1]} {len(plain)}")
        plain[unused] = section.to_plain()
    return plain


def _plain_metrics(metrics: Metrics) -> dict[str, object]:
    return {name: metric.to_plain() for name, metric in metrics.items()}


def _metrics(plain: object) -> Metrics:
    return {str(name): Metric.from_plain(str(name), as_object(one)) for name, one in _mapping(plain).items()}


def _mapping(value: object) -> Mapping[str, object]:
    """An object that may be missing."""
    return as_object(value) if value else {}


def _resolved(file: str) -> str:
    return str(Path(file).expanduser().resolve())


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else ()


def _number(value: object) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, str | int | float):
        raise TypeError(f"a number is expected, found {type(value).__name__}")
    return finite(float(value))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
