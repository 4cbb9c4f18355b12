"""Whatever a tensor is turned into for an engine, the way back gives the checkpoint's own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from minicpmv.export.gguf.tensors import EngineTensor, as_it_is, interleaved, third, transposed

_SOURCE = np.arange(24, dtype=np.float32).reshape(12, 2)


@pytest.mark.parametrize(
    "tensor",
    [
        as_it_is("a", "s", (12, 2)),
        transposed("a", "s", (12, 2)),
        interleaved("a", "s", (12, 2), num_heads=3),
    ],
    ids=["as it is", "transposed", "interleaved"],
)
def test_the_way_back_gives_the_source(tensor: EngineTensor) -> None:
    made = tensor.of(_SOURCE)
    assert made.shape == tensor.shape
    np.testing.assert_array_equal(tensor.undo(made), _SOURCE)


def test_rows_of_a_head_lie_as_llama_cpp_turns_them() -> None:
    made = interleaved("a", "s", (8,), num_heads=2).of(np.arange(8, dtype=np.float32))
    assert made.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_thirds_are_the_whole() -> None:
    thirds = [third("a", "s", (12, 2), place) for place in range(3)]
    assert {each.shape for each in thirds} == {(4, 2)}
    np.testing.assert_array_equal(np.concatenate([each.of(_SOURCE) for each in thirds]), _SOURCE)
