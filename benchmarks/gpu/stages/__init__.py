"""The stages, most telling first; each is a module here with ``cases(setting)``, imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["STAGES", "Stage"]


class Stage(NamedTuple):
    """What is said of a stage before it runs."""

    seconds: float
    """For which it needs room, of a run of ten minutes. It is ended after twice as long."""
    proves: str


STAGES: Mapping[str, Stage] = {
    "facts": Stage(15, "what the machine is, and what its matrix products and copies reach"),
    "kernels": Stage(25, "attention equals float32 one sequence at a time, forward and backward, by the kernel meant"),
    "linear_layers": Stage(20, "layers that carry a state (4.6): packed equals alone, by flash-linear-attention"),
    "fixtures": Stage(30, "five tiny releases give the CPU's loss and gradients; padded equals packed"),
    "real_size": Stage(110, "seconds and memory of a step at the released size, where it goes, where the host waits"),
    "commands": Stage(120, "the training command trains, samples, saves, proves, resumes and answers"),
    "deepspeed": Stage(50, "ZeRO-2, and ZeRO-2 with the optimizer in the machine's memory, run"),
    "tests": Stage(60, "the tests marked gpu pass, and those of resuming"),
    "compiled": Stage(40, "what compiled layers gain"),
    "estimate": Stage(20, "`minicpmv estimate` is within 15 % of the memory that real_size took"),
    "several": Stage(60, "several GPUs learn what one does: DDP, ZeRO-2, ZeRO-3, FSDP2"),
}
"""Name -> stage, in the order in which they run."""
