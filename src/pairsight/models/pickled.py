"""Weights that are pickles: how they are recognised, and the command that makes safetensors of them."""

import shlex
from pathlib import Path

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
"""Suffixes of weights that are pickles."""


def convert_command(source: str | Path, to: str = "safetensors") -> str:
    """The command that converts a folder, or one pickled file, and runs none of its code."""
    path = Path(source)
    name = f"{path.name if path.is_dir() else path.stem}-{to}"
    return f"pairsight convert-weights {shlex.quote(str(path))} {shlex.quote(str(path.parent / name))}"
