"""States what a walk has seen, in plain values that one process writes and another reads; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

__all__ = ["METHODS", "PRECISIONS", "RELEASES", "ROWS", "Case", "Crossing", "Report", "read_report", "write_report"]

Release = Literal["2.0", "2.5", "2.6", "4.0", "4.5", "4.6", "4.7", "4.7-A3B", "o-4.5"]
Method = Literal["lora", "adapters", "full"]
Precision = Literal["zero2 bfloat16", "autocast bfloat16", "autocast float16"]
Rows = Literal["packed", "padded"]
Records = Literal["pictures", "weights", "text", "pairs"]

RELEASES: tuple[Release, ...] = get_args(Release)
METHODS: tuple[Method, ...] = get_args(Method)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ROWS: tuple[Rows, ...] = get_args(Rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One way to train one release."""

    release: Release
    method: Method = "lora"
    """``lora``: as in the official recipe, which trains tower, resampler and embeddings fully beside it. ``adapters``:
    LoRA alone."""
    precision: Precision = "autocast bfloat16"
    """``zero2``: all weights in that precision and no autocast, as DeepSpeed's engine has them. ``autocast``: what is
    trained is float32, and autocast is on."""
    rows: Rows = "packed"
    recomputes: bool = False
    """Whether layers forget their activations, as with ``--activation_checkpointing``."""
    records: Records = "pictures"
    """``pictures``: with and without; ``weights``: the same, and one answer counts in part; ``text``: none has any;
    ``pairs``: two answers behind each question, of which one has no picture, as with ``--objective dpo``."""
    fault: str = ""
    """A remedy that is switched off for this walk, by its name in ``faults``."""

    def __str__(self) -> str:
        words = [self.release, self.method, self.precision, self.rows]
        words += ["recomputing"] if self.recomputes else []
        words += [] if self.records == "pictures" else [self.records]
        return ", ".join(words + ([f"without {self.fault}"] if self.fault else []))


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossing:
    """One line of code that made data cross between host and device, or made the host wait for the device."""

    phase: str
    """When: ``batch``, ``forward``, ``backward``, ..."""
    what: str
    """How: torch's name for the operation."""
    where: str
    """The line: ``minicpmv/models/networks/loss.py:62 labelled_token_loss``; of another package also our own line."""
    waits: bool
    """Whether the host stops until the device has done everything before."""
    to: Literal["host", "device"]
    num_bytes: int
    is_pixels: bool = False
    times: int = 1

    def __str__(self) -> str:
        size = f"{self.num_bytes / 1e6:.2f} MB" if self.num_bytes >= 1e4 else f"{self.num_bytes} bytes"
        how = "waits" if self.waits else "no wait"
        return f"{self.phase}: {self.what} to the {self.to}, {size}, {how}, {self.times}x at {self.where}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one walk has seen."""

    case: Case
    stopped: str = ""
    """The traceback of what ended the walk before its end."""
    crossings: tuple[Crossing, ...] = ()
    kernels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Calls of the variable-length kernel: phase -> module that called -> how often. Its gradients have no module."""
    sdpa: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Calls of torch's other attention, likewise."""
    attentions: tuple[str, ...] = ()
    """Every module of the model that attends."""
    without_gradient: tuple[str, ...] = ()
    """Parameters that learn and got no gradient."""
    seconds: float = 0.0

    def crossings_of(self, *phases: str) -> list[Crossing]:
        """The crossings of some phases, by the words that they begin with."""
        return [each for each in self.crossings if each.phase.startswith(phases)]


def write_report(report: Report) -> str:
    """Write a report as one line."""
    return json.dumps(asdict(report))


def read_report(line: str) -> Report:
    """Read what :func:`write_report` wrote."""
    fields: dict[str, Any] = json.loads(line)
    fields["case"] = Case(**fields["case"])
    fields["crossings"] = tuple(Crossing(**each) for each in fields["crossings"])
    fields |= {name: tuple(fields[name]) for name in ("attentions", "without_gradient")}
    return Report(**fields)
