"""A user's own wording of what a model is asked: a file, or a text, with placeholders; read and checked at once."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from pairsight.bounded import read_bounded
from pairsight.errors import ConfigError, did_you_mean
from pairsight.records import IMAGE_MARK

SUFFIXES = (".txt", ".md")
"""Of files of wording: a config that names another file, a key's say, sends it nowhere."""
MOST_BYTES = 1 << 18
_PLACEHOLDER = re.compile(r"\{\{(?P<kept>[a-z_]+)\}\}|\{(?P<name>[a-z_]+)\}")


def read_wording(given: str, required: Collection[str] = (), optional: Collection[str] = ()) -> str:
    """The wording that an option gives, which from here on is the option's value: a run's record holds all of it.

    A placeholder is `{name}`, filled in later; `{{name}}` writes the text `{name}`, and other braces stay.

    Args:
        given: a file's name (.txt or .md), or the text itself, which has more than one line.
        required: names of placeholders that must be in it.
        optional: further placeholders that it may have.

    Returns:
        The text without white space around it, and a line break, so that it is never taken for a file's name.

    Raises:
        ConfigError: no such file or another kind of file, no text, or a placeholder that is missing or unknown.
    """
    text, where = (given, "the text") if "\n" in given else (_read(given.strip()), given.strip())
    if not text.strip():
        raise ConfigError(f"{where} is empty: write what the model is to be asked")
    if IMAGE_MARK in text:
        raise ConfigError(f"{where} holds {IMAGE_MARK}: leave it out, images come before the text")
    known = [*required, *optional]
    found = {match["name"] for match in _PLACEHOLDER.finditer(text)} - {None}
    for name in sorted(found - set(known)):
        allowed = (
            f"the placeholders are {', '.join(f'{{{one}}}' for one in known)}" if known else "it has no placeholders"
        )
        hint = did_you_mean(str(name), known)
        raise ConfigError(
            f"{where}: unknown placeholder {{{name}}}{hint}; {allowed}, and {{{{{name}}}}} writes {{{name}}}"
        )
    if missing := [name for name in required if name not in found]:
        raise ConfigError(f"{where} must hold {' and '.join(f'{{{name}}}' for name in missing)}, which is filled in")
    return f"{text.strip()}\n"


def filled(wording: str, values: Mapping[str, str]) -> str:
    """The wording with its placeholders filled in, each once: what is put in is not searched for placeholders.

    Args:
        wording: from `read_wording`.
        values: name of a placeholder -> its text.
    """
    text = wording.removesuffix("\n")
    return _PLACEHOLDER.sub(lambda found: f"{{{found['kept']}}}" if found["kept"] else values[found["name"]], text)


def has_placeholder(wording: str, name: str) -> bool:
    """Whether the wording has a placeholder of this name."""
    return any(found["name"] == name for found in _PLACEHOLDER.finditer(wording))


def _read(name: str) -> str:
    file = Path(name).expanduser()
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"'{name:.200}' must name a file of wording ({' or '.join(SUFFIXES)}), or be the text itself in more than "
            "one line"
        )
    try:
        if not file.is_file() and file.exists():  # a pipe would be waited for
            raise ConfigError(f"{file} is not a file")
        return read_bounded(file, MOST_BYTES).removeprefix("\ufeff")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
