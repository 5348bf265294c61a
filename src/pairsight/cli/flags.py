"""Flags that several verbs share, and how flags, --config and --set come together: flags win over --set over file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with the same names as the flags")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any option by name; repeatable")]
Out = Annotated[Path | None, typer.Option("--out", help="where to write")]
Model = Annotated[str | None, typer.Option("--model", help="a folder, a hub name, or endpoint:NAME@URL")]
Images = Annotated[Path | None, typer.Option("--images", help="the folder that image names refer to")]
Engine = Annotated[str | None, typer.Option("--engine", help="local, processes or ray")]
Workers = Annotated[int | None, typer.Option("--workers", help="how many workers the engine has")]
Seed = Annotated[int | None, typer.Option("--seed", help="the seed of everything that is drawn")]
Limit = Annotated[int | None, typer.Option("--limit", help="use only so many")]
Plugin = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="code that a config or a run names may run; repeatable"),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress display")]


def merge(config: Path | None, settings: Sequence[str] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping of options: the file's, then `--set`'s, then the flags that were given."""
    from pairsight.config import read_yaml, with_settings
    from pairsight.registry import name_plugins

    words = with_settings({}, settings or [])
    name_plugins(words, flags)
    values = with_settings(read_yaml(config) if config else {}, settings or [])
    check_words(values, words, str(config))
    for name, value in flags.items():
        if value is not None and value != [] and value is not False:
            values[name] = str(value) if isinstance(value, Path) else value
    return values


def trust(plugins: Sequence[Path] | None, *words: Any) -> None:
    """Let this call run the code in the files of `--plugin`, and in those that its own arguments name.

    Raises:
        ConfigError: a `--plugin` that is no Python file.
    """
    from pairsight.errors import ConfigError
    from pairsight.registry import name_plugins

    for file in plugins or ():
        if file.suffix != ".py" or not file.is_file():
            raise ConfigError(f"--plugin {file} must be a Python file (FILE.py) that is there")
    name_plugins(list(plugins or ()), *words)


def check_words(values: Mapping[str, Any], words: Mapping[str, Any], file: str) -> None:
    """See that a config file alone, which may be a stranger's, sends no key to a host of its choice and runs no code.

    Args:
        values: the file's options with `--set` laid over them, parts within parts.
        words: what `--set` alone says.
        file: the file, for the error.

    Raises:
        ConfigError: `trust_remote_code`, or a variable that `key_env` sends to another host than this machine or the
            service that it belongs to, is said by the file only.
    """
    from pairsight.engine.calls.options import KEY_OF_HOST
    from pairsight.engine.calls.receive import LOOPBACK_HOSTS
    from pairsight.errors import ConfigError

    def check(values: Mapping[str, Any], words: Any, path: tuple[str, ...]) -> None:
        words = words if isinstance(words, Mapping) else {}
        for name, value in values.items():
            where = ".".join([*path, str(name)])
            own = words.get(name)
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

    check(values, words, ())


def named_paths(entries: Sequence[str] | None, flag: str) -> dict[str, str] | None:
    """`["pope=a.jsonl"]` as `{"pope": "a.jsonl"}`; None when nothing was given.

    Raises:
        ConfigError: an entry without `=`, or a name given twice.
    """
    from pairsight.errors import ConfigError

    if not entries:
        return None
    named: dict[str, str] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--{flag} '{entry}' must be NAME=PATH")
        if name in named:
            raise ConfigError(f"--{flag} names '{name}' twice")
        named[name] = path
    return named
