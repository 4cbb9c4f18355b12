"""Opens a model to answer with: a base model, a fully tuned directory or an adapter.

An adapter's directory names its base; both are loaded and joined. Nothing here generates.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

from minicpmv.devices.inspection import inspect_machine, look_at
from minicpmv.errors import CheckpointError, MachineError
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.machine.precision import precision_of
from minicpmv.machine.support import refuse_unusable
from minicpmv.models.adapters.adapter_config import read_adapter_config
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.models.adapters.base_identity import film_settings_of_adapter, mode_of_adapter, warn_of_base
from minicpmv.models.answering.answers import end_token_ids
from minicpmv.models.checkpoints.downsampling import mode_options
from minicpmv.models.joining.model import JoinedModel
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.directories import SMALL_FILES, find_cached, find_directory, is_hub_name, name_to_load
from minicpmv.releases.json_bounds import quote
from minicpmv.releases.model_files import check_model_files, read_object
from minicpmv.releases.table import VERSIONS, Version
from minicpmv.releases.unknown import describe_unknown
from minicpmv.wording import counted, name_type

__all__ = [
    "LoadedModel",
    "base_of_adapter",
    "compare_own_base",
    "default_device",
    "find_base",
    "find_version",
    "load_model",
    "load_processor",
]

_logger = logging.getLogger(__name__)

_ADAPTER_CONFIG = "adapter_config.json"
_ON_PROCESSOR = "--device cpu"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to answer, with its processor."""

    path: str
    """The path as given."""
    base: str
    """Directory, or name on the hub, of the model's weights; the same as ``path`` unless that is an adapter."""
    model: JoinedModel
    """The model in eval mode; for an adapter PEFT's wrapper, which has the same methods."""
    processor: MiniCPMVProcessor

    @property
    def device(self) -> torch.device:
        """The device for inputs."""
        return next(self.model.parameters()).device

    def end_token_ids(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return end_token_ids(self.processor.tokenizer, self.processor.version)


def base_of_adapter(path: str | Path) -> str | None:
    """Return the base model that an adapter directory names, or None if it is not an adapter's.

    Raises:
        CheckpointError: The adapter names no base, or a directory that does not exist.
    """
    config_file = Path(path) / _ADAPTER_CONFIG
    if not config_file.is_file():
        return None
    base = read_adapter_config(Path(path)).get("base_model_name_or_path")
    if not base:
        raise CheckpointError(
            f"{config_file}: found {'no' if base is None else 'an empty'} base_model_name_or_path, expected the model "
            "that the adapter belongs to\n  fix: write the base model's directory there"
        )
    if "\0" not in base and Path(base).is_dir():
        return base
    if not is_hub_name(base):
        raise CheckpointError(
            f"{config_file}: base_model_name_or_path names {base!r}, found no such directory, expected the base model\n"
            "  fix: restore the base model, or write its new path into that file"
        )
    return _cached(base, config_file)


def _cached(name: str, named_by: Path) -> str:
    """Return the cached directory of a model; a name in a file of unknown origin must not cause a download."""
    found = find_cached(name)
    if found is None:
        raise CheckpointError(
            f"{named_by}: base_model_name_or_path names {name!r} on the hub, found no copy of it in the cache, "
            "expected one: the base that an adapter names is not downloaded unasked\n"
            f"  fix: if you trust that name, `hf download {name}`; or write the base model's directory into that file"
        )
    return str(found)


def default_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device that was asked for; by default the first GPU if there is one, else the CPU.

    Raises:
        MachineError: The machine has no such device; or none was asked for, and it has an unusable or untested one.
    """
    if device is not None:
        return _named_device(device)
    machine = inspect_machine()
    refuse_unusable(machine, on_processor=_ON_PROCESSOR)
    return torch.device("cuda" if machine.accelerators else "cpu")


def _named_device(device: str | torch.device) -> torch.device:
    """Return a device by its name, if the machine has it."""
    fix = f"{_ON_PROCESSOR}, or leave it out: the first GPU is taken if there is one"
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise MachineError(f"device: found {str(device)!r}, expected cpu, cuda or cuda:N\n  fix: {fix}") from error
    if named.type in ("cpu", "meta"):
        return named
    machine = inspect_machine()
    if named.type == "cuda":
        refuse_unusable(machine, on_processor=_ON_PROCESSOR)
    kinds = ("cuda", "rocm") if named.type == "cuda" else (named.type,)  # torch calls both cuda
    number = sum(each.kind in kinds for each in machine.accelerators)
    if (named.index or 0) >= number:
        has = f"{counted(number, 'device')} of that kind" if number else "no device of that kind that torch can use"
        raise MachineError(f"device: found {str(device)!r} on a machine with {has}, expected one it has\n  fix: {fix}")
    return named


def find_base(path: str | Path) -> str:
    """Return the directory of a model's base, or its name on the hub; ``path`` is anything that can be loaded.

    Raises:
        CheckpointError: There is no such model.
    """
    return _locate(path)[0]


def find_version(path: str | Path) -> Version:
    """Return the release of a model directory, a name on the hub or an adapter, without loading weights.

    Raises:
        CheckpointError: There is no model at ``path``, or it is no MiniCPM-V.
    """
    base, _ = _locate(path)
    with _naming(base):
        config = AutoConfig.from_pretrained(base)
    version = getattr(config, "minicpmv_version", None)
    if not isinstance(version, Version):
        raise _not_ours(base, config)
    return version


def compare_own_base(path: str | Path, *, allow_other: bool) -> str | None:
    """Verify that the base that an adapter directory names has the weights that the adapter was trained on.

    Returns:
        A description of the difference that was allowed; None if there is none.

    Raises:
        CheckpointError: It is another base, or it is missing.
    """
    base = base_of_adapter(path)
    return None if base is None else warn_of_base(path, base, allow_other=allow_other)


def load_model(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    allow_other_base: bool = False,
) -> LoadedModel:
    """Load a model directory, a name on the hub, or an adapter with its base.

    Args:
        path: The directory or name.
        device: Device for the model; by default the first GPU if there is one, else the CPU.
        dtype: Precision of the weights; by default float32 on a CPU, elsewhere the checkpoint's, but float16 instead of
            bfloat16 on a card without bfloat16.
        allow_other_base: Whether an adapter may be loaded on other weights than those that it was trained on.

    Raises:
        CheckpointError: There is no model at ``path``, or the adapter's base is missing or another model.
        MachineError: See :func:`default_device`.
    """
    base, adapter = _locate(path)
    compare_own_base(path, allow_other=allow_other_base)
    target = default_device(device)
    with _naming(base):
        if dtype is None:
            dtype = _choose_dtype(base, target)
        # Straight to a GPU: the machine's memory may be smaller than the model.
        placement = {} if target.type == "cpu" else {"device_map": {"": target}}
        options = mode_options(mode_of_adapter(adapter))
        model = AutoModelForImageTextToText.from_pretrained(
            base, dtype=dtype if dtype is not None else "auto", **placement, **options
        )
    if not isinstance(model, JoinedModel):
        raise _not_ours(base, model)
    if adapter is not None:
        model = cast("JoinedModel", attach_adapter(model, adapter))
    model.to(cast("Any", target))  # transformers leaves the method untyped
    processor = MiniCPMVProcessor.from_pretrained(base, **options, **film_settings_of_adapter(adapter))
    return LoadedModel(str(path), base, model.eval(), processor)


def load_processor(path: str | Path) -> MiniCPMVProcessor:
    """Load the processor of a model, or of an adapter, without loading weights.

    Raises:
        CheckpointError: There is no model at ``path``.
    """
    base, adapter = _locate(path)
    options = mode_options(mode_of_adapter(adapter)) | film_settings_of_adapter(adapter)
    return MiniCPMVProcessor.from_pretrained(base, **options)


def _choose_dtype(base: str, device: torch.device) -> torch.dtype | None:
    """Return the precision of a model's weights on a device; None keeps the checkpoint's."""
    if device.type == "cpu":
        return torch.float32
    best = precision_of(look_at(device))
    if best.value == "bf16":
        return None
    if best.value == "fp32":
        return torch.float32
    config = AutoConfig.from_pretrained(base)
    if config.dtype not in (None, torch.bfloat16):
        return None
    version: Version | None = getattr(config, "minicpmv_version", None)
    if version is not None and version.network.overflows_in_float16:
        _logger.warning(
            "notice: weights are float16, because %s; %s is known to exceed the range of float16. "
            "If an answer ends with an error about that, use --dtype float32, which takes twice the memory",
            best.reason,
            version.model,
        )
    return torch.float16


def _locate(path: str | Path) -> tuple[str, str | None]:
    """Return the location of the model's weights, and the adapter's directory if ``path`` is one."""
    text = str(path)
    if "\0" in text or (_looks_like_a_path(text) and not Path(text).exists()):
        raise CheckpointError(
            f"model: found no directory {text!r}, expected a model or adapter directory\n"
            "  fix: name the directory that a finished run printed, or a name on the hub such as openbmb/MiniCPM-V-2_6"
        )
    adapter_base = base_of_adapter(text)
    base = adapter_base or text
    if Path(base).is_dir() and not (Path(base) / "config.json").is_file():
        _refuse_stopped(Path(base))
        raise CheckpointError(
            f"{base}: found neither config.json nor {_ADAPTER_CONFIG}, expected a model or adapter directory\n"
            "  fix: name the directory that holds one of them"
        )
    base = name_to_load(base, asked_by="model")
    folder = find_directory(base, asked_by="model", **SMALL_FILES)
    _refuse_unknown_type(folder)
    check_model_files(folder)
    return base, text if adapter_base is not None else None


def _refuse_stopped(directory: Path) -> None:
    """Name the newest checkpoint of a run that goes on or was stopped, and has saved no model yet.

    Raises:
        CheckpointError: The directory is that of such a run.
    """
    usable = [
        path
        for path in list_checkpoints(directory)
        if any((path / name).is_file() for name in (_ADAPTER_CONFIG, "config.json"))
    ]
    if usable:
        raise CheckpointError(
            f"{directory}: found a run that has not saved its model yet, expected a finished one\n"
            f"  fix: name its newest checkpoint, {usable[-1]}, or finish the run: the command that started it, with "
            "--resume_from_checkpoint true"
        )


@contextmanager
def _naming(base: str) -> Iterator[None]:
    """Translate transformers' ``OSError`` into a message that names the model."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{base}: found files that cannot be loaded ({str(error).splitlines()[0]}), expected a complete model\n"
            "  fix: download the model again, or restore the file"
        ) from error


def _refuse_unknown_type(base: Path) -> None:
    """Refuse a model type that transformers does not know either; it would suggest an upgrade."""
    file = base / "config.json"
    fields = read_object(file, expected="a model's", fix="download the model again, or restore the file")
    kind = fields.get("model_type")
    if kind is not None and (not isinstance(kind, str) or kind not in CONFIG_MAPPING):
        raise CheckpointError(
            f"{file}: found a model of the type {quote(kind)}, expected a MiniCPM-V or MiniCPM-o\n"
            f"  fix: name the directory of a release in docs/versions.md; {describe_unknown(fields, VERSIONS.values())}"
        )


def _not_ours(base: str, found: object) -> CheckpointError:
    return CheckpointError(
        f"{base}: found {name_type(found)}, expected a MiniCPM-V model\n  fix: name a MiniCPM-V directory"
    )


def _looks_like_a_path(name: str) -> bool:
    """Return whether a name cannot be one on the hub, which is ``name`` or ``owner/name``."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()
