"""Lists the versions of the packages that affect results."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["list_versions"]

_PACKAGES = (
    "minicpmv-finetune",
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
