"""Makes what a walk computes on: records with pictures of many shapes, encoded and collated as in a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.compared import Comparison
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS
from minicpmv.training.inputs.record_ids import NumberedCollator, NumberedDataset
from tests.gpu_walk.report import Records, Release, Rows
from tests.released_sizes import NATIVE, PRESUMED, RELEASED
from tests.tiny import FIXTURES, conversation, picture, save_picture, write_data

__all__ = ["RunInputs"]

_FIXTURE: Mapping[Release, str] = {"2.0": "v2", "2.5": "v2_5", "2.6": "v2_6", "4.0": "v4", "4.5": "v4_5",
                                   "4.6": "v4_6", "4.7": "v4_7", "4.7-A3B": "v4_7",
                                   "o-4.5": "v4_5"}  # fmt: skip
"""Whose tokenizer a walk takes: those of the releases are larger, and no shape depends on that."""
_SIZES: Mapping[str, Any] = {**RELEASED, **PRESUMED, "4.7": NATIVE["4.6"], **NATIVE, "o-4.5": RELEASED["4.5"]}
_NOT_RELEASED = ("head_dim", "slice_config", "vision_config")
"""Keys of the fixtures' configs that not all releases have."""
_LAYERS = 2
_KINDS = ["linear_attention", "full_attention"]
"""Of the language model's layers of 4.6 and later; their towers merge windows between their two layers."""
_SLICING = {"max_slice_nums": 9, "scale_resolution": 448, "patch_size": 14}
_RECORDS: Mapping[Records, str] = {"pictures": "abcd", "weights": "abcde", "text": "bb", "pairs": "fg"}
"""Which records a batch is made of, by their ids."""
_HALF_AN_ANSWER = {"role": "assistant", "content": "Quite.", "weight": 0.5}
_FRAMES = 66
"""Of a film of 4.5: rows of the times of so many exceed 1 MB."""
_PICTURES = ((1200, 900), (448, 300), (500, 1500), (900, 620))
"""Width and height in pixels: in ten slices, enlarged, upright, and in fewer slices."""


class RunInputs:
    """Batches of one release, at its released widths with two layers. Made where tensors have data.

    Args:
        release: Which.
        folder: Where its small files, the data and the pictures are written.
    """

    def __init__(self, release: Release, folder: Path) -> None:
        self.release: Release = release
        self.checkpoint = _write_checkpoint(release, folder / "checkpoint")
        self.processor: Any = find_code(VERSIONS[release].reading.processor).from_pretrained(self.checkpoint)
        self._items = _encode_records(self.processor, folder)
        self._questions = _encode_questions(self.processor)

    def batch(self, rows: Rows, records: Records) -> dict[str, Any]:
        """Collate records as a run does."""
        batch = _collate(rows, [self._items[name] for name in _RECORDS[records]], compares=records == "pairs")
        if records == "pairs":  # as they come from where they are stored
            batch["reference_log_probs"] = torch.zeros(sum(batch["layout"].labels_of_each))
        return batch

    def first_batch(self, rows: Rows) -> dict[str, Any]:
        """Collate a batch of other lengths, for the step before."""
        return _collate(rows, [self._items["d"], self._items["b"]])

    def questions(self) -> BatchFeature:
        """Return two conversations to answer, padded on the left; the first has a film, 4.5's a long one."""
        return BatchFeature(dict(self._questions))


def _encode_records(processor: MiniCPMVProcessor, folder: Path) -> dict[str, dict[str, Tensor]]:
    for number, size in enumerate(_PICTURES):
        save_picture(folder / f"{number}.jpg", *size, seed=number)
    records = [
        {"id": "a", "image": "0.jpg", "conversations": conversation("<image>\nWhat is it?", "Noise. " * 40)},
        {"id": "b", "conversations": conversation("And without a picture?", "Text. " * 150, "More?", "No.")},
        {
            "id": "c",
            "image": {"<image_00>": "1.jpg", "<image_01>": "2.jpg"},
            "conversations": conversation("<image_00> <image_01> Which one is larger?", "The second one. " * 25),
        },
        {"id": "d", "image": "3.jpg", "conversations": conversation("<image>\nAnd this one?", "Noise, too.")},
        {"id": "e", "conversations": [*conversation("Sure?", "Yes.", "Really?"), _HALF_AN_ANSWER]},
    ]
    pairs = [
        {**records[0], "id": "f", "rejected": "Music. " * 30},
        {"id": "g", "conversations": conversation("And without a picture?", "Text."), "rejected": "Pictures. " * 20},
    ]
    items: dict[str, dict[str, Tensor]] = {}
    for name, each, comparison in (("train", records, Comparison()), ("pairs", pairs, Comparison(kind="pair"))):
        data = load_records(write_data(folder / f"{name}.json", each))
        dataset = NumberedDataset(ConversationDataset(data, processor, max_length=4096, comparison=comparison))
        items |= {record["id"]: dataset[number] for number, record in enumerate(each)}
    return items


def _encode_questions(processor: MiniCPMVProcessor) -> BatchFeature:
    knows_times = processor.version.reading.temporal
    shown = picture(640, 360)
    film = [{"type": "image", "image": shown}] * (_FRAMES if knows_times else 4)
    groups = [list(range(start, start + 3)) for start in range(0, _FRAMES, 3)]
    asked = [
        [{"role": "user", "content": [*film, {"type": "text", "text": "What happens?"}]}],
        [{"role": "user", "content": [{"type": "image", "image": picture(900, 620)}, {"type": "text", "text": "?"}]}],
    ]
    times: dict[str, Any] = {"temporal_ids": [groups, [[-1]]]} if knows_times else {}
    return processor.apply_chat_template(asked, max_slice_nums=1, **times)


def _collate(rows: Rows, items: Sequence[dict[str, Tensor]], *, compares: bool = False) -> dict[str, Any]:
    packed = PackedCollator(pad_token_id=0, compares=compares)
    return NumberedCollator(packed if rows == "packed" else Collator(pad_token_id=0))(items)


def _write_checkpoint(release: Release, folder: Path) -> Path:
    source = FIXTURES / _FIXTURE[release]
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
                 "merges.txt", "added_tokens.json", "generation_config.json"):  # fmt: skip
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "text_config" in config:
        _write_native(release, source, config, folder)
        return folder
    config = {key: value for key, value in config.items() if key not in _NOT_RELEASED} | _SIZES[release]
    config |= _SLICING | {"num_hidden_layers": _LAYERS}
    if release.startswith("o-"):
        config["model_type"] = VERSIONS[release].network.model_type
    if "vision_config" in config:
        config["vision_config"] = config["vision_config"] | {"num_hidden_layers": _LAYERS}
    else:  # 2.0 states its tower by name; the last block of those it is made with is dropped
        config["vision_config"] = {"num_hidden_layers": _LAYERS + 1}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _write_native(release: Release, source: Path, config: dict[str, Any], folder: Path) -> None:
    """Write the config of a release that has one for each part, and its way to cut pictures."""
    parts = {}
    for name in ("text_config", "vision_config"):
        own = config[name]
        parts[name] = own | _SIZES[release][name] | {"num_hidden_layers": _LAYERS}
    parts["vision_config"]["model_type"] = config["vision_config"]["model_type"]  # 4.7 has the sizes of 4.6
    parts["text_config"] |= {"layer_types": _KINDS, "tie_word_embeddings": config["tie_word_embeddings"]}
    parts["vision_config"] |= {"insert_layer_id": 0}
    (folder / "config.json").write_text(json.dumps(config | parts | {"insert_layer_id": 0}), encoding="utf-8")
    pictures = json.loads((source / "preprocessor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | _SLICING), encoding="utf-8")
    shutil.copyfile(source / "chat_template.jinja", folder / "chat_template.jinja")
