from __future__ import annotations

import pytest

from minicpmv.data.records.boxes import BoxError, find_boxes, scale_boxes

SIZE = (400, 200)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<box>20 30 200 100</box>", "<box>50 150 500 500</box>"),
        ("<box> [20, 30, 200, 100] </box>", "<box>50 150 500 500</box>"),
        ("<box>(20,30,200,100)</box>", "<box>50 150 500 500</box>"),
        ("<box>(20,30),(200,100)</box>", "<box>50 150 500 500</box>"),
        ("<box>0 0 400 200</box>", "<box>0 0 1000 1000</box>"),
        ("<box>20.2 30 200 99.9</box>", "<box>51 150 500 500</box>"),
        ("<ref>cat</ref>[20, 30, 200, 100]", "<ref>cat</ref><box>50 150 500 500</box>"),
        ("<ref>cat</ref><box>20 30 200 100</box>, [1, 2]", "<ref>cat</ref><box>50 150 500 500</box>, [1, 2]"),
        ("<box>0 0 4 2</box> and <box>4 2 8 4</box>", "<box>0 0 10 10</box> and <box>10 10 20 20</box>"),
        ("The list [20, 30, 200, 100] in prose.", "The list [20, 30, 200, 100] in prose."),
        ("<ref>cat</ref> at [20, 30, 200, 100]", "<ref>cat</ref> at [20, 30, 200, 100]"),
        ("No box.", "No box."),
    ],
)
def test_marked_boxes_are_rewritten_and_nothing_else(text: str, expected: str) -> None:
    assert scale_boxes(text, [SIZE]) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<box>20 30 200</box>", "the box '20 30 200'"),
        ("<box>20 30 200 100 5</box>", "the box '20 30 200 100 5'"),
        ("<box>-20 30 200 100</box>", "the box '-20 30 200 100'"),
        ("<box></box>", "the box ''"),
        ("<ref>cat</ref>[20, 30]", "the box '[20, 30]'"),
        ("<box>20 30 401 100</box>", "the box '20 30 401 100' in an image of 400 x 200 pixels"),
        ("<box>20 30 20 100</box>", "the box '20 30 20 100' in an image of 400 x 200 pixels"),
        ("<box>20 100 200 30</box>", "the box '20 100 200 30' in an image of 400 x 200 pixels"),
        ("<box>20 30 200 100", "<box> and </box> that do not pair up"),
        ("20 30 200 100</box>", "<box> and </box> that do not pair up"),
        ("<quad>1 2 3 4 5 6 7 8</quad>", "a <quad>"),
        ("<point>1 2</point>", "a <point>"),
    ],
)
def test_what_cannot_be_rewritten_is_an_error(text: str, found: str) -> None:
    with pytest.raises(BoxError) as caught:
        scale_boxes(text, [SIZE])
    assert caught.value.found == found


@pytest.mark.parametrize("sizes", [[], [SIZE, SIZE]])
def test_box_needs_exactly_one_image(sizes: list[tuple[int, int]]) -> None:
    with pytest.raises(BoxError) as caught:
        scale_boxes("<box>20 30 200 100</box>", sizes)
    assert caught.value.found == f"the box '20 30 200 100' in a record with {len(sizes)} images"
    assert scale_boxes("No box.", sizes) == "No box."


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("<ref>cat</ref><box>50 150 500 500</box>", [(50, 150, 500, 500)]),
        ("<box>(1, 2), (3, 4)</box> or <ref>dog</ref>[5, 6, 7.5, 8]", [(1, 2, 3, 4), (5, 6, 7.5, 8)]),
        ("<box>1 2 3</box><box>-1 2 3 4</box><box>here</box>", []),
        ("[1, 2, 3, 4]", []),
    ],
)
def test_boxes_are_read_as_they_stand(text: str, boxes: list[tuple[float, ...]]) -> None:
    assert find_boxes(text) == boxes
