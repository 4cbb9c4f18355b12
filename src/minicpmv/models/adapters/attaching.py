"""Attaches LoRA adapters to a model, and fails unless every tensor of it finds its place and every place its tensor.

PEFT warns at most, and goes on with matrices that add nothing. Names and shapes are compared before PEFT touches the
model, so that a message can say which model the adapter was trained on. Nothing here trains or saves.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

from minicpmv.errors import CheckpointError
from minicpmv.models.adapters.adapter_config import ADAPTER_CONFIG, check_patterns_end, read_adapter_config
from minicpmv.models.adapters.base_identity import mode_of_adapter
from minicpmv.models.adapters.foreign_adapters import ADAPTER_WEIGHTS, as_peft_writes_it, check_kind
from minicpmv.models.adapters.peft_loading import already_compared
from minicpmv.models.checkpoints.key_names import own_shapes
from minicpmv.models.checkpoints.weight_files import Shape, read_shapes
from minicpmv.releases.model_files import read_object
from minicpmv.releases.table import Version, detect_version, version_named
from minicpmv.wording import list_few

__all__ = ["attach_adapter", "attach_adapters", "fitting_adapter"]

_MATRIX = re.compile(r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_magnitude_vector)(\.default)?(\.weight)?")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "lora-ga")
"""How ``init_lora_weights`` begins where LoRA starts by taking a part out of the base."""
_MOST_SHOWN = 5


def attach_adapter(model: Any, path: str | Path, **options: Any) -> PeftModel:
    """Wrap a base model in an adapter.

    Args:
        model: A MiniCPM-V model; unchanged if its adapter does not fit.
        path: The adapter's directory.
        options: As for ``PeftModel.from_pretrained``.

    Raises:
        CheckpointError: The adapter is broken, belongs to another model, or lacks tensors.
    """
    with _fitting(model, path) as fitting:
        wrapped = _wrap(fitting, lambda: PeftModel.from_pretrained(model, str(fitting.folder), **options))
        _refuse_unfilled(wrapped, fitting, options.get("adapter_name", "default"))
    return wrapped


def attach_adapters(model: Any, paths: Mapping[str, str | Path]) -> PeftModel:
    """Wrap a base model in several adapters, of which ``set_adapter(name)`` chooses one; none trains.

    Args:
        model: A MiniCPM-V model without an adapter; unchanged if one of them does not fit.
        paths: Directories of at least one adapter by PEFT's name for it, which holds no dot.

    Raises:
        CheckpointError: An adapter is broken, belongs to another model, or lacks tensors.
    """
    with ExitStack() as stack:
        # All before PEFT touches the model.
        fitting = {name: stack.enter_context(_fitting(model, path)) for name, path in paths.items()}
        (first, fit), *others = fitting.items()
        wrapped = _wrap(fit, lambda: PeftModel.from_pretrained(model, str(fit.folder), adapter_name=first))
        for name, other in others:
            _wrap(other, partial(wrapped.load_adapter, str(other.folder), adapter_name=name))
        for name, each in fitting.items():
            _refuse_unfilled(wrapped, each, name)
    return wrapped


@contextmanager
def fitting_adapter(build: Callable[[], Any], path: str | Path) -> Iterator[Path]:
    """Make sure that an adapter fits without loading it, and give a directory that holds it in the model's own names.

    Args:
        build: Makes the model without weights.
        path: The adapter's directory.

    Raises:
        CheckpointError: The adapter is broken, belongs to another model, or lacks tensors.
    """
    with _fitting(build(), path) as fitting:
        config = PeftConfig.from_pretrained(str(fitting.folder))
        config.base_model_name_or_path = None  # PEFT warns that a model without weights has another name
        _refuse_unfilled(_wrap(fitting, lambda: get_peft_model(build(), config)), fitting, "default")
        yield fitting.folder


@dataclass(frozen=True, slots=True)
class _Fitting:
    """An adapter whose tensors have their places in the model."""

    path: Path
    """Of whoever asked."""
    folder: Path
    """Where PEFT reads it."""
    found: Mapping[str, Shape]
    described: str
    """What PEFT has found if it fails."""
    at_fault: str
    """Begins a message about missing tensors."""


@contextmanager
def _fitting(model: Any, path: str | Path) -> Iterator[_Fitting]:
    """Compare an adapter with a model that has none yet."""
    given = Path(path)
    config = read_adapter_config(given)
    _refuse_unfinished(given, config)
    check_kind(given, config)
    check_patterns_end(config, (name for name, _ in model.named_modules()), given / ADAPTER_CONFIG)
    files = [given / name for name in ADAPTER_WEIGHTS if (given / name).is_file()]
    if not files:
        raise CheckpointError(
            f"{given}: found no {ADAPTER_WEIGHTS[0]}, expected the adapter's weights\n"
            "  fix: restore the file, or train again"
        )
    with as_peft_writes_it(given, config, model) as folder:
        found = read_shapes([folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()][:1])
        settled = read_adapter_config(folder)
        trained_on, here = _base_of(given, config), _describe(model)
        misfits = _misfits(found, model, rank=None if config.get("rank_pattern") else config.get("r"))
        if misfits or trained_on.version not in (None, here.version):
            raise CheckpointError(
                f"{given}: found an adapter of {trained_on}, expected one of {here}\n{_listed(misfits)}\n"
                "  fix: load it on the model that it was trained on, or train one for this model"
            )
        _refuse_other_mode(model, given)
        at_fault = f"{files[0]}: found {len(found)} tensors, expected {{}} more for {here}"
        _refuse_missing(_missing_beside_lora(found, model, settled.get("modules_to_save") or ()), at_fault)
        yield _Fitting(given, folder, found, f"an adapter of {trained_on} that PEFT cannot put on {here}", at_fault)


def _refuse_other_mode(model: Any, adapter: Path) -> None:
    """Make sure that the model shrinks pictures as the adapter was trained."""
    trained, here = mode_of_adapter(adapter), getattr(model.config, "downsample_mode", None)
    if trained is not None and here != trained:
        raise CheckpointError(
            f"{adapter}: found an adapter trained with downsample_mode {trained!r}, and a model loaded with {here!r}, "
            f"expected the same\n  fix: load model and processor with downsample_mode={trained!r}"
        )


def _refuse_unfilled(wrapped: PeftModel, fitting: _Fitting, name: str) -> None:
    """Make sure that PEFT made no place that the file does not fill."""
    # PEFT counts biases in the frozen originals of what is trained beside LoRA, which nothing reads.
    expected = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False)
    missing = [place for place in expected if _is_read(place) and place not in fitting.found]
    _refuse_missing(missing, fitting.at_fault)


_Loaded = TypeVar("_Loaded")


def _wrap(fitting: _Fitting, load: Callable[[], _Loaded]) -> _Loaded:
    try:
        with already_compared(), warnings.catch_warnings():
            # PEFT 0.21 asks transformers by its old name; may go with the PEFT release that asks by the new one.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # the caller's to find
            return load()
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{fitting.path}: found {fitting.described} ({str(error).splitlines()[0]}), expected what PEFT wrote\n"
            "  fix: load it on the model that it was trained on, or train one for this model"
        ) from error


def _is_read(name: str) -> bool:
    return ".original_module." not in name


def _refuse_missing(names: list[str], at_fault: str) -> None:
    if names:
        raise CheckpointError(
            f"{at_fault.replace('{}', str(len(names)))}\n{_listed([f'{name}: missing' for name in names])}\n"
            "  fix: copy the file again; if it is whole, train again"
        )


def _missing_beside_lora(found: Mapping[str, Shape], model: Any, modules: Sequence[str]) -> list[str]:
    """Names of what is trained fully beside LoRA and not in the file: PEFT fails at the first of them."""
    owners = [name for name, _ in model.named_modules() if name.endswith(tuple(modules))]
    expected = [name for name in own_shapes(model) if any(name.startswith(f"{owner}.") for owner in owners)]
    return [name for name in (f"base_model.model.{bare}" for bare in expected) if name not in found]


@dataclass(frozen=True, slots=True)
class _Base:
    """A model as a message names it."""

    where: str
    version: Version | None

    def __str__(self) -> str:
        return f"{self.version.model} ({self.where})" if self.version else self.where


def _describe(model: Any) -> _Base:
    return _Base(model.name_or_path or "built from a config", model.config.minicpmv_version)


def _base_of(folder: Path, config: Mapping[str, Any]) -> _Base:
    """Tell what an adapter was trained on: its run says so, or the base that it names."""
    stated = config.get("base_model_name_or_path") or "an unnamed model"
    record = _read_if_there(folder / "run.json").get("base_model")
    record = record if isinstance(record, dict) else {}
    version = version_named(record.get("version"))
    if version is not None:
        return _Base(str(record.get("path") or stated), version)
    base = _read_if_there(Path(stated) / "config.json")
    try:
        return _Base(stated, detect_version(base) if base else None)
    except CheckpointError:
        return _Base(stated, None)


def _read_if_there(file: Path) -> dict[str, Any]:
    try:
        return read_object(file, expected="", fix="")
    except CheckpointError:
        return {}


def _refuse_unfinished(folder: Path, config: Mapping[str, Any]) -> None:
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{folder}: found LoRA that belongs to a changed base (init_lora_weights {start}), as a run keeps it in "
            "its checkpoints, expected the adapter that a finished run leaves\n"
            "  fix: go on with --resume_from_checkpoint, and load the finished run's directory; have another tool "
            "convert its own (LLaMA-Factory: pissa_convert, PEFT: path_initial_model_for_weight_conversion)"
        )


def _misfits(found: Mapping[str, Shape], model: Any, *, rank: int | None) -> list[str]:
    """Describe each tensor that has no place of its shape in the model."""
    modules, shapes = dict(model.named_modules()), own_shapes(model)
    described = []
    for name, shape in filter(lambda item: _is_read(item[0]), found.items()):
        bare = name.removeprefix("base_model.model.")
        matrix = _MATRIX.fullmatch(bare)
        if matrix is not None:
            module = modules.get(matrix["module"].removesuffix(".base_layer"))  # of two tensors that a module holds
            stacked = rank and rank * _num_experts(module)
            width = getattr(module, "in_features" if matrix["kind"] == "lora_A" else "out_features", None)
            axis = -1 if matrix["kind"] == "lora_A" else 0
            inner = shape[axis + 1] if len(shape) == 2 else rank
            if module is None:
                described.append(f"{name}: no such module")
            elif width is not None and shape[axis] != width:
                described.append(f"{name}: found {list(shape)}, expected a width of {width}")
            elif rank is not None and inner != stacked:
                described.append(f"{name}: found {list(shape)}, expected rank {stacked}, as {ADAPTER_CONFIG} says")
        elif ".lora_" not in bare:
            expected = shapes.get(bare.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."))
            if expected is None:
                described.append(f"{name}: no such tensor")
            elif expected != shape:
                described.append(f"{name}: found {list(shape)}, expected {list(expected)}")
    return described


def _num_experts(module: Any) -> int:
    """Count the matrices that a module holds in one tensor; PEFT puts theirs end to end."""
    own = [] if module is None else module.named_parameters(recurse=False)
    return max((tensor.shape[0] for name, tensor in own if tensor.ndim == 3 and name != "weight"), default=1)


def _listed(lines: list[str]) -> str:
    return list_few(lines, most=_MOST_SHOWN, indent="    ")
