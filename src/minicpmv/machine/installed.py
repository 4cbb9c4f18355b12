"""Lists the versions of the packages that affect results, and words the command that installs what is missing."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib import metadata

__all__ = ["extra", "install_command", "list_versions"]

_OURS = "minicpmv-finetune"
_PACKAGES = (
    _OURS,
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "deepspeed",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
)


def list_versions() -> dict[str, str]:
    """List these packages with their versions; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def extra(name: str) -> str:
    """Return the requirement that stands for an extra of ``pyproject.toml``.

    >>> extra("ui")
    'minicpmv-finetune[ui]'
    """
    return f"{_OURS}[{name}]"


def install_command(*words: str) -> str:
    """Return the command that installs packages where this process would find them, for any shell and directory.

    Args:
        words: Requirements and options, as for pip.
    """
    try:
        metadata.version("pip")
    except metadata.PackageNotFoundError:  # as in the environments that uv makes
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, *words])
    return shlex.join([sys.executable, "-m", "pip", "install", *words])
