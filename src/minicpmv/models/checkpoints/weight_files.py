"""What a checkpoint's weight files hold, which of them is broken, and single tensors out of them.

Headers take milliseconds where the files take minutes, so nothing here reads more weights than it is asked for. Whether
the names and shapes are the right ones is for ``loading`` to say.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.modeling_utils import load_state_dict

from minicpmv.errors import CheckpointError
from minicpmv.machine.shortage import find_shortage
from minicpmv.releases.model_files import read_index
from minicpmv.wording import name_few

__all__ = [
    "DTYPE_NAMES",
    "Shape",
    "WeightReader",
    "find_broken_file",
    "find_float32",
    "find_weight_files",
    "read_shapes",
]

Shape = tuple[int, ...]

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What a safetensors header calls each precision."""

_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
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
        names = name_few(file.name for file in absent)
        raise CheckpointError(
            f"{absent[0].parent}: found {len(files) - len(absent)} of {len(files)} weight files, expected also "
            f"{names}\n  fix: download or copy the missing files into that directory"
        )
    return {name: shape for file in files for name, shape in _shapes_in(Path(file)).items()}


def find_float32(files: Sequence[str | Path]) -> set[str]:
    """Name the tensors of the files that are stored in float32.

    Raises:
        CheckpointError: A file is missing, cut short, or not what its name says.
    """
    outlines = WeightReader(files).outlines
    return {name for name, outline in outlines.items() if outline.dtype == torch.float32}


class WeightReader:
    """The tensors of weight files by name, each read when it is asked for and not kept.

    Args:
        files: ``.safetensors`` files, or those of ``torch.save``.

    Raises:
        CheckpointError: A file is missing, cut short, or not what its name says.
    """

    def __init__(self, files: Sequence[str | Path]) -> None:
        read_shapes(files)  # says which file is at fault, if one is
        self._files: dict[str, Path] = {}
        self.outlines: dict[str, Tensor] = {}
        """Name -> a tensor of that shape and precision without values, in the order of the files."""
        for file in map(Path, files):
            outlines = _outlines_in(file)
            self.outlines |= outlines
            self._files |= dict.fromkeys(outlines, file)

    def read(self, name: str) -> Tensor:
        """Read one tensor onto the CPU, in its stored shape.

        The file is opened for each, so that what stays in memory is the tensor and not the file.
        """
        file = self._files[name]
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(name)
        return load_state_dict(file, map_location="cpu")[name]  # maps the file, without executing what it pickles


def find_weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights: those that transformers would load, in the same order.

    Raises:
        CheckpointError: There are none, or an index of shards is not one.
    """
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole, index = folder / f"{stem}.{ending}", folder / f"{stem}.{ending}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            weight_map = read_index(index)
            return [folder / name for name in sorted(set(weight_map.values()))]
    raise _no_weights(folder)


def _no_weights(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder}: found no weights, expected model.safetensors, or an index and the files that it names\n"
        "  fix: name the directory that holds them, or finish its download"
    )


def _outlines_in(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return dict(load_state_dict(file, map_location="meta"))
    with safe_open(file, framework="pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  it is no dict
        unknown = {name: part.get_dtype() for name, part in slices.items() if part.get_dtype() not in _DTYPES}
        for name, found in unknown.items():
            raise CheckpointError(
                f"{file}: found {name} in {found}, expected one of {', '.join(_DTYPES)}\n"
                "  fix: start from the release that is not quantized"
            )
        return {
            name: torch.empty(part.get_shape(), dtype=_DTYPES[part.get_dtype()], device="meta")
            for name, part in slices.items()
        }


def _shapes_in(file: Path) -> dict[str, Shape]:
    size = file.stat().st_size
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        return {name: tuple(tensor.shape) for name, tensor in load_state_dict(file, map_location="meta").items()}
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        if find_shortage(error) is not None:  # the file may be as it should
            raise
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
        raise _no_weights(folder)
    for index in sorted(folder.glob("*.index.json")):
        read_index(index)
    read_shapes(sorted(folder.glob("*.safetensors")))
