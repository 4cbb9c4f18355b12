"""What ``minicpmv estimate`` would have said of the steps of ``real_size``, whose lines are read from the file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.building import read_flags, write_files
from benchmarks.gpu.cases import Case, Finding, LeftOut, Setting
from benchmarks.gpu.lines import read_lines
from benchmarks.gpu.stages.real_size import PATCHES
from minicpmv.training.start.footprint.memory import estimate_memory
from minicpmv.training.start.footprint.stages import Row

__all__ = ["cases"]

_NEAR = 0.15


def cases(setting: Setting) -> list[Case]:
    """List the ways of which there are numbers.

    Raises:
        LeftOut: There are none.
    """
    sizes = "small" if setting.is_small else setting.release
    found = {
        line["case"]: line
        for line in read_lines(setting.output)
        if line.get("stage") == "real_size" and line.get("sizes") == sizes and "flags" in line
    }
    if not found:
        raise LeftOut("real_size has written nothing into this file for this release")
    return [Case(name, lambda line=line: _compare(setting, line)) for name, line in found.items()]


def _compare(setting: Setting, line: dict[str, Any]) -> Iterator[Finding]:
    rows, columns = PATCHES
    assert line["patches"] == line["slices"] * rows * columns, "square images"
    subject = read_flags(setting, write_files(setting), line["flags"].split())
    row = Row(tokens=line["tokens"], labelled_tokens=line["labelled"], slices=line["slices"])
    memory = estimate_memory(subject, [row], patches=PATCHES, seen={})
    gib = (memory.total - memory.system) / 2**30
    if "peak_gib" not in line:
        yield {"estimated_gib": gib, "measured_gib": None}
        return
    off = gib / line["peak_gib"] - 1
    yield {
        "holds": math.fabs(off) <= _NEAR,
        "expected": f"within {_NEAR:.0%}, without the allowance for CUDA and fragments",
        "estimated_gib": gib,
        "measured_gib": line["peak_gib"],
        "off_by": off,
        "allowance_gib": memory.system / 2**30,
        "measured_beyond_gib": line["peak_reserved_gib"] - line["peak_gib"] + line["outside_torch_gib"],
    }
