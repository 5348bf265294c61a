"""The strict base of every config: frozen, unknown names refused with the nearest known one, YAML in and out.

An option is a field: its type, default and description (the help text) are pydantic's; what else it is, `Option` says.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import to_jsonable_python

from pairsight.bounded import MOST_YAML_BYTES, DuplicateKeyError, load_yaml, read_bounded
from pairsight.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Option:
    """What an option is besides its type, default and description: `Annotated[int, Option(flag="--seed")]`.

    Args:
        flag: its own flag on the command line; "": it is given by `--set` or a config file.
        argument: what the help calls it, where it is a positional argument.
        value: what the help calls the flag's value; "": by its type.
        path: it is a path, and is written without a closing slash or the like.
        required: the command line asks for the flag, whatever a config file says.
        identity: a run is only resumed with the same value; False for what names something (a model, a file), which is
            compared by what it names.
        results: another value can give another result; what cannot is not part of the identity either.
        recorded: the run's record (`run.yaml`, `selection.yaml`) notes it under its own name.
        late: it is newer than the record: noted only where it is not the default, so that older runs are the same.
        needs: the option without which it would do nothing; "a file": one of prompts or completions, which it is for;
            "a dataset": one that is named instead of a run.
        by_benchmark: it is noted and compared as a part of each benchmark, to which others can be added.
    """

    flag: str = ""
    argument: str = ""
    value: str = ""
    path: bool = False
    required: bool = False
    identity: bool = True
    results: bool = True
    recorded: bool = True
    late: bool = False
    needs: str = ""
    by_benchmark: bool = False

    @property
    def compared(self) -> bool:
        """Whether a run is only resumed with the same value."""
        return self.identity and self.results


class BaseConfig(BaseModel):
    """A frozen set of options. Subclasses list fields with types, defaults and `Field(description=...)`.

    A list option is also taken as one text with commas: `--set lora_target_modules=q_proj,v_proj`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # a type checker knows the fields

        def __init__(self, /, **values: Any) -> None:
            """As `parse`, for Python: a wrong option is one line too."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                cls = type(self)
                raise ConfigError(_validation_message(cls, error, cls.__name__)) from None

        __init__.__pydantic_base_init__ = True  # pydantic's own validation, also of nested configs, does not call it

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        lists = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        if not isinstance(values, Mapping) or not lists & values.keys():
            return values
        return {name: _listed(value) if name in lists else value for name, value in values.items()}

    @classmethod
    def parse(cls, values: Mapping[str, object], where: str = "") -> Self:
        """Build the config from plain values.

        Args:
            values: option name -> value.
            where: what to call the source in an error, e.g. the file's path.

        Raises:
            ConfigError: an unknown name (with the nearest known one), a value out of range, or a required option that
                is missing (with how to give it), in one line.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(_validation_message(cls, error, where)) from None

    def to_plain(self) -> dict[str, object]:
        """The config as JSON-ready values; `parse` of it gives an equal config."""
        return self.model_dump(mode="json")

    def given(self) -> dict[str, object]:
        """The options that were given when the config was made, as `parse` takes them; the others have defaults."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def _listed(value: Any) -> Any:
    """A text split at its commas, and a number as a list of one; anything else, also with an empty part, unchanged."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        return parts if all(parts) else value
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def split(
    values: Mapping[str, object], own: type[BaseConfig], other: type[BaseConfig], where: str, also: Sequence[str] = ()
) -> tuple[dict[str, object], dict[str, object]]:
    """Divide one flat mapping of options between a verb's own class and another's (the recipe's, the trainer's).

    Args:
        values: option name -> value.
        own: the verb's options.
        other: the recipe's or the trainer's class; a name that both have goes to both.
        where: the verb's name, for errors.
        also: further known names, to suggest in an error.

    Raises:
        ConfigError: a name that neither has, with the nearest known one.
    """
    mine = {name: value for name, value in values.items() if name in own.model_fields}
    rest = {name: value for name, value in values.items() if name not in own.model_fields}
    for name in rest:
        if name not in other.model_fields:
            known = [*own.model_fields, *other.model_fields, *also]
            raise ConfigError(f"{where}: unknown option '{name}'{did_you_mean(name, known)}")
    shared = {name: values[name] for name in other.model_fields if name in mine}
    return mine, {**shared, **rest}


def option_facts(cls: type[BaseConfig]) -> dict[str, Option]:
    """Every option of a class with what its `Option` says of it, in field order."""
    return {
        name: next((one for one in field.metadata if isinstance(one, Option)), Option())
        for name, field in cls.model_fields.items()
    }


def recorded(config: BaseConfig) -> dict[str, object]:
    """The options that a record notes under their own names, as plain values."""
    plain, usual = config.to_plain(), plain_defaults(type(config))
    facts = option_facts(type(config)).items()
    return {
        name: plain[name]
        for name, option in facts
        if option.recorded and not (option.late and plain[name] == usual.get(name))
    }


def plain_defaults(cls: type[BaseConfig]) -> dict[str, object]:
    """The default of every option that has one, as `to_plain` would write it."""
    fields = cls.model_fields.items()
    return {name: to_jsonable_python(field.default) for name, field in fields if not field.is_required()}


def read_yaml(path: str | Path) -> dict[str, object]:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, goes beyond the bounds of `load_yaml`, holds no mapping, or has a
            name twice in one mapping.
    """
    file = Path(path)
    try:
        values = load_yaml(read_bounded(file, MOST_YAML_BYTES))
    except OSError as error:
        raise ConfigError(f"config {file}: {error.strerror}") from None
    except DuplicateKeyError as error:
        raise ConfigError(f"config {file} has {error}") from None
    except ValueError as error:
        raise ConfigError(f"config {file} is not YAML we can read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config {file} must hold 'name: value' lines, found {type(values).__name__}")
    for name in values:
        if not isinstance(name, str):
            raise ConfigError(f"config {file}: the name {name!r:.60} must be text, found {type(name).__name__}")
    return values


def with_settings(values: Mapping[str, object], settings: Sequence[str]) -> dict[str, object]:
    """`values` with `["beta=0.2", "calls.budget=3"]` on top; a dot goes into a mapping, whose other names stay.

    Raises:
        ConfigError: a setting without '=', whose value is not YAML, that goes into something that is not a mapping, or
            of a name that another setting has set already.
    """
    result = deepcopy(dict(values))
    done: list[list[str]] = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set '{setting}' must be key=value")
        path = name.strip().split(".")
        if any(path[: len(other)] == other[: len(path)] for other in done):
            raise ConfigError(f"--set '{setting}': '{name.strip()}' is set twice")
        done.append(path)
        inner: Any = result
        for depth, parent in enumerate(path[:-1], start=1):
            if inner.get(parent) is None:
                inner[parent] = {}
            inner = inner[parent]
            if not isinstance(inner, dict):
                raise ConfigError(f"--set '{setting}': '{'.'.join(path[:depth])}' is {inner!r:.60} and has no parts")
        try:
            inner[path[-1]] = load_yaml(text)
        except ValueError:
            raise ConfigError(f"--set '{setting}': the value is not YAML") from None
    return result


def _validation_message(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    parts = []
    for problem in error.errors():
        name = ".".join(str(piece) for piece in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown option '{name}'{did_you_mean(name, list(cls.model_fields))}")
        elif problem["type"] == "missing":
            parts.append(_missing(cls, name))
        else:
            value = repr(problem.get("input"))[:80]
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "tuple_type":
                message = "must be a list, or its values with commas between them"
            # an error of ours says what was found, and leaves out what may be secret
            found = "" if isinstance(problem.get("ctx", {}).get("error"), ConfigError) else f" (found {value})"
            parts.append(f"option '{name}': {message}{found}" if name else message)
    prefix = f"{where}: " if where else ""
    return prefix + "; ".join(parts)


def _missing(cls: type[BaseModel], name: str) -> str:
    """The message about a required option that was not given: what it is, and how to give it."""
    description = cls.model_fields[name].description if name in cls.model_fields else None
    facts = option_facts(cls).get(name, Option()) if issubclass(cls, BaseConfig) else Option()
    way = f"{facts.flag} {facts.value}".rstrip() if facts.flag else f"--set {name}=..."
    return f"option '{name}' is missing{f' ({description})' if description else ''}: give {way}, or it in a config file"
