"""Position ids and tables against the released arithmetic."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from minicpmv.models.networks.positions import SinePositions, axis_buckets, resize_table
from tests.parity.cases import FIXTURES


def test_buckets_equal_the_released_ones_for_every_stored_length() -> None:
    stored = load_file(FIXTURES / "preprocess" / "position_buckets_70.safetensors")
    assert len(stored) == 92
    for length, buckets in stored.items():
        assert torch.equal(axis_buckets(int(length), 70), buckets.long()), length


def test_buckets_are_not_plain_division() -> None:
    """At 49 patches float32 rounding moves a patch into the cell before; the weights were trained with that."""
    plain = torch.arange(49) * 70 // 49
    assert not torch.equal(axis_buckets(49, 70), plain)


def test_resized_table_equals_timm() -> None:
    stored = load_file(FIXTURES / "components" / "timm_pos_embed_resize.safetensors")
    table = stored["pos_embed_27x27"].flatten(0, -2)
    compared = 0
    for key, expected in stored.items():
        if not key.startswith("resized_"):
            continue
        rows, columns = map(int, key.removeprefix("resized_").split("x"))
        torch.testing.assert_close(resize_table(table, rows, columns), expected.flatten(0, -2), atol=1e-6, rtol=0)
        compared += 1
    assert compared >= 3


def test_sine_positions_equal_the_released_table() -> None:
    stored = load_file(FIXTURES / "components" / "sincos_2d.safetensors")
    for key, expected in stored.items():
        dim, shape = key.removeprefix("dim").split("_")
        rows, columns = map(int, shape.split("x"))
        found = SinePositions(int(dim)).of_grid([(rows, columns)], torch.device("cpu"), torch.float32)
        torch.testing.assert_close(found, expected.flatten(0, -2), atol=1e-6, rtol=0)
