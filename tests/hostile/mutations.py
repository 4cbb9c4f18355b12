"""Strategies that spoil a model's directory: values, bytes, and what lies under a file's name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

__all__ = ["Mutation", "mutations", "spoil"]

Mutation = tuple[str, str, tuple[Any, ...]]
"""Its name, the file, and what it needs."""

_DEEP: Any = 1
for _ in range(80):
    _DEEP = [_DEEP]

_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1.5, -0.5, 1e-9, 1e308, float("nan"), float("inf"), float("-inf"),
    2**31, 2**63, 10**9, 10**12, 10**40, -(10**9), "", "x", "1", "-1", "nan", "auto", "owner/name", "../..", "/", "\0",
    "\x1b[31m", "é", "\ud800", "a" * 5000, "(((a+)+)+)+!", "(", "[", "__class__", "float99", [], {}, [None], [1], ["x"],
    [[]], [{}], {"": 1}, {"x": {}}, [1, 2, 3], [0, 0, 0], [1.0] * 10_000, _DEEP, {"rope_type": "yarn"},
    {"quant_method": "gptq"}, {"content": 1},
)  # fmt: skip
_KEYS = (
    "attn_implementation", "_attn_implementation", "text_config", "vision_config", "quantization_config", "auto_map",
    "custom_generate", "to_dict", "__class__", "num_labels", "id2label", "per_layer_config", "layer_types", "dtype",
    "rope_parameters", "head_dim", "use_kernels", "name_or_path", "processor_class", "tokenizer_class", "size", "plan",
    "rank_pattern", "layers_pattern", "layers_to_transform", "layer_replication", "megatron_config", "exclude_modules",
    "trainable_token_indices", "extra_special_tokens", "chat_template", "model_max_length", "backend", "vocab_file",
)  # fmt: skip
_values = st.one_of(st.sampled_from(_ODD), st.integers(), st.floats(), st.text(max_size=8))
_place = st.integers(0, 10**6)


def mutations(files: tuple[str, ...]) -> st.SearchStrategy[list[Mutation]]:
    """Return a strategy for one to three mutations of a directory that has these files."""
    jsons = st.sampled_from([name for name in files if name.endswith(".json")])
    any_file = st.sampled_from(files)
    return st.lists(
        st.one_of(
            st.tuples(st.just("value"), jsons, st.tuples(_place, _values)),
            st.tuples(st.just("value"), jsons, st.tuples(_place, _values)),
            st.tuples(st.just("value"), jsons, st.tuples(_place, _values)),
            st.tuples(st.just("add"), jsons, st.tuples(st.sampled_from(_KEYS), _values)),
            st.tuples(st.just("drop"), jsons, st.tuples(_place)),
            st.tuples(st.just("whole"), jsons, st.tuples(_values)),
            st.tuples(st.just("cut"), any_file, st.tuples(_place)),
            st.tuples(st.just("flip"), any_file, st.tuples(_place, st.integers(1, 255))),
            st.tuples(st.just("flip"), any_file, st.tuples(st.integers(0, 2000), st.integers(1, 255))),
            st.tuples(st.just("bytes"), any_file, st.tuples(_place, st.binary(min_size=1, max_size=12))),
            st.tuples(
                st.sampled_from(["gone", "folder", "fifo", "lost link", "own link", "device"]), any_file, st.just(())
            ),
        ),
        min_size=1,
        max_size=3,
    )


def spoil(folder: Path, mutation: Mutation) -> None:
    """Apply a mutation; one whose file an earlier mutation took away does nothing."""
    kind, name, needs = mutation
    file = folder / name
    if file.is_file() and not file.is_symlink():
        _KINDS[kind](file, *needs)


def _containers(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, item in inner for pair in [(value, key), *_containers(item)]]


def _edit(file: Path, change: Callable[[Any], Any]) -> None:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    file.write_text(json.dumps(change(content)), encoding="utf-8")


def _value(file: Path, place: int, value: Any) -> None:
    def change(content: Any) -> Any:
        if places := _containers(content):
            container, key = places[place % len(places)]
            container[key] = value
        return content

    _edit(file, change)


def _add(file: Path, key: str, value: Any) -> None:
    _edit(file, lambda content: content | {key: value} if isinstance(content, dict) else content)


def _drop(file: Path, place: int) -> None:
    def change(content: Any) -> Any:
        if places := _containers(content):
            container, key = places[place % len(places)]
            del container[key]
        return content

    _edit(file, change)


def _whole(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def _cut(file: Path, place: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: place % (len(content) + 1)])


def _flip(file: Path, place: int, by: int) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[place % len(content)] ^= by
        file.write_bytes(content)


def _bytes(file: Path, place: int, new: bytes) -> None:
    content = file.read_bytes()
    at = place % (len(content) + 1)
    file.write_bytes(content[:at] + new + content[at:])


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _link(file: Path, to: str) -> None:
    file.unlink()
    file.symlink_to(to)


_KINDS: dict[str, Callable[..., None]] = {
    "value": _value,
    "add": _add,
    "drop": _drop,
    "whole": _whole,
    "cut": _cut,
    "flip": _flip,
    "bytes": _bytes,
    "gone": lambda file: file.unlink(),
    "folder": _folder,
    "fifo": _fifo,
    "lost link": lambda file: _link(file, "/nowhere/at/all"),
    "own link": lambda file: _link(file, file.name),
    "device": lambda file: _link(file, "/dev/zero"),
}


def copy_model(source: Path, target: Path) -> tuple[str, ...]:
    """Copy the files of a model or adapter, without what only tests read; return their names."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    kept = [
        file
        for file in source.iterdir()
        if file.is_file() and not file.name.startswith(("cases", "inference", "grads", "resampler_temporal"))
    ]
    for file in kept:
        shutil.copyfile(file, target / file.name)
    return tuple(sorted(file.name for file in kept))
