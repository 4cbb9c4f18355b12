"""``minicpmv train``: the training run of the scripts, without torchrun."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "train"
SUMMARY = "fine-tune a model in this process (finetune_lora.sh and finetune_ds.sh use several)"


def run(arguments: Sequence[str]) -> int:
    """Hand the flags, which are transformers' and ours, over to the training run."""
    from minicpmv.training.__main__ import main

    return main(arguments)
