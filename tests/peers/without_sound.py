"""For an environment of LLaMA-Factory beside a CPU build of PyTorch: packages that do not load there are taken out.

`torchvision` and `torchaudio` of the package index are built for CUDA. Without torchvision transformers takes its own
image processors; torchaudio is imported by LLaMA-Factory but only used for sound, so an empty module takes its place.
Where both load, nothing is changed.
"""

import importlib
import subprocess
import sys
import sysconfig
from pathlib import Path


def loads(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):
        return False
    return True


for package in ("torchvision", "torchaudio"):
    if not loads(package):
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", package], check=True)
        print(f"{package} does not load beside this PyTorch: taken out")
if not loads("torchaudio"):
    (Path(sysconfig.get_paths()["purelib"]) / "torchaudio.py").write_text('"""Empty: no sound is read."""\n')
