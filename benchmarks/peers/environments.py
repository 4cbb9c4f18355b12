"""An environment for each peer, made once in a cache folder from exact pins; the package index is all it needs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["CannotInstall", "environment_of", "pins_of"]

_PINS = Path(__file__).parent / "requirements"

_APPENDED = {
    "torchvision/extension.py": """

if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
""",
    "torchaudio/_extension/utils.py": """

_load_lib_or_fail = _load_lib


def _load_lib(lib: str) -> bool:
    try:
        return _load_lib_or_fail(lib)
    except OSError:
        return False
""",
}
"""File of a package -> what is added to it.

The index's torchvision and torchaudio are made for CUDA: beside a CPU build of torch their compiled parts cannot be
loaded, and importing them fails. What peers use of them here does not need those parts, once two operators are declared
that get shapes on import (as in ``scripts/engines.sh``), and a library that cannot be loaded counts as none. It can go
when the index has wheels for CPUs.
"""


class CannotInstall(Exception):
    """pip could not install a peer's pins."""


def pins_of(name: str) -> Path:
    """Return the file of a peer's pins, dependencies included."""
    return _PINS / f"{name}.txt"


def environment_of(name: str, cache: Path) -> Path:
    """Return the Python of a peer's environment, which is made anew when its pins have changed.

    Args:
        name: Of its pins.
        cache: Folder of all environments.

    Raises:
        CannotInstall: pip failed.
    """
    pins = pins_of(name)
    folder = cache / name
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    ready = folder / "ready"
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making {folder}, once: minutes and 1 to 2 GB", file=sys.stderr, flush=True)
    venv.create(folder, clear=True, with_pip=True)
    torch = next(line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    _install(python, torch)  # with NVIDIA's libraries, where the index has a build for CUDA
    _install(python, "--no-deps", "--requirement", str(pins))
    packages = next(folder.glob("lib/python*/site-packages"))
    for name, text in _APPENDED.items():
        if (packages / name).is_file():
            with (packages / name).open("a", encoding="utf-8") as file:
                file.write(text)
    ready.write_text(wanted, encoding="utf-8")
    return python


def _install(python: Path, *words: str) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotInstall(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
