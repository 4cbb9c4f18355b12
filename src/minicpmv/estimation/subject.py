"""Reads the run to estimate: its settings, resolved as by the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minicpmv.machine.value import Machine
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.resolution import resolve_settings
from minicpmv.training.inputs.base_checkpoint import check_weights, open_base
from minicpmv.training.learning.switches import resolve_learning
from minicpmv.training.start.footprint.subject import Subject

__all__ = ["read_subject"]


def read_subject(
    arguments: Sequence[str], *, machine: Machine, num_devices: int, optimizer: str | None = None
) -> Subject:
    """Resolve a run's settings, up to what needs weights.

    Args:
        arguments: Flags of a training run.
        machine: The machine that it would run on.
        num_devices: Number of devices, with one process each.
        optimizer: Replaces ``--optim``, whether or not its package is installed here.

    Raises:
        MiniCPMVError: Training would refuse the flags or the model.
    """
    request = parse_arguments(arguments)
    if optimizer is not None:
        others = {name: value for name, value in request.training.items() if name != "optim"}
        request = replace(request, training=others)
    resolved = resolve_settings(request, replace(machine, num_processes=num_devices))
    settings = resolved.training if optimizer is None else {**resolved.training, "optim": optimizer}
    run = _without_file_name(resolved.run)
    base = open_base(run)
    if optimizer is None:
        check_weights(base.config, run)
    run, _ = resolve_learning(run, build_skeleton(base.path), given=request.given)
    return Subject(base=base, run=run, settings=settings, num_devices=num_devices)


def _without_file_name(run: RunArguments) -> RunArguments:
    """Accept ``config.json`` as the name of its directory."""
    path = Path(run.model_name_or_path)
    if path.name == "config.json" and path.is_file():
        return replace(run, model_name_or_path=str(path.parent))
    return run
