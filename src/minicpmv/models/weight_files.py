"""What a checkpoint's weight files hold, from their headers alone, and which of them is broken.

Reads no weights: a header takes milliseconds where the file takes minutes. Whether the names and shapes are the right
ones is for ``loading`` to say.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.modeling_utils import load_state_dict

from minicpmv.errors import CheckpointError

__all__ = ["Shape", "find_broken_file", "read_shapes"]

Shape = tuple[int, ...]

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_LFS_POINTER = b"version https://git-lfs"
_AGAIN = "download or copy the file again; its size must be the one that the hub shows"


def read_shapes(files: Sequence[str | Path]) -> dict[str, Shape]:
    """Read the name and shape of every tensor in the files together.

    Args:
        files: ``.safetensors`` files, or those of ``torch.save``.

    Raises:
        CheckpointError: A file is missing, cut short, or not what its name says.
    """
    absent = [Path(file) for file in files if not Path(file).is_file()]
    if absent:
        names = ", ".join(file.name for file in absent[:5]) + (f" and {len(absent) - 5} more" if absent[5:] else "")
        raise CheckpointError(
            f"{absent[0].parent}: found {len(files) - len(absent)} of {len(files)} weight files, expected also "
            f"{names}\n  fix: download or copy the missing files into that directory"
        )
    return {name: shape for file in files for name, shape in _shapes_in(Path(file)).items()}


def _shapes_in(file: Path) -> dict[str, Shape]:
    size = file.stat().st_size
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        return {name: tuple(tensor.shape) for name, tensor in load_state_dict(file, map_location="meta").items()}
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(_LFS_POINTER)) == _LFS_POINTER
        if is_pointer:
            raise CheckpointError(
                f"{file}: found a git-lfs pointer of {size} bytes, expected the weights that it stands for\n"
                "  fix: run `git lfs pull` in that directory"
            ) from error
        raise CheckpointError(
            f"{file}: found {size} bytes that cannot be read ({str(error) or type(error).__name__}), expected weights "
            f"in the format of that name\n  fix: {_AGAIN}"
        ) from error


def find_broken_file(folder: Path) -> None:
    """Name the file at fault after loading a directory failed; return if all indices and headers are sound.

    Raises:
        CheckpointError: There are no weights, an index of shards is not one, or a file's header cannot be read.
    """
    if folder.is_dir() and not any(path.suffix in _WEIGHTS for path in folder.iterdir()):
        raise CheckpointError(
            f"{folder}: found no weights, expected model.safetensors, or an index and the files that it names\n"
            "  fix: name the directory that holds them, or finish its download"
        )
    for index in sorted(folder.glob("*.index.json")):
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{index}: found no JSON ({error}), expected the index of the weight files\n  fix: {_AGAIN}"
            ) from error
        keys = ("metadata", "weight_map")
        if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in keys):
            raise CheckpointError(
                f"{index}: found no {' and '.join(keys)}, expected the index of the weight files\n  fix: {_AGAIN}"
            )
    read_shapes(sorted(folder.glob("*.safetensors")))
