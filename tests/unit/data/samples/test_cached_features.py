from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from minicpmv.data.samples.cached_features import FeatureKind, KnownFeatures
from minicpmv.data.samples.collation import Collator, PackedCollator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.samples.feature_store import FeatureStore
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.tiny import FIXTURES, conversation, save_picture, write_data

_CONFIG = SliceConfig(scale_resolution=56)
_UNCUT = SliceConfig(scale_resolution=56, max_slice_nums=1)
_SMALL, _LARGE = plan_slices(56, 56, _CONFIG), plan_slices(150, 80, _CONFIG)


def known_in(folder: Path, *, kind: FeatureKind = "tower_features", attends_padding: bool = False) -> KnownFeatures:
    return KnownFeatures(
        store=FeatureStore(folder, 10**9), kind=kind, made_by="weights", attends_padding=attends_padding
    )


def test_image_has_one_key_beside_any_other(tmp_path: Path) -> None:
    known = known_in(tmp_path)
    (alone,) = known.name(["small"], [_SMALL])
    assert known.name(["large", "small"], [_LARGE, _SMALL])[1] == alone
    assert known.name(["other"], [_SMALL]) != [alone]
    assert known.name(["large"], [_LARGE]) != known.name(["large"], [plan_slices(150, 80, _UNCUT)])


def test_key_covers_the_longest_slice_where_padding_is_attended(tmp_path: Path) -> None:
    known = known_in(tmp_path, attends_padding=True)
    longer = plan_slices(70, 70, SliceConfig(scale_resolution=70))
    assert max(rows * columns for rows, columns in longer.tgt_sizes) > 16, "than the other's only slice"
    (alone,) = known.name(["small"], [_SMALL])
    assert known.name(["small", "small"], [_SMALL, _SMALL]) == [alone, alone]
    assert known.name(["small", "long"], [_SMALL, longer])[0] != alone


def dataset_in(folder: Path) -> ConversationDataset:
    """Two pictures of 5 + 1 slices, the same small picture alone, and text."""
    save_picture(folder / "large.png", 112, 112)
    save_picture(folder / "small.png", 56, 56, seed=1)
    records = [
        {
            "id": "both",
            "image": {"<image_00>": "large.png", "<image_01>": "small.png"},
            "conversations": conversation("<image_00>\n<image_01>\nWhich one?", "The first."),
        },
        {"id": "small", "image": "small.png", "conversations": conversation("<image>\nWhat?", "Noise.")},
        {"id": "text", "conversations": conversation("How are you?", "Fine.")},
    ]
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    return ConversationDataset(load_records(write_data(folder / "train.json", records)), processor, max_length=512)


def store_all(known: KnownFeatures, item: dict[str, Tensor], width: int = 3) -> None:
    """Store recognisable features of the pictures of an item: its slices by number."""
    sizes = item["tgt_sizes"].prod(dim=1).split(item["slices_per_picture"].tolist())
    for key, patches in zip(item["picture_keys"].tolist(), sizes, strict=True):
        rows = int(patches.sum())
        known.store.write(bytes(key).hex(), torch.full((rows, width), float(rows)))


def test_record_is_known_once_all_its_images_are(tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path)
    plain = [dataset[index] for index in range(3)]
    dataset.known = known_in(tmp_path / "cache")
    small = dataset[1]
    assert small["known_slices"].tolist() == [False]
    store_all(dataset.known, small)
    assert dataset[1]["known_slices"].tolist() == [True]
    both = dataset[0]
    assert both["known_slices"].tolist() == [False] * 6
    torch.testing.assert_close(both["pixel_values"], plain[0]["pixel_values"], rtol=0, atol=0)
    store_all(dataset.known, both)
    found = dataset[0]
    assert found["known_slices"].tolist() == [True] * 6
    assert found["tower_features"].shape == (int(plain[0]["tgt_sizes"].prod(dim=1).sum()), 3)
    for name in ("input_ids", "labels", "image_mask", "tgt_sizes"):
        assert torch.equal(found[name], plain[0][name])
    assert dataset[2].keys() == plain[2].keys(), "text has nothing to look up"


def test_known_images_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_in(tmp_path)
    dataset.known = known_in(tmp_path / "cache")
    store_all(dataset.known, dataset[1])
    monkeypatch.setattr("minicpmv.data.samples.shown_media.load_image", lambda source: pytest.fail("decoded"))
    assert "pixel_values" not in dataset[1]


@pytest.mark.parametrize("content", [b"", b"\x89PNG and no more"])
def test_image_that_is_spoilt_later_is_named(content: bytes, tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path)
    dataset.known = known_in(tmp_path / "cache")
    (tmp_path / "small.png").write_bytes(content)
    with pytest.raises(DataError, match=r"D202.*small\.png"):
        dataset[1]
    (tmp_path / "small.png").unlink()
    with pytest.raises(DataError, match=r"D202.*small\.png"):
        dataset[1]


@pytest.mark.parametrize("collate", [Collator(0), PackedCollator(0)])
def test_batches_hold_pixels_of_the_unknown_alone(collate: Collator, tmp_path: Path) -> None:
    dataset = dataset_in(tmp_path)
    dataset.known = known_in(tmp_path / "cache")
    store_all(dataset.known, dataset[1])
    items = [dataset[index] for index in (2, 1, 0)]
    batch = collate(items)
    assert batch["layout"].known == (True, *[False] * 6)
    assert len(batch["layout"].tower_features) == 16
    assert len(batch["pixel_values"]) == sum(rows * columns for rows, columns in batch["layout"].sizes[1:])
    assert batch["slices_per_picture"] == [5, 1]
    assert torch.equal(batch["pixel_table"], items[2]["pixel_table"])
    assert not {"pixel_values", "pixel_table"} & collate(items[:2]).keys()
