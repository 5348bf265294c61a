"""The `pairsight` command: its verbs, and how an error or Ctrl-C ends it. Verbs import what they need when called."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pairsight import registry
from pairsight.cli import align, build, demo, evaluate, look, run, study, world
from pairsight.errors import PairsightError


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


app = typer.Typer(
    name="pairsight",
    help="From images to a vision-language model that people prefer: build pairs, align, evaluate, look.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
registry.benchmarks.add("tiny", "pairsight.tiny.world.benchmark:TinyWorld")
for verb in (build, align, evaluate, run, look, study, world, demo):
    verb.register(app)
for group in app.registered_groups:
    group.cls = Group
    if group.typer_instance is not None:
        for command in group.typer_instance.registered_commands:
            command.cls = Command
for command in app.registered_commands:
    command.cls = Command

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""
UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")
"""What wrong usage raises; typer carries its own copy of click, whose name is private."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 a clear error, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about their own next version
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        with registry.plugins():  # what one call names is not named in the next
            status = app(args=given or ["--help"], prog_name="pairsight", standalone_mode=False)
        if status == INTERRUPTED:  # typer turns Ctrl-C into its status
            raise KeyboardInterrupt
    except UsageError as error:
        print(f"error: {' '.join(error.format_message().split())}", file=sys.stderr)
        return 2
    except PairsightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted: what was finished is kept; the same command goes on from there", file=sys.stderr)
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


def console() -> None:
    """The entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    console()
