"""Flags made from the verbs' options, and how options are merged: flags over `--set` over the config file."""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pairsight.config import Option

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with the same names as the flags")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any option by name; repeatable")]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE.py", help="a file whose code may run where a config or a run names it; repeatable"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress display")]

WORDS: list[str] = []
"""The words of this call, for processes that repeat it."""


class _Once:
    """Refuses a flag that takes one value and is given twice: the second would silently replace the first."""

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)  # type: ignore[misc]
        parse = parser.parse_args

        def parse_once(args: list[str]) -> Any:
            values, rest, order = parse(args=args)
            for param in order:
                if order.count(param) > 1 and param.param_type_name == "option" and not param.multiple:
                    ctx.fail(f"{param.opts[0]} is given {order.count(param)} times; it takes one value")
            return values, rest, order

        parser.parse_args = parse_once
        return parser


class Command(_Once, TyperCommand):
    """A verb."""


class Group(_Once, TyperGroup):
    """A verb that has verbs of its own."""


def add_verb(app: typer.Typer, body: Callable[..., int | None], *classes: str) -> None:
    """Add a verb whose flags are options that classes declare.

    The classes are imported when the verb's flags are needed, so that the other verbs start fast.

    Args:
        app: the command.
        body: the verb: it takes the given options as one mapping, and then flags of its own; returns the exit status.
        classes: "module:Class" of the options' `BaseConfig` classes; where two declare a name, the first one's is used.
    """

    @functools.cache
    def complete() -> Any:
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cls=Command)(_callback(body, classes))
        return typer.main.get_command(alone)

    class Verb(Command):
        params = property(lambda self: complete().params, lambda self, value: None)

        def invoke(self, ctx: Any) -> Any:
            return complete().invoke(ctx)

    def stub() -> None: ...

    app.command(body.__name__, cls=Verb, help=body.__doc__)(stub)


def _callback(body: Callable[..., int | None], classes: Sequence[str]) -> Callable[..., int | None]:
    """The verb as a function with all its flags in its signature."""
    declared = _declared(classes)
    _, *own = signature(body).parameters.values()

    def run(**given: Any) -> int | None:
        options = {name: _given_value(*declared[name], given[name]) for name in declared}
        trust(given["plugin"])
        return body(merge(given["config"], given["settings"], options), **{one.name: given[one.name] for one in own})

    shared = [_keyword(name, kind, None) for name, kind in (("plugin", Plugin), ("config", Config), ("settings", Set))]
    before = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own if one.name != "quiet"]
    after = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own if one.name == "quiet"]
    made = [_parameter(name, *facts) for name, facts in declared.items()]
    run.__signature__ = Signature([*made, *before, *shared, *after])  # type: ignore[attr-defined]
    return run


def _declared(classes: Sequence[str]) -> dict[str, "tuple[FieldInfo, Option]"]:
    """The options that are flags or arguments, by name."""
    from pairsight.config import option_facts

    found: dict[str, tuple[FieldInfo, Option]] = {}
    for target in classes:
        module, _, name = target.partition(":")
        cls = getattr(importlib.import_module(module), name)
        for option, facts in option_facts(cls).items():
            if facts.flag or facts.argument:
                found.setdefault(option, (cls.model_fields[option], facts))
    return found


def _kinds(annotation: Any) -> set[Any]:
    """The types that an option's values may have, without type arguments."""
    either = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = {get_origin(one) or one for one in either if one is not NoneType}
    return {str if kind is Literal else kind for kind in kinds}


def _parameter(name: str, field: "FieldInfo", facts: "Option") -> Parameter:
    """An option as typer reads it."""
    kinds = _kinds(field.annotation)
    kind: Any = list[str] if kinds & {tuple, dict} else Path if facts.path else next(iter(kinds))
    required = field.is_required() if facts.argument else facts.required
    info = (
        typer.Argument(metavar=facts.argument, help=field.description)
        if facts.argument
        else typer.Option(facts.flag, metavar=facts.value or None, help=field.description)
    )
    if required or kind is bool:
        return _keyword(name, Annotated[kind, info], Parameter.empty if required else False)
    return _keyword(name, Annotated[kind | None, info], None)


def _keyword(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _given_value(field: "FieldInfo", facts: "Option", value: Any) -> Any:
    """A flag's value as the option takes it: `NAME=PATH` entries as a mapping, a single text as itself if allowed."""
    if isinstance(value, list):
        if not value:
            return None
        kinds = _kinds(field.annotation)
        if {dict, str} <= kinds:
            return one_or_named_paths(value, facts.flag)
        if dict in kinds:
            return named_paths(value, facts.flag)
        if str in kinds and len(value) == 1:
            return value[0]
    return value


def merge(config: Path | None, settings: Sequence[str] | None, flags: Mapping[str, object]) -> dict[str, object]:
    """One mapping of options: the file's, then `--set`'s, then the flags that were given."""
    from pairsight.config import read_yaml, with_settings
    from pairsight.registry import name_plugins

    typed = with_settings({}, settings or [])
    name_plugins(typed, flags)
    read = read_yaml(config) if config else {}
    values = with_settings(read, settings or [])
    check_config(values, typed, str(config))
    check_redirects(read.get("calls"), typed.get("calls"), [typed, flags], str(config))
    for name, value in flags.items():
        if value is not None and value != [] and value is not False:
            values[name] = str(value) if isinstance(value, Path) else value
    return values


def trust(plugins: Sequence[Path] | None, *typed: Any) -> None:
    """Allow this call to run code from the files of `--plugin`, and from those that its own arguments name.

    Raises:
        ConfigError: a `--plugin` that is not a Python file.
    """
    from pairsight.errors import ConfigError
    from pairsight.registry import name_plugins

    for file in plugins or ():
        if file.suffix != ".py" or not file.is_file():
            raise ConfigError(f"--plugin {file} must be an existing Python file (FILE.py)")
    name_plugins(list(plugins or ()), *typed)


def check_config(values: Mapping[str, object], typed: Mapping[str, object], file: str) -> None:
    """Check that a config file alone, which may be a stranger's, sends no key to a host of its choice and runs no code.

    Args:
        values: the file's options merged with those of `--set`, with nested parts.
        typed: the options of `--set` alone.
        file: the file's name, for the error.

    Raises:
        ConfigError: the file alone sets `trust_remote_code`, or lets `key_env` send a variable to a host other than
            this machine or the service that it belongs to.
    """
    from pairsight.engine.calls.options import KEY_OF_HOST
    from pairsight.engine.calls.receive import LOOPBACK_HOSTS
    from pairsight.errors import ConfigError

    def check(values: Mapping[str, object], typed: Any, path: tuple[str, ...]) -> None:
        typed = typed if isinstance(typed, Mapping) else {}
        for name, value in values.items():
            where = ".".join([*path, str(name)])
            own = typed.get(name)
            if name == "trust_remote_code" and value and own is None:
                raise ConfigError(
                    f"config {file}: {where} lets a model's own code run, which a file alone may not; if you trust the "
                    f"model, add --set {where}=true"
                )
            if name == "key_env" and value and value != own:
                of_host = value if isinstance(value, Mapping) else {"": value}
                for host, variable in of_host.items():
                    named = own.get(host) if isinstance(own, Mapping) else None
                    known = str(host).lower() in LOOPBACK_HOSTS or KEY_OF_HOST.get(str(host).lower()) == variable
                    if variable != named and not known:
                        to = f"to {host}" if host else "to the host that is called"
                        wanted = f"{{{host}: {variable}}}" if host else variable
                        raise ConfigError(
                            f"config {file}: {where} sends the key in {variable} {to}, which a file alone may not; if "
                            f"you mean it, add --set '{where}={wanted}'"
                        )
            elif isinstance(value, Mapping):
                check(value, own, (*path, str(name)))

    check(values, typed, ())


def check_redirects(calls: object, own: object, typed: Sequence[object], file: str) -> None:
    """Check that a config file alone sends no calls to hosts of its choice for an endpoint that this call names.

    Args:
        calls: the file's options of calls.
        own: those of `--set`.
        typed: all options of `--set`, and the flags.
        file: the file's name, for the error.

    Raises:
        ConfigError: the file's `calls.servers` answer for such an endpoint, on neither its host nor this machine.
    """
    servers = calls.get("servers") if isinstance(calls, Mapping) else None
    if not servers or (isinstance(own, Mapping) and own.get("servers") is not None):
        return
    from pairsight.engine.calls.options import CallOptions, host_of
    from pairsight.engine.calls.receive import LOOPBACK_HOSTS
    from pairsight.errors import ConfigError
    from pairsight.pipeline.models import endpoints_in

    options = CallOptions.parse({"servers": servers}, f"config {file}")
    for url in endpoints_in(typed):
        for server in options.servers_of(url):
            if host_of(server) not in (host_of(url), *LOOPBACK_HOSTS):
                raise ConfigError(
                    f"config {file}: calls.servers sends the calls of {url}, which this call names, to "
                    f"{host_of(server)}, which a file alone may not; if you mean it, add --set 'calls.servers=...'"
                )


def one_or_named_paths(entries: Sequence[str], flag: str) -> str | dict[str, str]:
    """`["images"]` as the path, and `["a=x", "b=y", "z"]` as `{"a": "x", "b": "y", "": "z"}`.

    What is a file or folder as it is written is a path, also with `=` in its name.

    Raises:
        ConfigError: an entry without a path, or two for one name.
    """
    from pairsight.errors import ConfigError

    plain = [entry for entry in entries if "=" not in entry or Path(entry).exists()]
    if plain == list(entries) and len(entries) == 1:
        return str(Path(entries[0]))
    if len(plain) > 1:
        raise ConfigError(f"{flag} {' and '.join(plain)}: name the source of each: {flag} SOURCE=PATH")
    named = named_paths([entry for entry in entries if entry not in plain], flag)
    return {**named, "": plain[0]} if plain else named


def named_paths(entries: Sequence[str], flag: str) -> dict[str, str]:
    """`["pope=a.jsonl"]` as `{"pope": "a.jsonl"}`.

    Raises:
        ConfigError: an entry without `=`, or a name given twice.
    """
    from pairsight.errors import ConfigError

    named: dict[str, str] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{flag} '{entry}' must be NAME=PATH")
        if name in named:
            raise ConfigError(f"{flag} names '{name}' twice")
        named[name] = path
    return named
