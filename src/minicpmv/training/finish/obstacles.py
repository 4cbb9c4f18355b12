"""Finds obstacles to a run's files: a folder with a file's name, a file with a folder's, or a link.

Otherwise a run would fail on them when it saves, after training, or write through a link into another folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from minicpmv.data.sources.skipping import SKIPPED
from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import STAGING, aside_of
from minicpmv.models.adapters.base_identity import BASE_FILE
from minicpmv.models.adapters.foreign_adapters import ADAPTER_WEIGHTS
from minicpmv.models.checkpoints.companions import list_companions, list_whole_folders
from minicpmv.models.checkpoints.reference import REFERENCE, VERIFICATION
from minicpmv.report.holder import LOCK
from minicpmv.report.run_directory import AFTER, BEFORE, LOG, RUN, SAMPLES, SETTINGS
from minicpmv.report.writing import PAGE, PICTURE
from minicpmv.training.finish.saving import FULLY_TRAINED
from minicpmv.training.monitoring.run_settings import is_own

__all__ = ["OF_EVERY_RUN", "refuse_obstacles"]

OF_EVERY_RUN = (RUN, SETTINGS, LOG, SAMPLES, SKIPPED, BEFORE, AFTER, VERIFICATION, REFERENCE, PAGE, PICTURE, LOCK)
_OF_AN_ADAPTER = ("adapter_config.json", ADAPTER_WEIGHTS[0], BASE_FILE, FULLY_TRAINED)
_OF_A_MODEL = ("config.json", "generation_config.json", "model.safetensors.index.json")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
_FOLDERS = (STAGING, "checkpoint-*[0-9]")


def refuse_obstacles(output_dir: str | Path, base: Path, *, use_lora: bool) -> None:
    """Verify that every file and folder of a run can be written.

    Args:
        output_dir: The run's directory, which need not exist.
        base: The base model; a full model is saved with copies of its small files.
        use_lora: Whether an adapter is saved.

    Raises:
        UsageError: Something of the other kind, or a link, has its name.
        CheckpointError: The base holds what cannot be copied.
    """
    directory = Path(output_dir)
    copied = () if use_lora else (*list_companions(base), *list_whole_folders(base))
    if not is_own(directory / SETTINGS):
        raise UsageError(
            f"--output_dir {str(output_dir)!r}: found a {SETTINGS} there that no run wrote, expected that name to be "
            "free: a run writes its own\n  fix: move it out of that directory, or choose another directory"
        )
    names = [*OF_EVERY_RUN, *(_OF_AN_ADAPTER if use_lora else (*_OF_A_MODEL, *map(str, copied)))]
    obstacle = next(_find(directory, names, patterns=() if use_lora else _WEIGHTS), None)
    if obstacle is not None:
        found, needed = ("a folder", "file") if obstacle.is_dir() else ("a file", "folder")
        if obstacle.is_symlink():
            found, needed = "a link", "file or folder"
        raise UsageError(
            f"--output_dir {str(output_dir)!r}: found {found} {str(obstacle)!r}, expected a free name for the "
            f"{needed} that a run writes there\n  fix: rename or remove it, or choose another directory"
        )


def _find(directory: Path, names: Iterable[str], *, patterns: Iterable[str]) -> Iterator[Path]:
    for name in names:
        path = directory / name
        yield from (each for each in (path, aside_of(path)) if each.is_dir() or each.is_symlink())
        above = (each for each in path.parents if directory in each.parents)
        yield from (each for each in above if _is_file(each) or each.is_symlink())
    if (directory / STAGING).is_symlink():
        yield directory / STAGING
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if (path.is_dir() or path.is_symlink()) and any(fnmatch(path.name, pattern) for pattern in patterns):
            yield path
        if _is_file(path) and any(fnmatch(path.name, pattern) for pattern in _FOLDERS):
            yield path


def _is_file(path: Path) -> bool:
    return path.exists() and not path.is_dir()
