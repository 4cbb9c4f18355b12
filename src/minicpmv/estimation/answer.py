"""Answers one question: memory, time, what fits, and which flags make it fit; as text or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from minicpmv.devices.inspection import inspect_machine
from minicpmv.estimation.changes import possible_changes
from minicpmv.estimation.devices import measure_cpu
from minicpmv.estimation.duration import Duration, estimate_duration
from minicpmv.estimation.subject import read_subject
from minicpmv.estimation.workload import Workload, plan_workload
from minicpmv.machine.cards import Card
from minicpmv.models.configuration import read_model_config
from minicpmv.training.learning.recomputation import asked_of_parts
from minicpmv.training.start.footprint.engines import find_engine
from minicpmv.training.start.footprint.keeping import Choice, choose_recomputed
from minicpmv.training.start.footprint.memory import Memory, Prediction, estimate_memory
from minicpmv.training.start.footprint.subject import Subject, build_model
from minicpmv.wording import counted, format_seconds

__all__ = ["Answer", "Question", "answer", "as_json", "as_text"]

SCHEMA = 1
_GIB = 2**30
_USABLE = 0.98
"""Usable share of a card's memory; the driver takes the rest."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The command line of an estimate."""

    arguments: tuple[str, ...]
    """Flags of a training run."""
    has_data: bool
    devices: tuple[Card, ...]
    """Devices that it could run on; if empty, only the figures are printed."""
    num_devices: int
    share: float
    """Share of a device's peak that is reached."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of an estimate."""

    subject: Subject
    question: Question
    engine: str
    workload: Workload
    memory: Memory
    durations: dict[str, Duration]
    """Durations by device, for those whose peak is known."""
    recomputed: dict[str, Choice]
    """The layers that ``--activation_checkpointing auto`` would recompute, by device."""
    changes: list[tuple[tuple[str, ...], Memory]]
    """Flags to add, and the memory that the run then needs; searched where it does not fit as asked."""

    @property
    def fits_everywhere(self) -> bool:
        """Return whether the memory that is needed fits on every device that was asked about."""
        return all(_fits(self.memory, device) for device in self.question.devices)


def _fits(memory: Memory, device: Card) -> bool:
    return device.memory_gib is not None and memory.total <= device.memory_gib * _GIB * _USABLE


def answer(question: Question) -> Answer:
    """Estimate memory and time of a run.

    Raises:
        MiniCPMVError: Training would refuse the flags, the model or the data.
    """
    cards = question.devices or (Card("GPU", None),)
    here = inspect_machine()
    machine = replace(
        here,
        torch=replace(here.torch, architectures=()),  # independent of how this torch was built
        accelerators=tuple(card.as_accelerator() for card in cards),
    )
    subject = read_subject(question.arguments, machine=machine, num_devices=question.num_devices)
    config = read_model_config(subject.base.path)
    workload = plan_workload(subject, config, has_data=question.has_data)
    seen: dict[Any, Any] = {}
    memory = estimate_memory(subject, workload.heaviest, patches=workload.patches, seen=seen)
    fitting = all(_fits(memory, device) for device in question.devices) or subject.settings["use_cpu"]
    changes: list[tuple[tuple[str, ...], Memory]] = []
    for change in (
        ()
        if fitting
        else possible_changes(subject, question.arguments, machine=machine, can_shorten=not question.has_data)
    ):
        rows = workload.heaviest
        if "--model_max_length" in change.flags:
            rows = plan_workload(change.subject, config, has_data=False).heaviest
        needed = estimate_memory(change.subject, rows, patches=workload.patches, seen=seen)
        # The first one recomputes, as do all others; those that need no less than it are no help.
        if needed.total < (changes[0][1] if changes else memory).total:
            changes.append((change.flags, needed))
    recomputed: dict[str, Choice] = {}
    asked = asked_of_parts(subject.run)
    if "auto" in asked.values():
        prediction = Prediction(subject, workload.heaviest, patches=workload.patches, seen=seen)
        for device in question.devices:
            if _fits(memory, device):
                free = int((device.memory_gib or 0) * _GIB * _USABLE) - memory.weights
                recomputed[device.name] = choose_recomputed(prediction, asked, free=free)
    engine = find_engine(subject.settings, num_devices=question.num_devices, hidden_size=config.text_config.hidden_size)
    return Answer(
        subject=subject,
        question=question,
        engine=engine.name,
        workload=workload,
        memory=memory,
        durations=_durations(question, subject, workload),
        recomputed=recomputed,
        changes=changes,
    )


def _durations(question: Question, subject: Subject, workload: Workload) -> dict[str, Duration]:
    half = subject.half
    devices = question.devices
    if subject.settings["use_cpu"]:
        devices = (measure_cpu(half or torch.float32),)
    model = build_model(subject)
    found = {}
    for device in devices:
        tflops = device.half_tflops if half else device.float32_tflops
        if tflops is not None:
            found[device.name] = estimate_duration(subject, model, workload, tflops=tflops, share=question.share)
    return found


# ---------------------------------------------------------------------------------------------------------------- text

_COLUMNS = ("weights", "gradients", "optimizer", "activations", "logits", "other", "total")


def as_text(given: Answer) -> str:
    """Format the answer for a terminal of 100 columns."""
    return "\n".join([*_head(given), "", *_components(given), "", *_times(given), *_verdict(given)])


def _head(given: Answer) -> Iterator[str]:
    subject, rows = given.subject, given.workload.heaviest
    how = "QLoRA" if subject.run.q_lora else "LoRA" if subject.run.use_lora else "full fine-tuning"
    precision = str(subject.half or "float32").removeprefix("torch.")
    devices = counted(subject.num_devices, "device")
    yield f"{subject.base.version.model}, {how}, {precision}, {given.engine}, {devices}"
    kinds = [f"{row.tokens:,} tokens, {row.labelled_tokens:,} of them trained, {row.slices} slices" for row in rows]
    whose = "heaviest rows of the data" if given.question.has_data else "heaviest rows that the flags allow"
    yield f"{whose}: {'; '.join(kinds)}"


def _components(given: Answer) -> Iterator[str]:
    memory = given.memory
    named = {
        "weights": memory.weights,
        "their copies in half precision": memory.copies,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits and loss": memory.logits,
        "communication": memory.communication,
        "CUDA and fragmentation, assumed": memory.system,
    }
    where = "each device" if given.subject.num_devices > 1 else "the device"
    yield f"memory of {where} at its peak, {memory.moment}:"
    for name, size in named.items():
        if size:
            yield f"  {name:<34}{size / _GIB:8.2f} GiB"
    yield f"  {'together':<34}{memory.total / _GIB:8.2f} GiB"


def _times(given: Answer) -> Iterator[str]:
    share = given.question.share
    for name, duration in given.durations.items():
        steps = counted(given.workload.steps or 0, "step")
        of_epoch = "" if duration.epoch is None else f", an epoch of {steps} {format_seconds(duration.epoch)}"
        yield f"time on {name}, roughly: a step {format_seconds(duration.step)}{of_epoch} (at {share:.0%} of its peak)"
    if given.durations:
        yield ""


def _verdict(given: Answer) -> Iterator[str]:
    devices = given.question.devices
    if not devices or given.subject.settings["use_cpu"]:
        return
    if given.changes:
        yield _line(_COLUMNS, [device.name for device in devices], "GiB")
        yield _line(_cells(given.memory), _marks(given, given.memory), "as asked")
        for flags, memory in given.changes:
            yield " ".join(flags)
            yield _line(_cells(memory), _marks(given, memory), "")
        yield ""
    for device in devices:
        yield _advice(given, device)


def _cells(memory: Memory) -> list[str]:
    other = memory.copies + memory.communication + memory.system
    sizes = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.logits, other, memory.total)
    return [f"{size / _GIB:.1f}" for size in sizes]


def _marks(given: Answer, memory: Memory) -> list[str]:
    return ["fits" if _fits(memory, device) else "-" for device in given.question.devices]


def _line(cells: Sequence[str], marks: Sequence[str], label: str) -> str:
    sizes = (f"{cell:>{len(column) + 2}}" for cell, column in zip(cells, _COLUMNS, strict=True))
    return (f"{label:<9}" + "".join(sizes) + "".join(f"{mark:>11}" for mark in marks)).rstrip()


def _advice(given: Answer, device: Card) -> str:
    if _fits(given.memory, device):
        choice = given.recomputed.get(device.name)
        return f"{device.name}: fits as asked{f'; recomputed there: {choice}' if choice else ''}"
    flags = next((flags for flags, memory in given.changes if _fits(memory, device)), None)
    if flags is not None:
        return f"{device.name}: does not fit as asked; fits with {' '.join(flags)}"
    least = min([given.memory.total, *(memory.total for _, memory in given.changes)])
    return f"{device.name}: does not fit, nor with these changes, of which the smallest needs {least / _GIB:.1f} GiB"


# ---------------------------------------------------------------------------------------------------------------- JSON


def as_json(given: Answer) -> dict[str, Any]:
    """Format the answer as JSON, with sizes in bytes and times in seconds."""

    def of_run(memory: Memory) -> dict[str, Any]:
        fits = {device.name: _fits(memory, device) for device in given.question.devices}
        return {"memory": asdict(memory) | {"total": memory.total}, "fits": fits}

    return {
        "schema": SCHEMA,
        "model": given.subject.base.version.model,
        "engine": given.engine,
        "devices": given.subject.num_devices,
        "rows": [row._asdict() for row in given.workload.heaviest],
        "records": given.workload.records,
        "steps_per_epoch": given.workload.steps,
        "as_asked": of_run(given.memory),
        "changes": [{"flags": list(flags)} | of_run(memory) for flags, memory in given.changes],
        "recomputed": {name: choice.recomputed for name, choice in given.recomputed.items()},
        "share_of_peak": given.question.share,
        "seconds": {name: duration._asdict() for name, duration in given.durations.items()},
    }
