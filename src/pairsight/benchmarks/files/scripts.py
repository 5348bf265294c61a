"""Texts in the authors' files, such as a judge's prompt; a Python script is parsed, and nothing of it is run."""

import ast
import re
from pathlib import Path

from pairsight.bounded import MOST_YAML_BYTES, read_bounded
from pairsight.errors import DataError


def script_text(script: Path, name: str) -> str:
    """The text that a script assigns to a name first.

    Texts beside each other, or joined by `+`, are one text.

    Args:
        script: the authors' script.
        name: the variable.

    Raises:
        DataError: not a Python script, or it assigns no text to that name.
    """
    try:
        tree = ast.parse(read_bounded(script, MOST_YAML_BYTES))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and any(_is_named(target, name) for target in node.targets):
                text = _text(node.value)
                if text is not None:
                    return text
    except OSError as error:
        raise DataError(f"{script}: {error.strerror}", reason="missing_file") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{script} is not a Python script that can be read ({type(error).__name__})") from None
    raise DataError(f"{script} assigns no text to '{name}'; give the authors' own script", reason="missing_prompt")


def plain_text(file: Path) -> str:
    """The text of a file.

    Raises:
        DataError: no such file, or it is not text.
    """
    try:
        return read_bounded(file, MOST_YAML_BYTES)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}", reason="missing_file") from None
    except ValueError as error:
        raise DataError(f"{file} is not a text that can be read: {error}") from None


def _is_named(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def _text(node: ast.expr) -> str | None:
    """The text that an expression is; None where it is something else."""
    parts: list[str] = []
    open_nodes = [node]
    while open_nodes:
        part = open_nodes.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add):
            open_nodes += [part.right, part.left]
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            parts.append(part.value)
        else:
            return None
    return "".join(parts)


_PLACE = re.compile(r"\{\{|\}\}|\{(\w*)\}")


def filled(template: str, *parts: str, **named: str) -> str:
    """A template with its places filled: `{}` by the parts in their order, `{name}` by name; `{{` and `}}` are braces.

    Unlike `str.format`, a place can ask for nothing else, and any other brace is text.

    Raises:
        DataError: a place for which there is nothing.
    """
    left = iter(parts)

    def fill(place: re.Match[str]) -> str:
        if place[0] in ("{{", "}}"):
            return place[0][0]
        found = named.get(place[1]) if place[1] else next(left, None)
        if found is None:
            raise DataError(f"the prompt asks for {place[0]}, which there is not; places are {', '.join(named)}")
        return found

    return _PLACE.sub(fill, template)
