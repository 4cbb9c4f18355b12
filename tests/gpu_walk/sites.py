"""Finds the line of code, and the module of the model, that an operation comes from."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["module_at_work", "outermost_tolist", "site_of_operation"]

_TORCH = str(Path(torch.__file__).parent)
_OURS = "minicpmv/"
_HERE = str(Path(__file__).parent)
_PACKAGES = re.compile(r".*/(?:site-packages|src)/")
_FRAME = re.compile(r'File "(.+)", line (\d+), in (\S+)')


def site_of_operation() -> str:
    """Name the line that called the operation at hand: the innermost outside torch, and the innermost of ours.

    In the backward pass that is the line whose gradient is computed.
    """
    lines = [_name(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in _frames_outside_torch()]
    if lines:
        return _join(lines)
    node: Any = torch._C._current_autograd_node()
    trace = node.metadata.get("traceback_", []) if node is not None else []
    forward = [match.groups() for each in reversed(trace) if (match := _FRAME.search(each)) is not None]
    lines = [_name(*each) for each in forward if not each[0].startswith((_TORCH, _HERE))]
    return f"gradient of {_join(lines)}" if lines else "the walk itself"


def module_at_work(names: Mapping[int, str]) -> str:
    """Name the innermost module whose method is being run.

    Args:
        names: Of the modules, by their ``id``.
    """
    for frame in _frames(sys._getframe(1)):
        owner = frame.f_locals.get("self", frame.f_locals.get("module"))
        if isinstance(owner, nn.Module) and id(owner) in names:
            return names[id(owner)]
    return "no module"


def outermost_tolist() -> FrameType | None:
    """Return the call of ``tolist`` that is being answered. A fake tensor's asks for one number after the other."""
    found = None
    for frame in _frames(sys._getframe(1)):
        if frame.f_code is FakeTensor.tolist.__code__:
            found = frame
    return found


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames_outside_torch() -> Iterator[FrameType]:
    for frame in _frames(sys._getframe(2)):
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE)) and Path(file).is_absolute() and "/lib/python" not in _short(file):
            yield frame


def _short(file: str) -> str:
    return _PACKAGES.sub("", file)


def _name(file: str, line: int | str, function: str) -> str:
    return f"{_short(file)}:{line} {function}"


def _join(lines: list[str]) -> str:
    """Join the first of some lines, from the innermost on, with the first of ours."""
    ours = next((line for line in lines if line.startswith(_OURS)), lines[0])
    return lines[0] if ours == lines[0] else f"{lines[0]} <- {ours}"
