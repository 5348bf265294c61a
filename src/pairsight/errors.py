"""Every error Pairsight raises on purpose: one root, each also the standard error a caller would expect."""

import difflib
from collections.abc import Sequence


class PairsightError(Exception):
    """The root of all errors raised on purpose; its message is one line a user can act on."""


class DataError(PairsightError, ValueError):
    """Bad input data; the message names the file, the line or id, what was found and what is allowed.

    `reason` is a short word to count by where bad rows are skipped.
    """

    def __init__(self, message: str, reason: str = "bad_data") -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(PairsightError, ValueError):
    """An option or config value that is unknown, out of range or contradicts another."""


class ModelError(PairsightError, RuntimeError):
    """A model folder, adapter or checkpoint that cannot be used, and what it lacks."""


class RunError(PairsightError, RuntimeError):
    """A run folder that is missing, foreign, newer than this version, damaged or cannot be written."""


class LockedError(RunError):
    """Another process holds this phase of the run."""


class EndpointError(PairsightError, ConnectionError):
    """A server that answers wrongly or not at all, after all allowed attempts."""


class BudgetError(PairsightError, RuntimeError):
    """The money or the number of calls allowed for this run is spent."""


class TrainingError(PairsightError, ArithmeticError):
    """Training that must not go on: a loss that is not finite, or log-probs that fail their own check."""


class RankError(TrainingError):
    """Another process of the same training failed, and says why: this one ends without a word."""


class MissingExtraError(PairsightError, ImportError):
    """An optional package is needed; the message prints the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'pairsight[{extra}]'")
        self.extra = extra


def did_you_mean(name: str, allowed: Sequence[str]) -> str:
    """The end of an error about an unknown name: "; did you mean 'x'?" when one is near, else what is allowed."""
    matches = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else f"; known: {', '.join(allowed)}"


def one_line(message: object, longest: int = 300) -> str:
    """A message from outside, on one line of at most `longest` printable characters, for use inside our own messages.

    Args:
        message: a text, or an error; an error without a text gives the name of its class.
        longest: characters; a longer message is cut and ends in "…". What cannot be printed becomes U+FFFD.
    """
    line = " ".join(str(message)[: 10 * longest].split())
    if not line and isinstance(message, BaseException):
        line = type(message).__name__
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return "".join(character if character.isprintable() else "\ufffd" for character in line)
