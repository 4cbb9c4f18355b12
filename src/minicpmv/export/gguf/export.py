"""Exports a complete checkpoint as two GGUF files for llama.cpp: language model, and tower with resampler (mmproj)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFType, GGUFWriter

from minicpmv.errors import UsageError
from minicpmv.export.checkpoint import Checkpoint, open_checkpoint
from minicpmv.export.gguf.files import refuse_replacing, write_tensors
from minicpmv.export.gguf.language_model import architecture, language_tensors, write_language_sizes
from minicpmv.export.gguf.limits import check_engine_can_run, differences
from minicpmv.export.gguf.native_tensors import native_language_tensors, native_vision_tensors
from minicpmv.export.gguf.own_converter import (
    CONVERTER_TYPES,
    Converter,
    check_converted,
    find_converter,
    link_data,
)
from minicpmv.export.gguf.template import chat_template
from minicpmv.export.gguf.type_names import OWN_TYPES
from minicpmv.export.gguf.types import FILE_TYPES, NUMBER_FORMATS, find_llama_quantize, quantize_file, type_of
from minicpmv.export.gguf.verification import Agreement, File, check_tensors, compare_logits
from minicpmv.export.gguf.vision import ARCHITECTURE, POSITIONS, vision_tensors, write_vision_sizes
from minicpmv.export.gguf.vocabulary import write_vocabulary
from minicpmv.export.merging.merge import Merged, MergeSettings, merge_adapter
from minicpmv.files.atomic_files import staging
from minicpmv.files.places import check_directory
from minicpmv.inference.loading import base_of_adapter, compare_own_base
from minicpmv.models.networks.positions import SinePositions
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.terminal.streams import advise

__all__ = ["GGUFExport", "export_gguf"]

_TABLE_SIDE = 70


@dataclass(frozen=True, slots=True)
class GGUFExport:
    """The written files, and the results of reading them back."""

    model: Path
    vision: Path
    errors: dict[GGMLQuantizationType, float]
    """Largest error of a tensor, for each number format."""
    agreement: Agreement | None
    """Comparison of logits; None if the files were not run."""
    differences: tuple[str, ...]
    """Computations in which llama.cpp differs from the released code."""
    merged: Merged | None
    """The base that an adapter was first merged into."""


def export_gguf(
    model: str,
    output: Path,
    *,
    kind: str = "auto",
    vision_kind: str = "auto",
    llama_quantize: str | None = None,
    llama_cpp: str | None = None,
    run: bool = True,
    device: str | None = None,
    allow_other_base: bool = False,
    overwrite: bool = False,
) -> GGUFExport:
    """Write both files, read them back and compare.

    Args:
        model: A directory in the released layout, a hub name, or an adapter's directory, which is first merged into a
            temporary folder.
        output: Folder for the files, created if needed.
        kind: Number format of the language model; ``auto`` keeps the checkpoint's.
        vision_kind: Number format of tower and resampler; ``auto`` is float16, or float32 with a float32 language
            model.
        llama_quantize: llama.cpp's tool, for the formats that only it writes.
        llama_cpp: A checkout of llama.cpp, for the releases that its own converter converts.
        run: Whether to compare logits as well, for which the whole model is loaded.
        device: Device to run it on.
        allow_other_base: Whether an adapter may have been trained on other weights than its base's.
        overwrite: Whether GGUF files of the same names may be replaced; other files never are.

    Raises:
        CheckpointError: The model cannot be merged or exported, or the written files are not correct.
        UsageError: A tool is missing, a folder cannot be written, or existing files would be replaced.
    """
    check_directory(output, asked_by="--output")
    base = base_of_adapter(model)
    compare_own_base(model, allow_other=allow_other_base)
    start = open_checkpoint(base or model)
    check_engine_can_run(start.config, start.path)
    converter = find_converter(llama_cpp, start.config.minicpmv_version, start.path)
    written = OWN_TYPES if converter is None else CONVERTER_TYPES
    tool = None if kind in ("auto", *written) else find_llama_quantize(llama_quantize, kind, written)
    name = start.path.resolve().name if base is None else Path(model).resolve().name
    names = _names(start, name, kind, vision_kind)
    refuse_replacing([output / each for each in names], overwrite=overwrite)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with staging(output / f".{names[0]}.partial") as aside:
            whole, merged = start, None
            if base is not None:
                place = aside / name
                merged = merge_adapter(
                    model, place, MergeSettings(is_verified=run, device=device, allow_other_base=allow_other_base)
                )
                whole = open_checkpoint(str(place))
            processor = MiniCPMVProcessor.from_pretrained(whole.path)
            places = [aside / each for each in names]
            if converter is None:
                files = _write(whole, processor, places, kind, vision_kind, tool)
            else:
                files = _convert(whole, processor, places, kind, vision_kind, tool, converter)
            errors = check_tensors(whole, files)
            agreement = compare_logits(whole, processor, files, device) if run else None
            placed = [file.replace(output / file.name) for file, _ in files]
    except OSError as error:
        fix = "name a writable folder on a disk with twice the model's size free"
        raise UsageError(
            f"--output {str(output)!r}: found {error.strerror}, expected to write {error.filename or names[0]!r}\n"
            f"  fix: {advise(error, otherwise=fix)}"
        ) from error
    notices = tuple(differences(whole.config, processor.image_processor))
    return GGUFExport(placed[0], placed[1], errors, agreement, notices, merged)


def _names(checkpoint: Checkpoint, name: str, kind: str, vision_kind: str) -> tuple[str, str]:
    """Return the names of the files: the language model's, and that of tower and resampler."""
    _, kind, vision_kind = _settle(checkpoint, kind, vision_kind)
    return f"{name}-{kind}.gguf", f"mmproj-{name}-{vision_kind}.gguf"


def _settle(checkpoint: Checkpoint, kind: str, vision_kind: str) -> tuple[str, str, str]:
    """Return the number format of the checkpoint itself, and what ``auto`` means by it for both files."""
    own = type_of(_dtype(checkpoint))
    kind = own if kind == "auto" else kind
    return own, kind, vision_kind if vision_kind != "auto" else "f32" if kind == "f32" else "f16"


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    embeddings = checkpoint.config.minicpmv_version.network.parts.embeddings
    return checkpoint.weights.outlines[f"{embeddings}.weight"].dtype


def _write(
    checkpoint: Checkpoint,
    processor: MiniCPMVProcessor,
    places: Sequence[Path],
    kind: str,
    vision_kind: str,
    tool: Path | None,
) -> list[File]:
    """Write both files; return them with their tensors. llama.cpp's tool writes the formats that only it has."""
    config, shapes = checkpoint.config, checkpoint.shapes
    own, kind, vision_kind = _settle(checkpoint, kind, vision_kind)
    language = places[0], language_tensors(config, shapes)
    if tool is None:
        _write_language_model(language, checkpoint, processor, kind)
    else:
        floats = places[0].with_name(f"{own}-{places[0].name}"), language[1]
        _write_language_model(floats, checkpoint, processor, own)
        quantize_file(tool, floats[0], language[0], kind)
    vision = places[1], vision_tensors(config, shapes)
    _write_vision(vision, checkpoint, processor, vision_kind)
    return [language, vision]


def _convert(
    checkpoint: Checkpoint,
    processor: MiniCPMVProcessor,
    places: Sequence[Path],
    kind: str,
    vision_kind: str,
    tool: Path | None,
    converter: Converter,
) -> list[File]:
    """Have llama.cpp's converter write both files; return them with the tensors that they should hold."""
    config, shapes = checkpoint.config, checkpoint.shapes
    own, kind, vision_kind = _settle(checkpoint, kind, vision_kind)
    data = places[0].with_name("data") / checkpoint.path.resolve().name
    data.parent.mkdir()
    link_data(checkpoint, processor, data)
    half = _dtype(checkpoint) is torch.float16
    language = places[0], native_language_tensors(config, shapes, half=half)
    vision = places[1], native_vision_tensors(config, shapes)
    floats = places[0] if tool is None else places[0].with_name(f"{own}-{places[0].name}")
    converter.convert(data, floats, kind if tool is None else own, vision=False)
    converter.convert(data, vision[0], vision_kind, vision=True)
    for file, tensors in ((floats, language[1]), vision):
        check_converted(file, tensors)
    if tool is not None:
        quantize_file(tool, floats, language[0], kind)
    return [language, vision]


def _begin(file: Path, architecture: str, role: str, checkpoint: Checkpoint, kind: str) -> GGUFWriter:
    writer = GGUFWriter(file, architecture)
    writer.add_type(role)
    writer.add_name(checkpoint.path.resolve().name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    return writer


def _write_language_model(file: File, checkpoint: Checkpoint, processor: MiniCPMVProcessor, kind: str) -> None:
    (path, tensors), config = file, checkpoint.config
    writer = _begin(path, architecture(config), GGUFType.MODEL, checkpoint, kind)
    write_language_sizes(writer, config)
    write_vocabulary(writer, processor, size=config.vocab_size)
    template = chat_template(processor)
    if template is not None:
        writer.add_chat_template(template)
    write_tensors(writer, checkpoint, tensors, NUMBER_FORMATS[kind])


def _write_vision(file: File, checkpoint: Checkpoint, processor: MiniCPMVProcessor, kind: str) -> None:
    (path, tensors), config = file, checkpoint.config
    writer = _begin(path, ARCHITECTURE, GGUFType.MMPROJ, checkpoint, kind)
    write_vision_sizes(writer, config, processor.image_processor)
    computed = {POSITIONS: _make_positions(config.hidden_size)}
    write_tensors(writer, checkpoint, tensors, NUMBER_FORMATS[kind], computed)


def _make_positions(width: int) -> Any:
    """Make the resampler's table of all positions, which llama.cpp reads from the file."""
    sizes = [(_TABLE_SIDE, _TABLE_SIDE)]
    return SinePositions(width).of_grid(sizes, torch.device("cpu"), torch.float32).numpy()
