"""Memory that ran out is recognised by whatever ran out of it, and by nothing else."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from minicpmv.machine.shortage import MemoryShortageError, find_shortage, naming_shortage

_CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.50 GiB is free."
    " Including non-PyTorch memory, this process has 77.60 GiB memory in use. Of the allocated memory 70.00 GiB is "
    "allocated by PyTorch, and 6.00 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
_NCCL = (
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error, NCCL version 2.27\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nFailed to CUDA calloc async 608 bytes: Cuda "
    "failure 2 'out of memory'"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError(_CUDA),
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.50 GiB "
            "is free.",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
            "CUDA error: out of memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ),
        (RuntimeError(_NCCL), "Failed to CUDA calloc async 608 bytes: Cuda failure 2 'out of memory'"),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB). Tried to allocate 1.00 GB."),
            "MPS backend out of memory (MPS allocated: 9.00 GB). Tried to allocate 1.00 GB.",
        ),
        (MemoryError(), "the machine's memory is used up"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), os.strerror(errno.ENOMEM)),
    ],
)
def test_it_is_known_by_its_words(error: Exception, said: str) -> None:
    assert find_shortage(error) == said


def test_the_processor_s_own_allocators_are_known() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**58, dtype=torch.uint8)
    assert str(find_shortage(of_torch.value)).startswith(f"can't allocate memory: you tried to allocate {2**58} bytes")
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**58, dtype=np.uint8)
    assert str(find_shortage(of_numpy.value)).startswith("Unable to allocate 256. PiB")


def test_library_that_has_no_room_is_too_little_memory() -> None:
    """As under ``ulimit -v 300000``."""
    said = "libtorch_cpu.so: failed to map segment from shared object"
    assert find_shortage(ImportError(said)) == said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 must have the same dtype"),
        OSError(errno.ENOENT, "x"),
        ValueError("memory"),
        ImportError("a.so: failed to map segment from shared object: Operation not permitted"),  # of the disk
    ],
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert find_shortage(error) is None
    with pytest.raises(type(error)) as raised, naming_shortage("here", "this", fix="less"):
        raise error
    assert raised.value is error


def test_the_message_has_its_four_parts_and_asks_for_words_only_then() -> None:
    asked: list[str] = []

    def what() -> str:
        asked.append("what")
        return "a batch"

    with naming_shortage("step 1", what, fix="less"):
        pass
    assert asked == []
    expected = r"^step 1: found too little memory for a batch \(x out of memory\), expected room for it\n  fix: less$"
    with pytest.raises(MemoryShortageError, match=expected), naming_shortage(lambda: "step 1", what, fix="less"):
        raise RuntimeError("x out of memory")
