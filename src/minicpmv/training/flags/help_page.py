"""Writes the page of ``minicpmv train --help`` from the declarations of all settings."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings
from minicpmv.training.flags.fields import GROUPS, Setting

__all__ = ["describe", "help_page", "placeholder"]

_USAGE = "usage: minicpmv train [RUN.yaml] --model MODEL --data DATA [DATA ...] --output DIR [flags]"
_MOST_SHOWN = 6
"""Choices; of more, the word ``NAME`` is shown."""
_EXAMPLES = """examples:
  minicpmv train --model openbmb/MiniCPM-V-2_6 --data train.json --output output/lora --use_lora true --dry_run true
  minicpmv train --model openbmb/MiniCPM-V-2_6 --data train.json --output output/lora --use_lora true
  minicpmv train --model openbmb/MiniCPM-V-2_6 --data train.json --output output/full --deepspeed zero3
  minicpmv train output/lora/run.yaml --learning_rate 5e-5 --output output/slower"""


def help_page() -> str:
    """Return the page, as wide as the terminal."""
    width = max(40, shutil.get_terminal_size().columns)
    short = ", ".join(f"--{short} for --{name}" for short, name in OTHER_NAMES.items())
    introduction = (
        "Fine-tune a MiniCPM-V model, on all GPUs of this machine. The flags are those of the official scripts, every "
        "field of transformers' TrainingArguments, and ours. Hyphens and underscores are the same; a switch without a "
        f"value is true. Short names: {short}. RUN.yaml holds flags by their names, one on a line; flags behind it "
        "win, and relative paths in it start where the command runs. Every run leaves the run.yaml that repeats it, "
        "and `minicpmv init` writes one to begin with. The same command with --resume_from_checkpoint true continues a "
        "run that was stopped."
    )
    codes = (
        "exit code: 0 done; 2 wrong use or faulty data, as the message explains; 128 + N stopped by signal N, with a "
        "checkpoint to resume from."
    )
    parts = [_USAGE, _wrap(introduction, width), *_groups(width), _wrap(codes, width), _EXAMPLES]
    return "\n\n".join(parts) + "\n"


def _groups(width: int) -> Iterator[str]:
    for group in GROUPS:
        lines = [f"{group}:"]
        for setting in all_settings().values():
            if setting.group == group:
                lines += [f"  --{setting.name} {placeholder(setting)}", _wrap(describe(setting), width, indent=8)]
        yield "\n".join(lines)


def placeholder(setting: Setting) -> str:
    """Return what is written behind a flag, such as ``N`` or ``[true|false]``."""
    kind = setting.kind
    words = {"truth": "true|false", "whole number": "N", "number": "X", "object": "JSON"}
    word = "|".join(kind.choices) if 0 < len(kind.choices) <= _MOST_SHOWN else words.get(kind.of, "TEXT")
    word = "NAME" if len(kind.choices) > _MOST_SHOWN else word
    word = f"{word} [{word} ...]" if kind.is_list else word
    return f"[{word}]" if setting.bare or kind.of.startswith("truth") else word


def describe(setting: Setting) -> str:
    """Return what a flag does, with its default."""
    text = " ".join(setting.help.split())
    default = setting.default_in_words
    if not default and setting.default not in (None, "", ()):
        default = str(setting.default).lower() if isinstance(setting.default, bool) else f"{setting.default}"
    return f"{text} (default: {default})" if default and "Default: " not in text else text


def _wrap(text: str, width: int, *, indent: int = 0) -> str:
    space = " " * indent
    return textwrap.fill(text, width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
