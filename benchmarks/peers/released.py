"""The released ``.py`` files of 2.6, without which peers cannot load it: found, laid beside weights, and mended.

They are not part of this package, and nothing here downloads or keeps them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

__all__ = ["AUTO_MAPS", "VARIABLE", "MissingCode", "find_code", "lay_code", "mend"]

VARIABLE = "MINICPMV_RELEASED_CODE"

_FILES = (
    "configuration_minicpm.py",
    "image_processing_minicpmv.py",
    "modeling_minicpmv.py",
    "modeling_navit_siglip.py",
    "processing_minicpmv.py",
    "resampler.py",
    "tokenization_minicpmv_fast.py",
)
AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "configuration_minicpm.MiniCPMVConfig",
        "AutoModel": "modeling_minicpmv.MiniCPMV",
        "AutoModelForCausalLM": "modeling_minicpmv.MiniCPMV",
    },
    "preprocessor_config.json": {
        "AutoProcessor": "processing_minicpmv.MiniCPMVProcessor",
        "AutoImageProcessor": "image_processing_minicpmv.MiniCPMVImageProcessor",
    },
    "tokenizer_config.json": {"AutoTokenizer": [None, "tokenization_minicpmv_fast.MiniCPMVTokenizerFast"]},
}


class MissingCode(Exception):
    """Says what is missing, and what to do."""


def find_code(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the folder with the released files.

    Args:
        variables: The environment.

    Raises:
        MissingCode: It names no folder, or one that lacks some of them.
    """
    fix = (
        f"  fix: download the .py files of openbmb/MiniCPM-V-2_6, and set {VARIABLE} to their folder; "
        "or compare 4.6 alone: --kinds 4.6"
    )
    named = variables.get(VARIABLE)
    if not named:
        raise MissingCode(
            f"2.6: found no {VARIABLE}, expected a folder with the released .py files: peers load 2.6 by them, and "
            f"they are not part of this package\n{fix}"
        )
    folder = Path(named)
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise MissingCode(f"2.6: found no {', '.join(missing)} in {VARIABLE}={named}, expected them there\n{fix}")
    return folder


def lay_code(code: Path, model: Path, directory: Path) -> Path:
    """Write a directory that peers load: the model's files and weights with the released code beside them.

    Args:
        code: Folder with the released files.
        model: A checkpoint without code.
        directory: Where to.
    """
    shutil.copytree(model, directory)
    for name in _FILES:
        (directory / name).write_text(mend(name, (code / name).read_text(encoding="utf-8")), encoding="utf-8")
    for name, names in AUTO_MAPS.items():
        content = json.loads((directory / name).read_text(encoding="utf-8"))
        (directory / name).write_text(json.dumps(content | {"auto_map": names}, indent=1), encoding="utf-8")
    return directory


def mend(name: str, text: str) -> str:
    """Change what stops a released file from being loaded here, and nothing that it computes.

    Args:
        name: Of the file.
        text: What it holds.
    """
    if name == "resampler.py":  # `List` came from a module of torch that no longer lends it
        return "from typing import List\n" + text
    if name == "modeling_minicpmv.py":
        text = re.sub(r"^import torchvision\n", "", text, flags=re.MULTILINE)  # imported and never used
        # LLaMA-Factory gives the ids twice: in `data`, and as an argument that the language model then refuses.
        dropped = (
            '    for name in ("input_ids", "inputs_embeds", "position_ids"):\n            kwargs.pop(name, None)\n'
        )
        return re.sub(r"(    def forward\(self, data, \*\*kwargs\):\n)", rf"\1    {dropped}", text)
    return text
