"""Carries tensors of a checkpoint that its model does not compute here into what is saved: the speech of MiniCPM-o.

They are never read into the model. Their names, shapes and precisions come from the headers of the files, and their
bytes go from file to file. Which keys are carried is in the release's row (``Network.carried``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.files.atomic_files import write_json
from minicpmv.models.checkpoints.stored_tensors import StoredTensor, list_stored, read_range
from minicpmv.models.checkpoints.weight_digests import digest_all
from minicpmv.models.checkpoints.weight_files import find_weight_files, read_shapes
from minicpmv.releases.model_files import read_index
from minicpmv.wording import name_few

__all__ = ["Carried", "CarriesTensors", "Facts", "find_carried", "is_carried", "own_names"]

Facts = dict[str, tuple[str, list[int], str]]
"""Name of a tensor -> its precision, its shape and the sha256 of its bytes."""

_INDEX = "model.safetensors.index.json"
_MOST_BYTES = 5 * 10**9
"""The size of a file is limited to so many; a larger tensor has a file of its own."""
_ALIGNMENT = 8


def is_carried(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a tensor of that name is carried, by the release's ``Network.carried``."""
    return name.startswith(tuple(prefixes))


def own_names(found: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Leave out what a checkpoint holds under names that the model's release carries."""
    prefixes = model.config.minicpmv_version.network.carried
    return {name: value for name, value in found.items() if not is_carried(name, prefixes)}


def find_carried(files: Sequence[str | Path], prefixes: Sequence[str]) -> Carried:
    """Find the carried tensors of a checkpoint in the headers of its weight files.

    Args:
        files: The files, whose headers are known to be sound.
        prefixes: The release's ``Network.carried``.

    Raises:
        CheckpointError: One is not in a safetensors file, or the index names one that is in no file.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in map(Path, files if prefixes else ()):
        if file.suffix == ".safetensors":
            tensors |= {each.name: each for each in list_stored(file) if is_carried(each.name, prefixes)}
        elif any(is_carried(name, prefixes) for name in read_shapes([file])):
            raise CheckpointError(
                f"{file}: found tensors of {', '.join(prefixes)} that are copied as they are, in a file of torch.save, "
                "expected them in .safetensors files\n  fix: start from the release, whose files are of that kind"
            )
    for index in {Path(file).parent / _INDEX for file in files if prefixes and Path(file).name != "model.safetensors"}:
        if index.is_file():
            named = [name for name in read_index(index) if is_carried(name, prefixes) and name not in tensors]
            if named:
                raise CheckpointError(
                    f"{index}: found {name_few(named, most=1)} in no weight file, "
                    "expected the tensors that it names\n  fix: download or copy the checkpoint again"
                )
    return Carried(tensors)


class Carried:
    """Tensors that are copied as bytes.

    Args:
        tensors: Where each lies.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self.tensors = dict(tensors)
        self._facts: Facts | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all values together."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    def missing(self, prefixes: Sequence[str]) -> list[str]:
        """Return the beginnings of names of which there is no tensor."""
        return [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in self.tensors)]

    def facts(self) -> Facts:
        """Return precision, shape and sha256 of each tensor; the bytes are read once, in threads.

        Raises:
            CheckpointError: A file is gone, cut short or cannot be read.
        """
        if self._facts is None:
            digests = digest_all(list(self.tensors.values()))
            self._facts = {
                tensor.name: (tensor.dtype, list(tensor.shape), digest)
                for tensor, digest in zip(self.tensors.values(), digests, strict=True)
            }
        return self._facts

    def compare(self, expected: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[str]]:
        """Compare with the facts of other tensors; those may come from a JSON file.

        Returns:
            Names of which precision, shape or bytes differ, and names that only one of the two has.

        Raises:
            CheckpointError: As ``facts``.
        """
        found = self.facts()
        both = found.keys() & expected.keys()
        different = [name for name in both if list(found[name]) != list(expected[name])]
        return sorted(different), sorted(found.keys() ^ expected.keys())

    def refuse_same_folder(self, folder: Path) -> None:
        """Refuse to save where the tensors lie: saving removes earlier files before these could be copied.

        Raises:
            UsageError: They lie there.
        """
        if any(tensor.file.parent.resolve() == folder.resolve() for tensor in self.tensors.values()):
            raise UsageError(
                f"{folder}: found the model that this one was loaded from, with tensors that are copied from it, "
                "expected another directory to save to\n  fix: save to another directory"
            )

    def add_to(self, folder: Path) -> None:
        """Add the tensors to a saved model: in files of their own, and all files under one index.

        Raises:
            CheckpointError: A file is gone, cut short, or not what it was.
        """
        if not self.tensors:
            return
        facts = self.facts()
        shards = list(_split(self.tensors.values()))
        earlier = find_weight_files(folder)
        total = len(earlier) + len(shards)
        names = [f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
        files: dict[str, str] = {}
        sizes = 0
        # Aside first: the name that a file gets may be that of one which has not been renamed yet.
        asides = [file.rename(file.with_name(f".{number}.aside")) for number, file in enumerate(earlier)]
        for aside, name in zip(asides, names, strict=False):
            aside.rename(folder / name)
            stored = list_stored(folder / name)
            files |= dict.fromkeys((tensor.name for tensor in stored), name)
            sizes += sum(tensor.num_bytes for tensor in stored)
        for shard, name in zip(shards, names[len(earlier) :], strict=True):
            _write_shard(folder / name, shard, facts)
            files |= dict.fromkeys((tensor.name for tensor in shard), name)
        index = {"metadata": {"total_size": sizes + self.num_bytes}, "weight_map": dict(sorted(files.items()))}
        write_json(folder / _INDEX, index)


def _split(tensors: Any) -> Iterator[list[StoredTensor]]:
    shard: list[StoredTensor] = []
    for tensor in tensors:
        if shard and sum(each.num_bytes for each in shard) + tensor.num_bytes > _MOST_BYTES:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard


def _write_shard(path: Path, tensors: Sequence[StoredTensor], facts: Facts) -> None:
    # Wide types first, so that each value is aligned to its own size.
    ordered = sorted(tensors, key=lambda tensor: -_width(tensor))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            if read_range(tensor, file.write) != facts[tensor.name][2]:
                raise CheckpointError(
                    f"{tensor.file}: found other values in {tensor.name} than when the run began, expected the base to "
                    "stay as it is\n  fix: put the base back, then the same command with --resume_from_checkpoint true"
                )
        file.flush()
        os.fsync(file.fileno())


def _width(tensor: StoredTensor) -> int:
    count = math.prod(tensor.shape)
    return tensor.num_bytes // count if count else 0


class CarriesTensors:
    """A model that is saved with the tensors that its checkpoint held beside its own.

    ``StrictLoading`` notes them. A model that was not loaded from a checkpoint has none.
    """

    carried: Carried | None = None

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, and add what is carried: on the process that writes, byte for byte.

        Args:
            save_directory: Made if it is not there; not the one that the model was loaded from.
            args: transformers' own.
            kwargs: transformers' own.

        Raises:
            UsageError: ``push_to_hub`` or ``variant`` is given, or the directory is the model's own.
            CheckpointError: The checkpoint that the model was loaded from is gone or not what it was.
        """
        parent: Any = super()
        carried = self.carried
        is_adapter = bool(getattr(self, "_hf_peft_config_loaded", False))
        if carried is None or not carried.tensors or is_adapter:
            parent.save_pretrained(save_directory, *args, **kwargs)
            return
        for option, instead in (("push_to_hub", "call model.push_to_hub(name)"), ("variant", "leave it out")):
            if kwargs.get(option):
                raise UsageError(
                    f"save_pretrained: found {option}={kwargs[option]!r} for a model whose files are completed after "
                    f"transformers wrote them, expected none\n  fix: {instead}"
                )
        folder = Path(save_directory)
        carried.refuse_same_folder(folder)
        carried.facts()  # a base that is gone is noticed before anything is written
        parent.save_pretrained(save_directory, *args, **kwargs)
        is_writing = args[0] if args else kwargs.get("is_main_process", True)
        if is_writing:
            carried.add_to(folder)
