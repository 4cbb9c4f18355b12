"""Settles what a run is from its flags and the machine, before data are read or processes are connected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minicpmv.devices.inspection import inspect_machine
from minicpmv.files.places import check_directory
from minicpmv.machine.value import Machine
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.distributed.console import is_first_process, notice
from minicpmv.training.finish.obstacles import refuse_obstacles
from minicpmv.training.finish.pushing import Upload, find_upload
from minicpmv.training.flags.arguments import Request, parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.resolution import resolve_settings
from minicpmv.training.inputs.base_checkpoint import BaseCheckpoint, check_weights, open_base
from minicpmv.training.inputs.vision_cache import resolve_vision_cache
from minicpmv.training.launching.starting import refuse_other_number
from minicpmv.training.learning.switches import refuse_partitioned_experts, resolve_learning

__all__ = ["Settled", "settle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """A run as its flags, its base and the machine decide it."""

    request: Request
    """The flags; every switch of ``request.run`` is resolved."""
    settings: Mapping[str, Any]
    """Keyword arguments for ``TrainingArguments``."""
    compilation: Mapping[str, Any] | None
    """Options for ``torch.compile``; None: nothing is compiled."""
    machine: Machine
    base: BaseCheckpoint
    upload: Upload | None
    """Repository that receives the saved model; None: it is not uploaded."""

    @property
    def run(self) -> RunArguments:
        """Return the project's own flags."""
        return self.request.run

    @property
    def output_dir(self) -> str:
        """Return the run's directory."""
        return self.settings["output_dir"]


def settle(arguments: Sequence[str]) -> Settled:
    """Read the flags, and refuse what cannot work on this machine, with this base or in this directory.

    Raises:
        MiniCPMVError: The user can fix the fault.
    """
    request = parse_arguments(arguments)
    refuse_other_number(request.run)
    _check_places(request)
    upload = find_upload(request.training, base=request.run.model_name_or_path, use_lora=request.run.use_lora)
    machine = inspect_machine()
    resolved = resolve_settings(request, machine)
    for text in resolved.notices:
        notice(text)
    base, run = _resolve_learning(resolved.run, resolved.training, given=request.given)
    if resolved.training.get("fp16") and base.version.network.overflows_in_float16:
        notice(
            f"--fp16 true: {base.version.model} is known to exceed the range of float16; such a run stops with an "
            "error, and --fp16 false trains in float32"
        )
    if is_first_process():
        refuse_obstacles(resolved.training["output_dir"], base.path, use_lora=run.use_lora)
    return Settled(
        request=replace(request, run=run),
        settings=resolved.training,
        compilation=resolved.compilation,
        machine=machine,
        base=base,
        upload=upload,
    )


def _check_places(request: Request) -> None:
    """Verify on rank 0 that the run can write its directories."""
    if is_first_process():
        places = {"--output_dir": request.training["output_dir"], "--logging_dir": request.run.logging_dir}
        for flag, place in places.items():
            if place is not None:
                check_directory(place, asked_by=flag)


def _resolve_learning(
    run: RunArguments, settings: Mapping[str, Any], *, given: frozenset[str]
) -> tuple[BaseCheckpoint, RunArguments]:
    """Decide what learns from the model's modules alone."""
    base = open_base(run)
    check_weights(base.config, run)
    skeleton = build_skeleton(base.path)
    run, notices = resolve_learning(run, skeleton, given=given)
    refuse_partitioned_experts(run, skeleton, settings)
    for text in notices:
        notice(text)
    return base, resolve_vision_cache(run, skeleton, given=given)
