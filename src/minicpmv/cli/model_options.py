"""Options that every command with a model shares, and how they become settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.inference.loading import LoadedModel

__all__ = ["add_model_options", "open_model", "positive_int"]


def positive_int(text: str) -> int:
    """Read an option that counts something, at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return value


def add_model_options(parser: argparse.ArgumentParser, *, max_new_tokens: int) -> None:
    """Add MODEL and what concerns loading it and the length of its answers."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a base model, a fully tuned model or an adapter; or a hub name"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the first GPU, else the CPU)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="number format of the weights (default: float32 on a CPU, else the checkpoint's)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=positive_int,
        default=max_new_tokens,
        metavar="N",
        help="longest answer (default: %(default)s)",
    )
    parser.add_argument(
        "--max-slice-nums",
        type=positive_int,
        metavar="N",
        help="most tiles cut from one picture (default: the checkpoint's own)",
    )


def open_model(options: argparse.Namespace) -> LoadedModel:
    """Load the model that the options name."""
    import torch
    from transformers.utils import logging

    from minicpmv.inference.loading import load_model

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = getattr(torch, options.dtype) if options.dtype else None
    return load_model(options.model, device=options.device, dtype=dtype)
