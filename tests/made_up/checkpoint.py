"""Writes a model directory of the made-up release, and lets this process and those that it starts know the release."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer

from minicpmv.registration import register as register_with_transformers
from minicpmv.releases.row import find_code
from minicpmv.releases.table import register
from tests.made_up.row import MADE_UP
from tests.tiny import FIXTURES

__all__ = ["known", "write_made_up", "write_python"]

_SOURCE = FIXTURES / "v4"


@contextmanager
def known() -> Iterator[None]:
    """Let this process know the release."""
    remove = register(MADE_UP)
    register_with_transformers()
    try:
        yield
    finally:
        remove()


def write_python(file: Path, interpreter: str) -> str:
    """Write a command that takes an interpreter's place and knows the release; return its path.

    Args:
        file: Where to.
        interpreter: Runs modules. What asks for anything else needs no release, and gets this process's own.
    """
    others = f'[ "$1" = -m ] || exec {shlex.quote(sys.executable)} "$@"'
    modules = f'exec {shlex.quote(interpreter)} -m tests.made_up.python "$0" "$@"'
    file.write_text(f"#!/bin/sh\n{others}\n{modules}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def write_made_up(folder: Path) -> Path:
    """Write a model with random weights; the release must be known."""
    folder.mkdir(parents=True)
    released = json.loads((_SOURCE / "config.json").read_text(encoding="utf-8"))
    dialect, markup = find_code(MADE_UP.reading.dialect), MADE_UP.reading.markup
    tokenizer = AutoTokenizer.from_pretrained(_SOURCE)
    tokenizer.chat_template = None
    tokenizer.add_special_tokens({"additional_special_tokens": [*markup.tokens, *dialect.control_tokens]})
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(MADE_UP.reading.terminators[0])
    kept = {key: value for key, value in released.items() if key not in ("auto_map", "query_num")}
    fields = kept | {
        "model_type": MADE_UP.network.model_type,
        "version": MADE_UP.name,
        "architectures": ["MadeUp"],
        "vocab_size": len(tokenizer),
        "eos_token_id": ends,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    pictures = json.loads((_SOURCE / "preprocessor_config.json").read_text(encoding="utf-8"))
    pictures = {key: value for key, value in pictures.items() if key not in ("auto_map", "image_feature_size")}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | {"version": MADE_UP.name}), encoding="utf-8")
    torch.manual_seed(0)
    config = find_code(MADE_UP.network.config).from_pretrained(folder)
    find_code(MADE_UP.network.model)(config).save_pretrained(folder)
    return folder
