"""Remakes the shipped base model, ``python -m minicpmv.demo.pretrain``, by the project's own full fine-tuning.

It needs no download and about half an hour of one core. The mixture, the tokenizer and the random start are the same
every time; the trained weights differ a little from one machine or torch version to another.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from minicpmv.demo.base import write_untrained
from minicpmv.demo.mixture import write_mixture
from minicpmv.demo.sheets import ASSETS
from minicpmv.errors import MiniCPMVError
from minicpmv.files.atomic_files import give_ordinary_permissions

__all__ = ["remake_base"]

_NUM_RECORDS = 32_000
_NUM_HELD_OUT = 600
_TRAINING_FLAGS = (
    "--num_train_epochs=4",
    "--packing=false",
    "--per_device_train_batch_size=32",
    "--learning_rate=1e-3",
    "--lr_scheduler_type=cosine",
    "--warmup_steps=200",
    "--weight_decay=0",
    "--adam_beta2=0.95",
    "--max_grad_norm=1.0",
    "--seed=0",
    "--tune_vision=true",
    "--tune_llm=true",
    "--model_max_length=512",
    "--save_strategy=epoch",
    "--overwrite_output_dir=true",
    "--gradient_accumulation_steps=1",
    "--measure=0",
    "--save_total_limit=2",
    "--logging_steps=100",
    "--report_to=none",
    "--activation_checkpointing=false",
    "--dataloader_num_workers=1",
    "--bf16=false",
    "--per_device_eval_batch_size=64",
)
_SHIPPED_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def remake_base(work: Path, *, output: Path = ASSETS / "base", num_records: int = _NUM_RECORDS) -> None:
    """Make the base model again.

    Args:
        work: Folder for the mixture, the random start and the training run; about 300 MB.
        output: Folder of the finished model: by default in the package, which must then be writable.
        num_records: Conversations of the mixture.

    Raises:
        MiniCPMVError: The training failed, and has printed its own message.
    """
    work.mkdir(parents=True, exist_ok=True)
    data_file = write_mixture(work, "mixture", seed=1, count=num_records)
    eval_file = write_mixture(work, "mixture_heldout", seed=2, count=_NUM_HELD_OUT)
    start, trained = work / "start", work / "trained"
    write_untrained(start, seed=0)
    command = [sys.executable, "-m", "minicpmv.training", *_TRAINING_FLAGS]
    command += [f"--model_name_or_path={start}", f"--data_path={data_file}", f"--eval_data_path={eval_file}"]
    command += [f"--output_dir={trained}"]
    if subprocess.run(command, check=False).returncode != 0:
        raise MiniCPMVError(
            f"{trained}: found that training the base model ended with an error, expected a model there\n"
            "  fix: see the message above; nothing was replaced"
        )
    ship(start, trained, output)


def ship(start: Path, trained: Path, output: Path) -> None:
    """Write the trained weights as bfloat16, with the start's other files, into ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    for name in _SHIPPED_FILES:
        shutil.copyfile(start / name, output / name)
    config = json.loads((start / "config.json").read_text(encoding="utf-8")) | {"torch_dtype": "bfloat16"}
    (output / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(trained / "model.safetensors").items()}
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    give_ordinary_permissions(output)


def main() -> None:
    """Read the command line and remake the base."""
    parser = argparse.ArgumentParser(prog="python -m minicpmv.demo.pretrain", description="Remake the demo's base.")
    parser.add_argument("--work", type=Path, default=Path("demo-base"), help="folder for intermediate files")
    parser.add_argument("--output", type=Path, default=ASSETS / "base", help="where the finished model goes")
    arguments = parser.parse_args()
    remake_base(arguments.work, output=arguments.output)


if __name__ == "__main__":
    main()
