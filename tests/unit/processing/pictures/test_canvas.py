from __future__ import annotations

import torch

from minicpmv.processing.pictures import canvas
from minicpmv.processing.pictures.canvas import WrittenBlock, place_on_canvas

TEXT, OPENS, SLOT, CLOSES, LINE = 1, 2, 3, 4, 5


def test_text_alone_counts_on_in_all_three() -> None:
    assert place_on_canvas([TEXT] * 4, [], newline=LINE).tolist() == [[0, 1, 2, 3]] * 3


def test_an_overview_is_stretched_over_its_tiles() -> None:
    """One row of three tiles of 2 x 2 tokens: a canvas of 2 x 6, on which an overview of 1 x 3 is drawn."""
    overview = [OPENS, *[SLOT] * 3, CLOSES]
    tile = [OPENS, *[SLOT] * 4, CLOSES]
    block = WrittenBlock(slots=[2, 7, 13, 19], sizes=[(1, 3), (2, 2), (2, 2), (2, 2)], columns=3)
    times, rows, columns = place_on_canvas([TEXT, *overview, *tile * 3, TEXT], [block], newline=LINE).tolist()
    assert times == [0, *[1] * 23, 8]
    assert rows[1:6] == [0, 1, 1, 1, 3]
    assert columns[1:6] == [0, 1, 3, 6, 7]  # 2.5 cells from the left is the even cell, 2
    assert rows[12:18] == [1, 1, 1, 2, 2, 2]
    assert columns[12:18] == [3, 3, 4, 3, 4, 4]


def test_line_breaks_behind_a_picture_belong_to_it_and_others_do_not() -> None:
    block = WrittenBlock(slots=[1], sizes=[(1, 1)], columns=0)
    positions = place_on_canvas([OPENS, SLOT, CLOSES, LINE, LINE, TEXT, LINE], [block], newline=LINE)
    assert positions.tolist() == [[0, 0, 0, 0, 0, 2, 3], [0, 0, 1, 0, 0, 2, 3], [0, 0, 1, 0, 0, 2, 3]]


def test_cells_are_spread_as_torch_spreads_them() -> None:
    for number in range(1, 45):
        for length in range(1, 250):
            expected = torch.linspace(0, length - 1, number).round().long().tolist()
            assert canvas._stretch(number, length).tolist() == expected, (number, length)
