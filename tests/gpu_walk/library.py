"""Compiles the device that does nothing, once for all processes of pytest and for later runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

__all__ = ["MissingCompiler", "compile_library"]

_SOURCE = Path(__file__).with_name("fake_cuda.cpp")
_TORCH = Path(torch.__file__).parent


class MissingCompiler(Exception):
    """The library cannot be made here; says what to install."""


def compile_library(folder: Path) -> Path:
    """Return the compiled library, made if it is not there yet.

    Args:
        folder: Kept between runs of pytest. The library's name holds a digest of all that it is made from.

    Raises:
        MissingCompiler: There is no compiler, or torch came without its headers.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise MissingCompiler("needs a C++ compiler: apt-get install g++")
    if not (_TORCH / "include" / "ATen").is_dir():
        raise MissingCompiler(f"needs torch's headers, which {_TORCH} lacks: pip install --force-reinstall torch")
    made_from = [_SOURCE.read_bytes(), str(_TORCH).encode(), torch.__version__.encode(), _version_of(compiler)]
    library = folder / f"fake_cuda-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:16]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second process waits, then finds it done
        if not library.exists():
            _compile(compiler, library)
    return library


def _version_of(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout


def _compile(compiler: str, library: Path) -> None:
    unfinished = library.with_suffix(f".{os.getpid()}")
    options = ["-shared", "-fPIC", "-std=c++20", "-O0", f"-I{_TORCH / 'include'}", str(_SOURCE), "-o", str(unfinished)]
    linked = [f"-L{_TORCH / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{_TORCH / 'lib'}"]
    done = subprocess.run([compiler, *options, *linked], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"{compiler} could not compile {_SOURCE} for torch {torch.__version__}; see above")
    unfinished.rename(library)
