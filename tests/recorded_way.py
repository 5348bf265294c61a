"""Runs one command of `pairsight` and writes down its way: every function that it enters, and from which it came.

`python recorded_way.py OUT VERB …` writes a JSON list of `[from, to]` to OUT, each once, by when it came first; a
function is `file qualified.name`, and `from` is the nearest function of the package below it on the stack, "" where a
thread begins. Counted are calls in all threads; not counted is what runs while a module is imported.
"""

import json
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pairsight
from pairsight.cli.main import main as command

PACKAGE = f"{Path(pairsight.__file__).parent}/"


class Way:
    """The calls seen so far, in the order in which each came first; install `profile` in every thread."""

    def __init__(self) -> None:
        self.calls: dict[tuple[CodeType | None, CodeType], None] = {}
        self._here = threading.local()

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call of one of our functions, unless a module is being imported."""
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code.co_name == "<module>":
            self._here.imports = getattr(self._here, "imports", 0) + (1 if event == "call" else -1)
        elif event == "call" and code.co_filename.startswith(PACKAGE) and not getattr(self._here, "imports", 0):
            below = frame.f_back
            while below is not None and not below.f_code.co_filename.startswith(PACKAGE):
                below = below.f_back
            self.calls.setdefault((below.f_code if below is not None else None, code))


def name(code: CodeType | None) -> str:
    """`file function`, comprehensions and lambdas under the function that they are in."""
    if code is None:
        return ""
    parts = [part for part in code.co_qualname.split(".") if not part.startswith("<")]
    return f"{code.co_filename.removeprefix(PACKAGE)} {'.'.join(parts)}"


def main(out: str, *arguments: str) -> int:
    """Run the command and write its way."""
    for library in ("torch", "transformers", "peft", "pyarrow.parquet"):
        import_module(library)  # before the profile, which would slow it
    way = Way()
    threading.setprofile(way.profile)
    sys.setprofile(way.profile)
    try:
        status = command(arguments)
    finally:
        sys.setprofile(None)
    calls = list(dict.fromkeys((name(below), name(code)) for below, code in way.calls))
    Path(out).write_text(json.dumps(calls), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
