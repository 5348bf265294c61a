"""The `pairsight` command: its verbs, and how an error or Ctrl-C ends it. Verbs import what they need when called."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from pairsight import registry
from pairsight.cli import displays, embedded, flags, look, verbs, weights
from pairsight.errors import ConfigError, PairsightError, RankError, one_line

app = typer.Typer(
    name="pairsight",
    help="From images to a vision-language model that people prefer: build pairs, align, evaluate, look.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
registry.benchmarks.add("tiny", "pairsight.tiny.world.benchmark:TinyWorld")
for verbs_of in (verbs, look, displays, weights, embedded):
    verbs_of.register(app)

INTERRUPTED = 130
"""The exit status after Ctrl-C, by the convention of shells."""
UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")
"""What wrong usage raises; typer carries its own copy of click, whose name is private."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 a clear error, 2 wrong usage, 3 done, but items
    failed, 130 interrupted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about their own next version
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        _refuse_bytes(given)
        flags.WORDS[:] = given
        with registry.plugins():  # files named in one call are not trusted in the next
            status = app(args=given or ["--help"], prog_name="pairsight", standalone_mode=False)
        if status == INTERRUPTED:  # typer turns Ctrl-C into its status
            raise KeyboardInterrupt
    except UsageError as error:
        print(f"error: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    except PairsightError as error:
        if not isinstance(error, RankError):  # else the process that failed first says why
            print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted: finished work is kept; run the same command to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except OSError as error:
        from pairsight.store.durable import DISK_ERRORS

        if error.errno not in DISK_ERRORS:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


def _refuse_bytes(words: Sequence[str]) -> None:
    """Refuse a word that is not UTF-8, as the name of a file can be: it could be written into no run, log or table."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"'{one_line(word)}' is not UTF-8, as every name here must be; rename the file or the folder"
            ) from None


def console() -> None:
    """The entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    console()
