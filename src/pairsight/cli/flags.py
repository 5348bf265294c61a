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

    name_plugins(with_settings({}, settings or []), flags)
    values = with_settings(read_yaml(config) if config else {}, settings or [])
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
