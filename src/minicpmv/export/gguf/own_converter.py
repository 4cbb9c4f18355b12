"""Has llama.cpp's own converter write the files of releases that it converts as they are: 4.6 and later.

It is started from a checkout that the user names, once for each file, and reads a folder of links to the model's data:
no code of the directory, and the chat template that puts marks around pictures. What it writes is verified by
``verification`` like files that are written here.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.export.checkpoint import Checkpoint
from minicpmv.export.gguf.template import chat_template
from minicpmv.export.gguf.tensors import EngineTensor
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.row import OwnConverter
from minicpmv.releases.table import Version
from minicpmv.wording import counted, name_few

__all__ = ["CONVERTER_TYPES", "Converter", "check_converted", "find_converter", "link_data"]

CONVERTER_TYPES = ("f32", "f16", "bf16", "q8_0")
"""Types that the converter writes; llama-quantize makes the others of them."""

_SCRIPT = "convert_hf_to_gguf.py"
_CHECKOUT = "git clone --depth 1 https://github.com/ggml-org/llama.cpp"
_DATA = (".json", ".safetensors", ".txt", ".model")
_TEMPLATE = "chat_template.jinja"
_NO_MTP = "--no-mtp"
_LAST_LINES = 8


@dataclass(frozen=True, slots=True)
class Converter:
    """The script of a checkout that knows a release."""

    script: Path
    options: tuple[str, ...]
    """For the language model."""

    def convert(self, model: Path, file: Path, kind: str, *, vision: bool) -> None:
        """Write one of the two files.

        Raises:
            CheckpointError: The converter failed; its last lines are quoted.
        """
        options = ("--mmproj",) if vision else self.options
        command = [sys.executable, str(self.script), str(model), "--outfile", str(file), "--outtype", kind, *options]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        if done.returncode or not file.is_file():
            last = "\n  ".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
            raise CheckpointError(
                f"{self.script}: found exit code {done.returncode}, expected {file.name}\n  {last}\n"
                "  fix: `git pull` in that checkout, and install what its requirements.txt names if a module is missing"
            )


def find_converter(given: str | None, version: Version, model: object) -> Converter | None:
    """Find the converter for a release that needs one.

    Args:
        given: A checkout of llama.cpp, as ``--llama-cpp`` names it.
        version: The release.
        model: The directory, for messages.

    Returns:
        The converter; None for a release whose files are written here.

    Raises:
        UsageError: A checkout is missing, is none, does not know the release, or has nothing to do.
    """
    known = version.engines.gguf
    if not isinstance(known, OwnConverter):
        if given is not None:
            raise UsageError(
                f"--llama-cpp {given}: found {version.model}, expected 4.6 or later: files of this release are written "
                "here\n  fix: leave --llama-cpp out"
            )
        return None
    if given is None:
        script = f"python llama.cpp/{_SCRIPT} {shlex.quote(str(model))} --outtype f16"
        raise UsageError(
            f"{model}: found {version.model}, expected --llama-cpp DIR with it: llama.cpp's own converter writes its "
            f"files\n  fix: `{_CHECKOUT}` ({known.since}), then --llama-cpp llama.cpp; or, without any check, "
            f"`{script} --outfile model.gguf {_NO_MTP}` and `{script} --outfile mmproj.gguf --mmproj`"
        )
    place = Path(given)
    script = place / _SCRIPT
    if not script.is_file():
        raise UsageError(
            f"--llama-cpp {given}: found no {_SCRIPT}, expected a checkout of llama.cpp\n  fix: `{_CHECKOUT}`"
        )
    # Older checkouts have all models in the script, newer ones in a package next to it.
    sources = [script, *sorted((place / "conversion").glob("*.py"))]
    if not any(f'"{known.architecture}"' in source.read_text(encoding="utf-8") for source in sources):
        raise UsageError(
            f"--llama-cpp {given}: found a converter without {known.architecture}, expected one that knows "
            f"{version.model} ({known.since})\n  fix: `git pull` in {given}"
        )
    # Weights that predict several tokens ahead have no place in the file. Unless told so, newer converters look for
    # them, and fail without.
    options = (_NO_MTP,) if _NO_MTP in script.read_text(encoding="utf-8") else ()
    return Converter(script, options)


def link_data(checkpoint: Checkpoint, processor: MiniCPMVProcessor, place: Path) -> None:
    """Make a folder for the converter: links to the model's data, and the template with marks around pictures."""
    place.mkdir()
    for file in sorted(checkpoint.path.iterdir()):
        if file.name.endswith(_DATA) and file.is_file():
            (place / file.name).symlink_to(file.resolve())
    template = chat_template(processor)
    if template is None:
        return
    (place / _TEMPLATE).write_text(template, encoding="utf-8")
    settings = place / "tokenizer_config.json"
    if settings.exists():  # a template in it would come first
        fields = json.loads(settings.read_text(encoding="utf-8"))
        if fields.pop("chat_template", None) is not None:
            settings.unlink()
            settings.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")


def check_converted(file: Path, tensors: Iterable[EngineTensor]) -> None:
    """Make sure that a converted file holds nothing but what the checkpoint explains.

    Raises:
        CheckpointError: It holds another tensor.
    """
    expected = {tensor.name for tensor in tensors}
    others = sorted(tensor.name for tensor in GGUFReader(file).tensors if tensor.name not in expected)
    if others:
        raise CheckpointError(
            f"{file.name}: found tensors that are not the model's: {name_few(others)}; expected "
            f"{counted(len(expected), 'tensor')} and no other\n"
            "  fix: `git pull` in the checkout; if that fails, report it"
        )
