"""Defines the options that all commands with a model share, and turns them into settings."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.models.answering.limits import COUNT, FROM_ZERO, OF_SAMPLING, POSITIVE, SEED, SHARE, Limit, refuse_idle
from minicpmv.terminal.waiting import waiting

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.inference.generation import GenerationSettings
    from minicpmv.inference.loading import LoadedModel
    from minicpmv.inference.model_processes import Models

__all__ = [
    "add_base_option",
    "add_model_options",
    "add_sampling_options",
    "answer_length",
    "check_sampling",
    "generation_settings",
    "model_name",
    "number_from_zero",
    "open_many",
    "open_model",
    "positive_int",
    "positive_number",
    "seed_int",
]


def model_name(text: str) -> str:
    """Read a model's directory or hub name; a hub name that is unavailable is refused before torch is loaded.

    Raises:
        CheckpointError: The hub name is unavailable.
    """
    if text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(text).exists():
        from minicpmv.releases.directories import refuse_unreachable

        refuse_unreachable(text, asked_by="model")
    return text


def positive_int(text: str) -> int:
    """Read an option that counts something, at least 1.

    Raises:
        ArgumentTypeError: It is no such number.
    """
    return int(_number(text, COUNT))


def seed_int(text: str) -> int:
    """Read a seed of random numbers.

    Raises:
        ArgumentTypeError: It is none.
    """
    return int(_number(text, SEED))


def add_model_options(
    parser: argparse.ArgumentParser,
    *,
    max_new_tokens: int,
    with_thoughts: int,
    is_optional: bool = False,
    many: bool = False,
) -> None:
    """Add MODEL, and the options for loading it and for its answers.

    Args:
        parser: Parser of the command.
        max_new_tokens: Default of the longest answer.
        with_thoughts: The same with thinking.
        is_optional: Whether MODEL may be left out.
        many: Whether several processes can answer, each on a device of its own.
    """
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=model_name,
        nargs="?" if is_optional else None,
        help="directory of a base model, a fully tuned model or an adapter; or a hub name",
    )
    parser.add_argument(
        "--device", help=f"cpu, cuda, cuda:1, ... (default: {'all GPUs' if many else 'the first GPU'}, else the CPU)"
    )
    if many:
        parser.add_argument(
            "--processes",
            type=positive_int,
            metavar="N",
            help="processes that answer, each with a whole copy of the model (default: one for each GPU; one on a CPU)",
        )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="number format of the weights (default: float32 on a CPU, else the checkpoint's; float16 on a GPU without "
        "bfloat16)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=positive_int,
        metavar="N",
        help=f"longest answer (default: {max_new_tokens}; {with_thoughts} with --thinking, where thoughts count)",
    )
    parser.set_defaults(default_lengths=(max_new_tokens, with_thoughts))
    add_base_option(parser)
    parser.add_argument(
        "--thinking",
        action="store_true",
        help="let the model think before it answers (4.5 and later; refused for other versions before they are loaded)",
    )
    parser.add_argument(
        "--max-slice-nums",
        type=positive_int,
        metavar="N",
        help="most tiles cut from one picture (default: the checkpoint's own)",
    )


def add_base_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that allows an adapter on a base that it does not belong to."""
    parser.add_argument(
        "--allow-other-base",
        action="store_true",
        help="attach an adapter to weights other than those it was trained on, which is refused otherwise",
    )


def add_sampling_options(parser: argparse.ArgumentParser, *, seed: int | None = None) -> None:
    """Add the sampling options, with the default of the seed."""
    parser.add_argument("--sample", action="store_true", help="draw tokens at random, as the released chat() does")
    parser.add_argument("--temperature", type=positive_number, metavar="T", help="with --sample (default: 0.7)")
    parser.add_argument("--top-p", type=_share, metavar="P", help="with --sample (default: 0.8; 1 with --thinking)")
    parser.add_argument(
        "--top-k", type=positive_int, metavar="K", help="with --sample (default: 100; 50 with --thinking)"
    )
    parser.add_argument(
        "--repetition-penalty",
        type=positive_number,
        metavar="R",
        help="above 1 makes tokens generated before less likely (default: 1; with --sample the released chat()'s)",
    )
    parser.add_argument(
        "--seed",
        type=seed_int,
        metavar="N",
        help=f"with --sample: the same N gives the same answers (default: {'random' if seed is None else seed})",
    )


def check_sampling(options: argparse.Namespace) -> None:
    """Refuse an option that needs ``--sample`` where it is missing.

    Raises:
        UsageError: There is one.
    """
    given = {name: getattr(options, name) for name in (*OF_SAMPLING, "seed")}
    refuse_idle(given, sample=options.sample, as_flags=True)


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    return _number(text, POSITIVE)


def number_from_zero(text: str) -> float:
    """Read a finite number of at least 0."""
    return _number(text, FROM_ZERO)


def _share(text: str) -> float:
    return _number(text, SHARE)


def _number(text: str, limit: Limit) -> float:
    value = limit.read(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {limit.expected}")
    return value


def answer_length(options: argparse.Namespace) -> int:
    """Return the longest answer that the options allow, in tokens."""
    return options.max_new_tokens or options.default_lengths[options.thinking]


def generation_settings(options: argparse.Namespace) -> GenerationSettings:
    """Return the settings of generation, from the model options and the sampling options that a command has."""
    from minicpmv.inference.generation import GenerationSettings

    sampling = ("sample", "temperature", "top_p", "top_k", "repetition_penalty")
    return GenerationSettings(
        max_new_tokens=answer_length(options),
        max_slice_nums=options.max_slice_nums,
        enable_thinking=options.thinking,
        **{name: getattr(options, name) for name in sampling if hasattr(options, name)},
    )


def open_model(options: argparse.Namespace, device: str | None = None) -> LoadedModel:
    """Load the model that the options name.

    Args:
        options: Options of the command.
        device: Device, in place of the one in the options.

    Raises:
        CheckpointError: There is no such model.
        UsageError: The model cannot do what the options ask for; raised before weights are loaded.
    """
    with waiting(f"loading {options.model}"):
        import torch
        from transformers.utils import logging

        from minicpmv.inference.loading import find_version, load_model
        from minicpmv.models.answering.answers import thinking_setting

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if options.thinking:
            thinking_setting(find_version(options.model), enable_thinking=True)
        dtype = getattr(torch, options.dtype) if options.dtype else None
        return load_model(
            options.model, device=device or options.device, dtype=dtype, allow_other_base=options.allow_other_base
        )


def open_many(options: argparse.Namespace, *, num_batches: int) -> AbstractContextManager[Models]:
    """Load the model on each device that the options name, for use in a ``with`` statement.

    Args:
        options: Options of a command that can use several devices.
        num_batches: Batches to answer, which limit the number of processes.

    Raises:
        CheckpointError: There is no model.
        UsageError: The model cannot do what the options ask for, or there are too few devices.
    """
    from minicpmv.devices.inspection import inspect_machine
    from minicpmv.inference.loading import default_device
    from minicpmv.inference.model_processes import choose_devices, open_models

    device = str(default_device(options.device))
    devices = choose_devices(device, options.processes, num_gpus=len(inspect_machine().accelerators))
    return open_models(options.model, partial(open_model, options), devices[: max(1, num_batches)])
