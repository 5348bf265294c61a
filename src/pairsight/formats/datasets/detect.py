"""Which format a dataset has, by its columns and first rows, and why; a user's own names of columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pairsight.errors import ConfigError, DataError, did_you_mean
from pairsight.formats.containers.find import Found
from pairsight.formats.datasets.format import Format, Head
from pairsight.formats.rows import Row
from pairsight.registry import formats

_FIRST = 16
"""Rows that are looked at."""
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Names:
    """What a file calls the columns that a format knows, and the keys and speakers of messages.

    Attributes:
        columns: our name -> the file's.
        keys: the file's key of a message -> ours, such as `{"speaker": "from"}`.
        speakers: the file's name of who speaks -> ours.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    speakers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Found) -> "Names":
        """Those of a `dataset_info.json` of LLaMA-Factory."""
        ours = {"messages": "conversations", "prompt": "instruction", "query": "input", "response": "output"}
        columns = {ours.get(name, name): theirs for name, theirs in found.columns.items()}
        tags = found.tags
        keys = {tags[tag]: key for tag, key in (("role_tag", "from"), ("content_tag", "value")) if tag in tags}
        who = {tags[tag]: name for tag, name in _SPEAKERS if tag in tags}
        return cls({name: theirs for name, theirs in columns.items() if name != theirs}, keys, who)

    def __call__(self, row: Row) -> Row:
        """A row with the names that formats know."""
        if not (self.columns or self.keys or self.speakers):
            return row
        taken = set(self.columns.values())
        values = {name: value for name, value in row.values.items() if name not in taken and name not in self.columns}
        values |= {ours: row.values[theirs] for ours, theirs in self.columns.items() if theirs in row.values}
        if self.keys or self.speakers:
            values = {name: self._message(value) for name, value in values.items()}
        return Row(row.location, row.number, values, row.said)

    def _message(self, value: object) -> object:
        if isinstance(value, list):
            return [self._message(one) for one in value]
        if not isinstance(value, dict) or not set(self.keys) <= value.keys():
            return value
        named = {self.keys.get(key, key): one for key, one in value.items()}
        speaker = named.get("from")
        return named | ({"from": self.speakers.get(speaker, speaker)} if isinstance(speaker, str) else {})


_SPEAKERS = (("user_tag", "human"), ("assistant_tag", "gpt"), ("system_tag", "system"))


@dataclass(frozen=True, slots=True)
class Detected:
    """A format, its name, why it was taken, and how its rows get the names that it knows."""

    name: str
    format: Format
    why: str
    names: Names = field(default_factory=Names)


def head_of(found: Found, names: Names) -> Head:
    """The first good rows of a dataset; DataError where there are none."""
    rows, columns = list[Row](), dict[str, None]()
    error: DataError | None = None
    for _, row in islice(found.rows(), 4 * _FIRST):
        if isinstance(row, DataError):
            error = error or row
        else:
            rows.append(names(row))
            columns |= dict.fromkeys(rows[-1].values)
        if len(rows) == _FIRST:
            break
    if not rows:
        raise error or DataError(f"{found.name} holds no rows", "empty_file")
    return Head(tuple(columns), tuple(rows))


def detect(found: Found) -> Detected:
    """The format of a dataset, of those that are known.

    Of several that fit the one whose columns include all the others' is taken.

    Raises:
        DataError: none fits, or several do; the message lists them and names the flag.
    """
    names = Names.of(found)
    head = head_of(found, names)
    fitting = [(name, one) for name, one in _all_formats() if one.detect(head)]
    best = max(fitting, key=lambda pair: len(pair[1].columns), default=None)
    flag = "name one with --format NAME, or the columns with --columns prompt=COLUMN,chosen=…,rejected=…,image=…"
    if best is None:
        there = ", ".join(map(repr, head.columns[:_SHOWN])) or "no columns"
        known = "; ".join(f"{name} ({', '.join(one.columns)})" for name, one in _all_formats() if one.columns)
        message = f"{head.first.location}: no known format has the columns {there}; {flag}. Known: {known}"
        raise DataError(message, "unknown_format")
    rivals = [one for one in fitting if one is not best and not set(one[1].columns) < set(best[1].columns)]
    if rivals:
        several = ", ".join(f"{name} ({one.title})" for name, one in (best, *rivals))
        message = f"{head.first.location}: the columns fit several formats: {several}; {flag}"
        raise DataError(message, "unknown_format")
    return Detected(best[0], best[1], f"{best[1].title}: {_columns(best[1], head)}", names)


def chosen(found: Found, name: str | None, columns: str | None) -> Detected:
    """The format that the user names, with the columns that the user names.

    Args:
        found: the dataset.
        name: of the format, or `file.py:Class`; None: the columns say all.
        columns: `prompt=question,image=img`: our name and the file's.

    Raises:
        ConfigError: an unknown format, or names of columns that it does not know or that the file does not have.
    """
    given = parse_columns(columns) if columns else {}
    name = name or ("columns-sft" if "completion" in given else "columns")
    format = named(name)
    if format is None:
        raise ConfigError(f"format '{name}' is of prompts, for build --prompts; leave --format out to find a format")
    known = (*format.columns, *format.known)
    for ours in given:
        if ours not in known:
            raise ConfigError(f"columns: {format.title} reads no '{ours}'{did_you_mean(ours, known)}")
    names = Names(given) if given else Names.of(found)
    there = head_of(found, Names()).columns
    for theirs in given.values():
        if theirs not in there:
            raise ConfigError(f"columns: {found.name} has no column '{theirs}'{did_you_mean(theirs, there)}")
    said = ", ".join(f"{ours} from '{theirs}'" for ours, theirs in given.items())
    return Detected(name, format, f"{format.title}: as named" + (f", {said}" if said else ""), names)


def named(name: str) -> Format | None:
    """The format of datasets called `name`, or at `file.py:Class`; None for another kind of format.

    Raises:
        ConfigError: an unknown name, or code that the user does not name.
    """
    made = formats.get(name)()
    return made if isinstance(made, Format) else None


def _all_formats() -> Sequence[tuple[str, Format]]:
    return [(name, made()) for name, made in formats.in_order() if issubclass(made, Format)]


def _columns(format: Format, head: Head) -> str:
    """The columns by which a format was known, and those that it reads besides."""
    names = [name for name in (*format.columns, *format.known) if name in head.columns]
    return f"columns {', '.join(_shape(name, head) for name in names)}"


def _shape(name: str, head: Head) -> str:
    """A column with what is in it: `image{bytes, path}`, `completions[]`."""
    value = next((row.values[name] for row in head.rows if row.values.get(name) is not None), None)
    if isinstance(value, dict):
        return f"{name}{{{', '.join(map(str, list(value)[:3]))}}}"
    return f"{name}[]" if isinstance(value, list) else name


def parse_columns(text: str) -> dict[str, str]:
    """Our name -> the file's, from `prompt=question,image=img`; ConfigError where a text says no such thing."""
    pieces = [piece.partition("=") for piece in text.split(",") if piece.strip()]
    columns = {ours.strip(): theirs.strip() for ours, _, theirs in pieces}
    if not columns or len(columns) != len(pieces) or not all((*columns.keys(), *columns.values())):
        raise ConfigError(
            f"columns: {text!r:.80} must be NAME=COLUMN,… with each name once, as in prompt=question,image=img"
        )
    return columns
