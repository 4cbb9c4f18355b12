from __future__ import annotations

import pytest
import torch

from minicpmv.data.samples.collation import Collator, PackedCollator


def sample(*ids: int, images: tuple[tuple[int, int], ...] = ()) -> dict[str, torch.Tensor]:
    num_patches = sum(rows * columns for rows, columns in images)
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor([-100, *ids[1:]]),
        "image_mask": torch.tensor([bool(images) and i == 1 for i in range(len(ids))]),
        "pixel_values": torch.full((num_patches, 588), ids[0], dtype=torch.uint8),
        "pixel_table": torch.linspace(-1, 1, 256).repeat(3, 1),
        "tgt_sizes": torch.tensor(images, dtype=torch.int64).reshape(-1, 2),
    }


def test_pads_on_the_right() -> None:
    batch = Collator(pad_token_id=9)([sample(1, 2, 3), sample(4, 5)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [-100, 5, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_batch_without_images_has_no_image_arguments() -> None:
    assert set(Collator(0)([sample(1, 2), sample(3, 4, 5)])) == {"input_ids", "labels", "attention_mask", "layout"}


def test_images_follow_each_other_in_batch_order() -> None:
    batch = Collator(0).join(
        [sample(1, 2, images=((1, 2), (2, 2))), sample(3, 4, 5), sample(6, 7, 8, images=((1, 1),))]
    )
    assert batch["tgt_sizes"].tolist() == [[1, 2], [2, 2], [1, 1]]
    assert batch["pixel_values"][:, 0].tolist() == [1, 1, 1, 1, 1, 1, 6]
    assert batch["image_mask"].tolist() == [[False, True, False], [False] * 3, [False, True, False]]
    assert batch["pixel_values"].dtype == torch.uint8
    assert torch.equal(batch["pixel_table"], sample(1)["pixel_table"])
    assert batch["image_mask"].dtype == torch.bool
    assert batch["attention_mask"].dtype == torch.int64


def test_values_need_no_table() -> None:
    """Whoever makes items otherwise may hand over values; a sample without pictures has no say in it."""
    values = sample(1, 2, images=((1, 2),)) | {"pixel_values": torch.rand(2, 588)}
    del values["pixel_table"]
    batch = PackedCollator(0)([sample(3, 4), values])
    assert torch.equal(batch["pixel_values"], values["pixel_values"])
    assert "pixel_table" not in batch


def test_pixels_that_mean_different_things_are_not_joined() -> None:
    other = sample(3, 4, images=((1, 1),)) | {"pixel_table": torch.zeros(3, 256)}
    with pytest.raises(AssertionError, match="one image processor"):
        Collator(0)([sample(1, 2, images=((1, 2),)), other])


def test_the_pad_token_may_be_a_real_one() -> None:
    batch = Collator(pad_token_id=1)([sample(1, 1, 1), sample(1)])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_samples_without_weights_count_as_one_beside_one_with_weights() -> None:
    weighed = sample(4, 5) | {"label_weights": torch.tensor([0.0, 0.5])}
    padded = Collator(0)([sample(1, 2, 3), weighed])["label_weights"]
    assert padded.tolist() == [[0, 1, 1], [0, 0.5, 0]]
    packed = PackedCollator(0)([sample(1, 2, 3), weighed])["label_weights"]
    assert packed.tolist() == [[0, 1, 1, 0, 0.5]]
    assert padded.dtype == packed.dtype == torch.float32


def test_a_batch_without_weights_has_none() -> None:
    for collate in (Collator(0), PackedCollator(0)):
        assert "label_weights" not in collate([sample(1, 2), sample(3, 4, 5)])
        assert "label_weights" not in collate([])


def on_canvas(*ids: int) -> dict[str, torch.Tensor]:
    """A sample whose token at place i has the positions i, 10 + i and 20 + i."""
    return sample(*ids) | {"position_rows": torch.tensor([[0], [10], [20]]) + torch.arange(len(ids))}


def test_three_positions_of_each_token_are_padded_with_0_and_begin_anew_in_a_packed_row() -> None:
    samples = [on_canvas(1, 2, 3), on_canvas(4, 5)]
    padded = Collator(0)(samples)["mrope_position_ids"]
    assert padded.tolist() == [
        [[0, 1, 2], [0, 1, 0]],
        [[10, 11, 12], [10, 11, 0]],
        [[20, 21, 22], [20, 21, 0]],
    ]
    assert padded.dtype == torch.int64
    packed = PackedCollator(0).join(samples)
    assert packed["mrope_position_ids"].tolist() == [[[0, 1, 2, 0, 1]], [[10, 11, 12, 10, 11]], [[20, 21, 22, 20, 21]]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 1]]


def test_a_row_without_samples_has_one_position_for_each_token() -> None:
    assert "mrope_position_ids" not in PackedCollator(0)([])
