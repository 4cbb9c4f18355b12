"""Lists flags that reduce memory, from those that cost least to those that change what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minicpmv.errors import MiniCPMVError
from minicpmv.estimation.subject import read_subject
from minicpmv.machine.value import Machine
from minicpmv.training.flags.deepspeed.presets import PRESETS
from minicpmv.training.start.footprint.subject import Subject

__all__ = ["Change", "possible_changes"]

_RECOMPUTE = ("--activation_checkpointing", "true")
_LORA = ("--use_lora", "true")
_FROZEN = ("--tune_vision", "false", "--tune_embeddings", "false")
_EIGHT_BIT = "adamw_bnb_8bit"
_RELEASE = ("--release_gradients", "true", "--gradient_accumulation_steps", "1", "--max_grad_norm", "0")


class Change(NamedTuple):
    """A change of flags, with the resulting run."""

    flags: tuple[str, ...]
    subject: Subject


def possible_changes(
    asked: Subject, arguments: Sequence[str], *, machine: Machine, can_shorten: bool
) -> Iterator[Change]:
    """Yield each change that training would accept and that has an effect; all but the first recompute.

    Args:
        asked: The run as asked.
        arguments: Its flags.
        machine: The machine that it would run on.
        can_shorten: Whether rows may be shortened; False where the data decide how long they are.
    """
    recomputes = asked.run.llm_activation_checkpointing
    base = () if recomputes else _RECOMPUTE
    if base:
        yield from _try(base, arguments, asked, machine)
    for flags in _candidates(asked, can_shorten=can_shorten):
        yield from _try((*base, *flags), arguments, asked, machine)


def _candidates(asked: Subject, *, can_shorten: bool) -> Iterator[tuple[str, ...]]:
    run = asked.run
    sharding = [name for name in PRESETS if asked.num_devices > 1 or "offload" in name]
    yield from (("--deepspeed", name) for name in sharding)
    if not asked.settings.get("deepspeed"):
        yield ("--optim", _EIGHT_BIT)
        if not run.use_lora:  # LoRA has few gradients
            yield from (_RELEASE, ("--optim", _EIGHT_BIT, *_RELEASE))
    if can_shorten and run.model_max_length >= 1024:
        half = str(run.model_max_length // 2)
        yield ("--model_max_length", half, *(("--pack_length", half) if run.pack_length else ()))
    if run.tune_vision:
        yield ("--tune_vision", "false")
    if not run.use_lora:
        yield _LORA
    if run.tune_embeddings:
        yield (
            *(() if run.use_lora else ("--use_lora", "true")),
            "--tune_vision",
            "false",
            "--tune_embeddings",
            "false",
        )
    if not run.q_lora and not asked.packs_weights:
        yield ("--q_lora", "true")
        yield ("--q_lora", "true", *_FROZEN)


def _try(flags: tuple[str, ...], arguments: Sequence[str], asked: Subject, machine: Machine) -> Iterator[Change]:
    place = flags.index("--optim") if "--optim" in flags else len(flags)
    optimizer = flags[place + 1] if "--optim" in flags else None
    added = (*flags[:place], *flags[place + 2 :])
    chosen = asked.settings.get("optim") if optimizer is None else optimizer
    try:
        subject = read_subject(
            [*arguments, *added],
            machine=machine,
            num_devices=asked.num_devices,
            optimizer=chosen or "adamw_torch_fused",
        )
    except MiniCPMVError:
        return  # excluded by the flags as asked
    yield Change(flags, subject)
