"""Reads flags whose value is an object of settings for something else, and tries it out before anything is read."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig

from minicpmv.errors import UsageError
from minicpmv.wording import suggest

__all__ = ["check_objects", "resolve_objects"]

_FILES = ("accelerator_config", "fsdp_config")
"""Flags that also take the name of a JSON file."""
_NEEDING_MODEL = ("apollo", "galore")


def resolve_objects(settings: dict[str, Any]) -> None:
    """Read the objects that were given as text.

    Args:
        settings: Keyword arguments for ``TrainingArguments``; texts become what they say.

    Raises:
        UsageError: A value is no JSON object, or holds a key that nothing reads or a number that is not finite.
    """
    for name in ("lr_scheduler_kwargs", "accelerator_config", "activation_checkpointing_kwargs"):
        value = settings.get(name)
        if isinstance(value, str) and value:
            settings[name] = _read(name, value)
    for name, value in settings.items():
        _refuse_not_finite(f"--{name}", _peek(name, value))
    config = settings.get("accelerator_config")
    if isinstance(config, dict):
        known = [field.name for field in dataclasses.fields(AcceleratorConfig)]
        unknown = [key for key in cast("dict[str, Any]", config) if key not in known]
        if unknown:
            raise UsageError(
                f"--accelerator_config: found the key {unknown[0]!r}, expected some of {', '.join(known)}\n"
                f"  fix: {suggest(unknown[0], known, otherwise='remove it')}"
            )


def check_objects(args: TrainingArguments) -> None:
    """Try a schedule and an optimizer of one number, made as the run will make its own.

    Raises:
        UsageError: ``--lr_scheduler_kwargs`` or ``--optim_args`` do not go with them.
    """
    weight = torch.nn.Parameter(torch.zeros(1))
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    given = cast("dict[str, Any]", args.lr_scheduler_kwargs or {})
    with _refused(f"--lr_scheduler_type {name} --lr_scheduler_kwargs", given):
        steps = torch.optim.SGD([weight], lr=1e-3)
        schedule = get_scheduler(
            name,
            optimizer=steps,
            num_warmup_steps=1,
            num_training_steps=10**6,
            scheduler_specific_kwargs=dict(given),
        )
        for _ in range(3 if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR) else 0):
            steps.step()
            schedule.step()
    optimizer = str(getattr(args.optim, "value", args.optim))
    if args.optim_args and not optimizer.startswith(_NEEDING_MODEL):
        with _refused(f"--optim {optimizer} --optim_args", args.optim_args):
            kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
            kind([weight], **settings)
            for each in args.optim_args.split(","):
                _refuse_unread(args, each.partition("=")[0].strip())


def _peek(name: str, value: Any) -> Any:
    """Return the settings that a value holds, as far as it is an object of them; None elsewhere."""
    if not isinstance(value, str):
        return value if isinstance(value, dict | list) else None
    if name == "optim_args":
        pairs = (each.partition("=") for each in value.split(","))
        return {key.strip(): _number(text) for key, _, text in pairs}
    if value.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):  # refused where it is read
            return json.loads(value)
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _refuse_not_finite(where: str, value: Any) -> None:
    """Refuse NaN and infinity, which Python's JSON has, at any depth."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(cast("list[Any]", value))
        for key, each in cast("Iterable[tuple[Any, Any]]", items):
            _refuse_not_finite(f"{where}[{key!r}]", each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(
            f"{where}: found {value:g}, expected a finite number\n  fix: write a number such as 0.5, or leave it out"
        )


def _refuse_unread(args: TrainingArguments, name: str) -> None:
    """Refuse a name that has no effect, whatever its value."""
    tried = copy.copy(args)
    found: list[Any] = []
    for value in (None, "0.125", "7", "true"):
        tried.optim_args = None if value is None else f"{name}={value}"
        try:
            found.append(Trainer.get_optimizer_cls_and_kwargs(tried)[1])
        except (TypeError, ValueError):  # so it is read
            return
    if all(each == found[0] for each in found):
        raise ValueError(f"{name!r} is not read")


def _read(name: str, value: str) -> Mapping[str, Any]:
    text, where = value, f"--{name}"
    if name in _FILES and not value.lstrip().startswith("{"):
        where = f"--{name} {value!r}"
        try:
            text = Path(value).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"{where}: found no readable file ({reason}), expected a JSON file or object\n"
                f"  fix: name a file that exists, or write the object: --{name} '{{\"name\": 1}}'"
            ) from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: found invalid JSON ({error}), expected an object\n"
            "  fix: quote it for the shell, names in double quotes: '{\"name\": 1}'"
        ) from error
    if not isinstance(found, dict):
        raise UsageError(
            f"{where}: found {text[:80]}, expected an object\n  fix: write names and values: '{{\"name\": 1}}'"
        )
    return cast("dict[str, Any]", found)


@contextmanager
def _refused(where: str, value: Any) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UsageError(
            f"{where}: found {value!r}, expected arguments that it accepts: {error}\n"
            "  fix: change what it names there, or remove the flag"
        ) from error
