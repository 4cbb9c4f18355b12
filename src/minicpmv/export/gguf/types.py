"""Defines the number formats of a GGUF file, and chooses the format of each tensor.

``float`` formats and those that the gguf library supports are written here. The k-quants and later formats exist only
in llama.cpp's own ``llama-quantize``, which is called for them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from minicpmv.errors import UsageError
from minicpmv.export.gguf.type_names import OWN_TYPES
from minicpmv.models.checkpoints.weight_files import Shape

__all__ = [
    "ERROR_BOUNDS",
    "FILE_TYPES",
    "NUMBER_FORMATS",
    "find_llama_quantize",
    "quantize_file",
    "tensor_type",
    "type_of",
]

Type = GGMLQuantizationType

NUMBER_FORMATS: Mapping[str, Type] = MappingProxyType({name: Type[name.upper()] for name in OWN_TYPES})
"""Format of most tensors, for each type of file that is written here."""

FILE_TYPES: Mapping[str, LlamaFileType] = MappingProxyType(
    {name: getattr(LlamaFileType, f"MOSTLY_{name.upper()}") for name in OWN_TYPES if name != "f32"}
    | {"f32": LlamaFileType.ALL_F32}
)

ERROR_BOUNDS: Mapping[Type, float] = MappingProxyType(
    {
        Type.F32: 0.0,
        Type.F16: 1e-3,
        Type.BF16: 4e-3,
        Type.Q8_0: 0.02,
        Type.Q6_K: 0.05,
        Type.Q5_0: 0.1,
        Type.Q5_1: 0.1,
        Type.Q5_K: 0.1,
        Type.Q4_0: 0.2,
        Type.Q4_1: 0.2,
        Type.Q4_K: 0.2,
        Type.IQ4_NL: 0.2,
        Type.IQ4_XS: 0.2,
        Type.Q3_K: 0.35,
        Type.Q2_K: 0.6,
    }
)
"""Largest root-mean-square error of a tensor, relative to its values', that counts as rounding.

That is two to three times the error of each format for normally distributed weights. A misplaced tensor has 1.4.
"""

_LEAST_FOR_EDGES = 8
"""Fewest bits of embeddings and output head, because an error there affects every token."""
_EDGES = ("token_embd.weight", "output.weight")


def type_of(dtype: torch.dtype) -> str:
    """Return the type that keeps weights of this precision unchanged."""
    return {torch.float16: "f16", torch.bfloat16: "bf16"}.get(dtype, "f32")


def tensor_type(name: str, shape: Shape, wanted: Type) -> Type:
    """Return the format of a tensor in a file of the type ``wanted``.

    Vectors, norms and other tensors that are added, not multiplied, stay float32. Rows that do not fill whole blocks
    cannot be quantized and become float16.
    """
    if len(shape) == 1 or name in ("v.position_embd.weight", "resampler.query"):
        return Type.F32
    if len(shape) == 4:  # the tower's convolution, for which the engine has float kernels only
        return Type.F32 if wanted is Type.F32 else Type.F16
    if name in _EDGES and _bits(wanted) < _LEAST_FOR_EDGES:
        wanted = Type.Q8_0
    return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else Type.F16


def _bits(wanted: Type) -> float:
    block, size = GGML_QUANT_SIZES[wanted]
    return 8 * size / block


def find_llama_quantize(given: str | None, wanted: str, others: Sequence[str] = OWN_TYPES) -> Path:
    """Find llama.cpp's own tool: the given one, or the one on ``PATH``.

    Args:
        given: The tool, or None.
        wanted: The type that needs it.
        others: Types that need none.

    Raises:
        UsageError: It was not found.
    """
    found = shutil.which(given or "llama-quantize")
    if found is None:
        raise UsageError(
            f"--type {wanted}: found no {given or 'llama-quantize on PATH'}, expected llama.cpp's tool that writes "
            "this type\n  fix: name it with --llama-quantize, or choose one of "
            f"{', '.join(others)}, which need none"
        )
    return Path(found)


def quantize_file(tool: Path, source: Path, target: Path, wanted: str) -> None:
    """Convert a file to another type with llama-quantize.

    Raises:
        UsageError: The tool failed.
    """
    done = subprocess.run(
        [tool, source, target, wanted.upper()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        last = "\n  ".join(done.stdout.strip().splitlines()[-5:])
        raise UsageError(
            f"{tool}: found exit code {done.returncode}, expected {target.name}\n  {last}\n"
            "  fix: use a recent llama-quantize that runs on this machine"
        )
