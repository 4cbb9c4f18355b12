from __future__ import annotations

import numpy as np
import pytest

from minicpmv.data.records.sequences import Concatenated, LazySequence, Selected


class Squares(LazySequence[int]):
    def __len__(self) -> int:
        return 5

    def _item(self, index: int) -> int:
        return index**2


@pytest.mark.parametrize(
    ("sequence", "same"),
    [
        (Squares(), [0, 1, 4, 9, 16]),
        (Concatenated([[7], [], Squares(), [8, 9]]), [7, 0, 1, 4, 9, 16, 8, 9]),
        (Concatenated[int]([]), []),
        (Selected(Squares(), np.array([4, 0, 4])), [16, 0, 16]),
    ],
)
def test_items_are_those_of_the_same_list(sequence: LazySequence[int], same: list[int]) -> None:
    assert list(sequence) == same
    assert [sequence[i] for i in range(-len(same), len(same))] == same + same
    assert sequence[1:4:2] == same[1:4:2]
    for index in (len(same), -len(same) - 1):
        with pytest.raises(IndexError, match=f"index {index} of a sequence of {len(same)}"):
            sequence[index]
