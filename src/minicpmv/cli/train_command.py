"""Runs ``minicpmv train``: the training run of the scripts, which starts its processes itself."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "train"
SUMMARY = "fine-tune a model, on all GPUs of this machine"


def run(arguments: Sequence[str]) -> int:
    """Pass the flags, which are transformers' and ours, to the training run."""
    from minicpmv.training.__main__ import main

    return main(arguments)
