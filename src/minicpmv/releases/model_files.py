"""Checks the files of a model's or adapter's directory before anything is built of what they say.

Every JSON file is read within bounds and its values are held against ``file_bounds``; then how they fit each other. So
a file from anywhere leads to a model or to a message that names file and key, and to nothing else: no traceback, no
endless loop, no memory that the weights do not need. Whether weights fit is for ``loading`` and ``adapters`` to say.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError, MiniCPMVError
from minicpmv.files.plain_files import read_plain
from minicpmv.releases.file_bounds import (
    ADAPTER,
    ADDED_TOKENS,
    CONFIG,
    GENERATION,
    PREPROCESSOR,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
)
from minicpmv.releases.json_bounds import Rule, check_fields, quote
from minicpmv.releases.native_files import (
    NATIVE_CONFIG,
    check_downsample_mode,
    check_one_mode,
    is_nested,
    native_relations,
)
from minicpmv.releases.table import VERSIONS, detect_version, is_model_type
from minicpmv.releases.unknown import describe_unknown

__all__ = [
    "check_adapter_config",
    "check_config",
    "check_model_files",
    "check_names",
    "check_preprocessor",
    "naming_faults",
    "read_index",
    "read_object",
]

_FIX = "use the file that belongs to the weights; download or copy the model again"
_FIX_ADAPTER = "restore the file, or train again"
_MOST_BYTES = {"tokenizer.json": 2**28, ".index.json": 2**27, "": 2**25}
"""Of a JSON file, by how its name ends; the first that fits."""
_READ = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".pt")
"""Endings of what some reader may open."""
_FOREIGN_PACKING = {"awq": "AWQ", "gptq": "GPTQ", "compressed-tensors": "llm-compressor"}
"""``quant_method`` of released and often made checkpoints that cannot be read -> what makes them."""
_HEAD_WIDTH = 128
"""Of the resampler: its heads are hidden_size // 128."""
_NESTED = 64
"""Deepest nesting of a JSON file."""


def check_model_files(folder: Path) -> None:
    """Make sure that a directory's files can be read and that every value in them is sound.

    Args:
        folder: Of a model; files that it lacks are for others to miss.

    Raises:
        CheckpointError: One is not. The message names file and key.
    """
    for file in sorted(folder.iterdir()):
        if file.name.endswith(_READ):
            _refuse_special(file)
    contents: dict[str, dict[str, Any]] = {}
    for name, check in _CHECKS.items():
        file = folder / name
        if file.exists():
            contents[name] = read_object(file, expected="a model's", fix=_FIX)
            check(contents[name], file)
    config, preprocessor = contents.get("config.json", {}), contents.get("preprocessor_config.json", {})
    check_one_mode(config, preprocessor, where=folder)
    for file in sorted(folder.glob("*.index.json")):
        read_index(file)
    if (folder / "config.json").exists() and (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: found adapter_config.json beside config.json, expected a whole model or an adapter; "
            "transformers would load another model in its place, whichever the first file names\n"
            "  fix: move the adapter's files into a directory of their own"
        )


def read_object(file: Path, *, expected: str, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        file: The file.
        expected: Whose, for the message.
        fix: What mends it.

    Raises:
        CheckpointError: It is missing, no plain file, too large, no JSON or no object.
    """
    most = next(size for ending, size in _MOST_BYTES.items() if file.name.endswith(ending))
    try:
        content = json.loads(read_plain(file, most_bytes=most).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"{file}: found no readable JSON ({reason}), expected {expected}\n  fix: {fix}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: found no JSON object but {quote(content)}, expected {expected}\n  fix: {fix}")
    if _is_deeper(content, _NESTED):
        raise CheckpointError(
            f"{file}: found values nested more than {_NESTED} deep, expected {expected}\n  fix: {fix}"
        )
    return content


def _is_deeper(content: Any, most: int) -> bool:
    level = [content]
    for _ in range(most):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def check_config(fields: Mapping[str, Any], where: object = "config.json") -> None:
    """Make sure that the values of a ``config.json`` are sound, each by itself and together.

    Raises:
        CheckpointError: One is not.
    """
    rows = [row for row in VERSIONS.values() if row.network.model_type == fields.get("model_type")]
    _refuse_foreign_packing(fields, where)
    nested = any(map(is_nested, rows))
    check_fields(dict(fields), NATIVE_CONFIG if nested else CONFIG, where=where, fix=_FIX)
    version = detect_version(fields)
    sizes = () if nested else ("hidden_size", "num_hidden_layers", "num_attention_heads")
    for key in (*sizes, *version.network.needed_fields):
        if fields.get(key) is None:
            raise CheckpointError(f"{where}: found no {key}, expected it for {version.model}\n  fix: {_FIX}")
    check_downsample_mode(fields.get("downsample_mode"), version, where=where)
    for holds, key, found, expected in native_relations(fields) if nested else _relations(fields):
        if not holds:
            raise CheckpointError(f"{where}: {key}: found {quote(found)}, expected {expected}\n  fix: {_FIX}")


def _refuse_foreign_packing(fields: Mapping[str, Any], where: object) -> None:
    """Name what packed a released checkpoint whose weights only other engines read."""
    packing = fields.get("quantization_config")
    method = packing.get("quant_method") if isinstance(packing, Mapping) else None
    if not isinstance(method, str) or method not in _FOREIGN_PACKING:
        return
    release = detect_version(fields).model
    raise CheckpointError(
        f"{where}: quantization_config.quant_method: found {quote(method)}, expected unquantized weights, or those of "
        f"bitsandbytes: {_FOREIGN_PACKING[method]} packs weights for engines that only answer, such as vLLM, and "
        f"neither training nor chat reads them here\n  fix: take the unquantized {release}; --q_lora true keeps its "
        "language model in 4 bits while it is trained"
    )


def _relations(fields: Mapping[str, Any]) -> Iterator[tuple[bool, str, object, str]]:
    """Yield what must fit: whether it does, its key, what was found and expected. Each value alone is sound."""
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    groups = fields.get("num_key_value_heads") or heads
    yield width % _HEAD_WIDTH == 0, "hidden_size", width, f"a multiple of the resampler's {_HEAD_WIDTH}"
    if fields.get("head_dim") is None:
        yield width % heads == 0, "num_attention_heads", heads, f"a divisor of hidden_size {width}"
    per_head = fields.get("head_dim") or width // heads
    yield per_head % 2 == 0, "head_dim", per_head, "an even number"
    yield heads % groups == 0, "num_key_value_heads", groups, f"a divisor of num_attention_heads {heads}"
    vocabulary = fields.get("vocab_size", 2**31)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        stated = fields.get(key)
        for token in stated if isinstance(stated, list) else [] if stated is None else [stated]:
            yield token < vocabulary, key, token, f"an id below vocab_size {vocabulary}"
    types = fields.get("layer_types")
    layers = fields["num_hidden_layers"]
    if types is not None:
        yield len(types) == layers, "layer_types", types, f"one for each of {layers} num_hidden_layers"
    vision: Mapping[str, Any] = fields.get("vision_config") or {}
    missing = [key for key in ("hidden_size", "num_hidden_layers", "num_attention_heads") if key not in vision]
    if vision and "version" in fields:
        yield not missing, "vision_config", vision, f"one with {', '.join(missing)}"
    vision = {"hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27} | dict(vision)
    width, heads = vision["hidden_size"], vision["num_attention_heads"]
    yield width % heads == 0, "vision_config.num_attention_heads", heads, f"a divisor of its hidden_size {width}"
    dropped = int(fields.get("drop_vision_last_layer", True))
    layers = vision["num_hidden_layers"]
    yield layers > dropped, "vision_config.num_hidden_layers", layers, "at least one after drop_vision_last_layer"
    image, patch = vision.get("image_size", 980), vision.get("patch_size", 14)
    yield patch <= image, "vision_config.patch_size", patch, f"at most its image_size {image}"


def check_preprocessor(fields: Mapping[str, Any], where: object = "preprocessor_config.json") -> None:
    """Make sure that the values of a ``preprocessor_config.json`` are sound.

    Raises:
        CheckpointError: One is not.
    """
    check_fields(dict(fields), PREPROCESSOR, where=where, fix=_FIX)


def check_adapter_config(fields: Mapping[str, Any], where: object) -> None:
    """Make sure that the values of an ``adapter_config.json`` are sound; patterns are for ``patterns``.

    Raises:
        CheckpointError: One is not.
    """
    check_fields(dict(fields), ADAPTER, where=where, fix=_FIX_ADAPTER)


def check_names(fields: Mapping[str, Any], owner: type, known: Mapping[str, Rule], where: object) -> None:
    """Make sure that no key would replace a method or property of the object that its values become attributes of.

    Args:
        fields: What a file holds.
        owner: The object's class.
        known: Keys that it is made for.
        where: The file, for the message.

    Raises:
        CheckpointError: One would.
    """
    for key in fields:
        there = getattr(owner, key, None)
        if key not in known and (callable(there) or isinstance(there, property) or key.startswith("__")):
            raise CheckpointError(
                f"{where}: found the key {quote(key)}, which is a part of the program, expected a setting\n"
                f"  fix: {_FIX}"
            )


@contextmanager
def naming_faults(where: object, *, expected: str, fix: str = _FIX) -> Iterator[None]:
    """Word what other packages raise about a file that is not what they can read.

    The tables name what is known to be wrong by file and key. This is for what only they notice: a vocabulary without
    its unknown token, two settings that contradict each other.

    Args:
        where: File or directory.
        expected: Ends the message's first line.
        fix: What mends it.

    Raises:
        CheckpointError: Something of the kind was raised.
    """
    try:
        yield
    except MiniCPMVError:
        raise
    except (*_OF_READERS, RuntimeError) as error:
        said = quote(str(error).strip().split("\n")[0])[1:-1]
        raise CheckpointError(
            f"{where}: found what cannot be used ({type(error).__name__}: {said}), expected {expected}\n  fix: {fix}"
        ) from error


_OF_READERS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What readers raise that were given other types, lengths or names than they are written for."""


def _refuse_special(file: Path) -> None:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise CheckpointError(
            f"{file}: found a link to what cannot be read ({error.strerror}), expected a file\n  fix: {_FIX}"
        ) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO, socket or device"
        raise CheckpointError(f"{file}: found {kind}, expected a file\n  fix: {_FIX}")


def read_index(file: Path) -> dict[str, str]:
    """Read which file of the same directory holds each tensor.

    Raises:
        CheckpointError: It is no such index, or names what is not in the directory.
    """
    fields = read_object(file, expected="the index of the weight files", fix=_FIX)
    files = fields.get("weight_map")
    if not isinstance(files, dict) or not isinstance(fields.get("metadata"), dict):
        raise CheckpointError(
            f"{file}: found no metadata and weight_map, expected the index of the weight files\n  fix: {_FIX}"
        )
    for tensor, name in files.items():
        if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\\" in name or "\0" in name:
            raise CheckpointError(
                f"{file}: weight_map[{quote(tensor)}]: found {quote(name)}, expected the name of a file in the same "
                f"directory\n  fix: {_FIX}"
            )
    return files


def _check_config(fields: dict[str, Any], file: Path) -> None:
    if is_model_type(fields.get("model_type")):
        check_config(fields, file)


def _check_processor(fields: dict[str, Any], file: Path) -> None:
    inner = fields.get("image_processor", {})
    if not isinstance(inner, dict):
        raise CheckpointError(f"{file}: image_processor: found {quote(inner)}, expected an object\n  fix: {_FIX}")
    check_preprocessor(inner, f"{file}: image_processor")


def _by(table: Mapping[str, Rule]) -> Callable[[dict[str, Any], Path], None]:
    return lambda fields, file: check_fields(fields, table, where=file, fix=_FIX)


_CHECKS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "config.json": _check_config,
    "preprocessor_config.json": check_preprocessor,
    "processor_config.json": _check_processor,
    "generation_config.json": _by(GENERATION),
    "tokenizer_config.json": _by(TOKENIZER_CONFIG),
    "special_tokens_map.json": _by(SPECIAL_TOKENS),
    "added_tokens.json": lambda fields, file: check_fields(
        {"added_tokens": fields}, ADDED_TOKENS, where=file, fix=_FIX
    ),
}


def read_config(base: Path) -> dict[str, Any]:
    """Read a checkpoint's ``config.json``.

    Raises:
        CheckpointError: It is missing or broken.
    """
    config = read_object(
        base / "config.json",
        expected="a MiniCPM-V checkpoint",
        fix="name the directory that holds config.json and the weights",
    )
    if not is_model_type(config.get("model_type")):
        raise CheckpointError(
            f"{base / 'config.json'}: found no MiniCPM-V model that is known, expected one\n"
            f"  fix: name a MiniCPM-V checkpoint; {describe_unknown(config, VERSIONS.values())}"
        )
    return config
