"""Fine-tune MiniCPM-V vision-language models on your own images and conversations.

``import minicpmv`` makes transformers' ``Auto*`` classes, and PEFT's, load MiniCPM-V directories with this package's
own models. Registration waits until transformers itself is imported, which keeps ``minicpmv --help`` and
``minicpmv check`` free of torch.

From Python, ``minicpmv.train`` trains and ``minicpmv.load`` opens what was trained (docs/python.md).
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from minicpmv.api.model import Model, load
    from minicpmv.api.run import Run
    from minicpmv.api.settings import Settings
    from minicpmv.api.train import train

__all__ = ["Model", "Run", "Settings", "__version__", "load", "train"]

__version__ = "0.1.0"

_OFFERED = {"Model": "model", "load": "model", "Run": "run", "Settings": "settings", "train": "train"}
"""Public names, and the modules of ``api`` that they are imported from when somebody asks for them."""


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.api.{_OFFERED[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])


# The modules whose classes are registered, and all that those need, live in these packages.
_REGISTERED = [
    ".".join(("minicpmv", *path.relative_to(Path(__file__).parent).with_suffix("").parts))
    for package in ("files", "machine", "devices", "releases", "models", "processing", "data")
    for path in (Path(__file__).parent / package).rglob("*.py")
    if path.stem != "__init__"
]
_finished: set[str] = set()
_started = False


def _register(module: ModuleType) -> None:
    """Register as soon as transformers is there and no module that registration needs is half imported."""
    global _started
    _finished.add(module.__name__)
    is_half_imported = any(name in sys.modules and name not in _finished for name in _REGISTERED)
    if _started or "transformers" not in _finished or is_half_imported:
        return
    _started = True
    from minicpmv.registration import register  # inside: it needs torch, which light commands must not load

    register()


# Runs at once if transformers is loaded already, otherwise as soon as somebody imports it. When that somebody is one of
# the modules to be registered, it is half imported at that moment, and its own hook comes back later.
for _name in (*_REGISTERED, "transformers"):
    wrapt.register_post_import_hook(_register, _name)
