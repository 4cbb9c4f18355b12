"""Reads model directories in a process with bounded memory, one after the other, and says how each ended.

Started as ``python -m tests.hostile.reader``: a directory's path on each line of the input, one line of JSON for each
on the output. An error of ours is a good end. Anything else that is raised is not, and its traceback is in the answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

from minicpmv.errors import MiniCPMVError
from minicpmv.inference.loading import find_version, load_model
from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["main"]

_MEMORY = 3 * 2**30
"""Bytes that reading may take beyond what the process has when it starts. The models have a megabyte."""


def _read_processor(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        return
    processor = MiniCPMVProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": Image.new("RGB", (120, 80))}, {"type": "text", "text": "a" * 60 + " What?"}]
    processor.apply_chat_template([{"role": "user", "content": content}])


def _read_model(folder: Path) -> None:
    load_model(folder, device="cpu", allow_other_base=True)


_READERS: dict[str, Callable[[Path], Any]] = {
    "version": find_version,
    "processor": _read_processor,
    "model": _read_model,
}


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    logging.set_verbosity(50)  # critical
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    # Libraries of other languages write to descriptor 1 themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY, in_use + _MEMORY))
    for line in sys.stdin:
        ends: dict[str, str] = {}
        for name, read in _READERS.items():
            try:
                read(Path(line.rstrip("\n")))
                ends[name] = "read"
            except MiniCPMVError as error:
                ends[name] = f"named: {error}"
            except BaseException:  # noqa: BLE001  what is not ours is the finding
                ends[name] = f"raised: {traceback.format_exc()}"
        print(json.dumps(ends), file=answers, flush=True)


if __name__ == "__main__":
    main()
