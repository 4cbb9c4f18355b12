"""Copies the shell scripts that train, ``finetune_lora.sh`` and its like, out of the installed package.

They are those of the repository's root: a checkout has them there, and a wheel holds the same files. A copy runs with
an active environment that has this package, or with the Python that copied it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import minicpmv
from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import write_whole
from minicpmv.files.places import check_directory
from minicpmv.wording import name_few

__all__ = ["copy_scripts"]

_PACKAGE = Path(minicpmv.__file__).resolve().parent
_SHARED = ("scripts/environment.sh", "scripts/finetune.sh")
"""What the scripts source."""
_INTERPRETER = "scripts/python.txt"
"""Tells ``environment.sh`` that it is a copy, and which Python made it."""


def copy_scripts(output: str | Path) -> list[Path]:
    """Write the scripts into a directory, and return the paths of those that a user starts.

    Args:
        output: The directory.

    Raises:
        UsageError: It cannot be written to, is the checkout itself, or has other files of these names, such as
            a script with changes.
    """
    folder = Path(output)
    check_directory(folder, asked_by="--output")
    source = _find_scripts()
    if folder.resolve() == source:
        raise UsageError(
            f"--output {str(folder)!r}: found the checkout, where the scripts are, expected another directory\n"
            "  fix: use them there, or name another directory"
        )
    started = sorted(path.name for path in source.glob("finetune_*.sh"))
    wanted = {name: (source / name).read_text(encoding="utf-8") for name in (*started, *_SHARED)}
    wanted[_INTERPRETER] = f"{sys.executable}\n"
    changed = [name for name, text in wanted.items() if name != _INTERPRETER and not _may_write(folder / name, text)]
    if changed:
        raise UsageError(
            f"--output {str(folder)!r}: found {name_few(map(repr, changed), most=3)}, not as this package has it, "
            "expected nothing that would be replaced\n  fix: name another directory, or move these files away"
        )
    for name, text in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    for name in started:
        (folder / name).chmod((source / name).stat().st_mode & 0o777)
    return [folder / name for name in started]


def _find_scripts() -> Path:
    """Return the directory that holds the scripts: inside a wheel's package, or the root of a checkout."""
    packed = _PACKAGE / "scripts"
    return packed if packed.is_dir() else _PACKAGE.parents[1]


def _may_write(path: Path, text: str) -> bool:
    return not path.exists() or (path.is_file() and path.read_bytes() == text.encode("utf-8"))
