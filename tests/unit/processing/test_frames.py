"""Frames of a video group share one block of image slots; all else stays as for images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from minicpmv.errors import UsageError
from minicpmv.processing.frames import ImageBlock, lay_out_images
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import ImageRef, Turn
from minicpmv.releases.table import VERSIONS
from tests.tiny import picture

FRAMES = [picture(50, 40, seed=seed) for seed in range(4)]
WIDE = [picture(150, 60, seed=seed) for seed in range(3)]


@pytest.fixture
def processor(processors: dict[str, MiniCPMVProcessor]) -> MiniCPMVProcessor:
    return processors["v4_5"]


def ask(*parts: Any) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": content}]


def test_a_group_reads_as_one_image(processor: MiniCPMVProcessor) -> None:
    frames = processor.apply_chat_template(ask(*FRAMES[:3], "What?"), temporal_ids=[[0, 5, 10]])
    image = processor.apply_chat_template(ask(FRAMES[0], "What?"))
    for name in ("input_ids", "image_mask"):
        assert torch.equal(frames[name], image[name])
    assert frames["temporal_ids"].tolist() == [[1, 0], [0, 5], [0, 10]]
    assert frames["temporal_ids"].dtype == torch.int64
    alone = [processor.apply_chat_template(ask(frame)) for frame in FRAMES[:3]]
    for name in ("pixel_values", "tgt_sizes"):
        assert torch.equal(frames[name], torch.cat([one[name] for one in alone]))


def test_groups_are_joined_with_one_newline_and_numbered_by_their_first_frame(processor: MiniCPMVProcessor) -> None:
    text = processor.apply_chat_template(ask(*FRAMES, "What?"), temporal_ids=[[0, 1, 2], [3]], tokenize=False)
    ids = processor.apply_chat_template(ask(*FRAMES, "What?"), temporal_ids=[[0, 1, 2], [3]])["input_ids"][0]
    assert processor.decode(ids) == text
    slots = "<image>" + "<unk>" * 4 + "</image>"
    assert f"user\n<image_id>0</image_id>{slots}\n<image_id>3</image_id>{slots}\nWhat?<|im_end|>" in text
    text = processor.apply_chat_template(
        ask(*FRAMES, "What?"), temporal_ids=[[0, 1, 2], [3]], tokenize=False, use_image_id=False
    )
    assert f"user\n{slots}\n{slots}\nWhat?<|im_end|>" in text


def test_frames_cut_alike_share_a_block_slice_by_slice(processor: MiniCPMVProcessor) -> None:
    """Overviews first, then the first tiles, and so on."""
    frames = processor.apply_chat_template(ask(*WIDE[:2]), temporal_ids=[[7, 8]])
    alone = [processor.apply_chat_template(ask(frame)) for frame in WIDE[:2]]
    num_slices = len(alone[0]["tgt_sizes"])
    assert num_slices > 1
    assert int(frames["image_mask"].sum()) == num_slices * processor.query_num
    assert frames["temporal_ids"].tolist() == [[1, 7], [0, 8]] * num_slices
    per_frame = [
        inputs["pixel_values"].split([rows * columns for rows, columns in inputs["tgt_sizes"].tolist()])
        for inputs in alone
    ]
    expected = [rows for pair in zip(*per_frame, strict=True) for rows in pair]
    assert torch.equal(frames["pixel_values"], torch.cat(expected))


def test_a_single_frame_and_a_still_image_keep_a_block_for_each_slice(processor: MiniCPMVProcessor) -> None:
    inputs = processor.apply_chat_template(ask(WIDE[0], FRAMES[0], WIDE[1]), temporal_ids=[[4], [5], [-1]])
    plain = processor.apply_chat_template(ask(WIDE[0], FRAMES[0], WIDE[1]))
    for name in plain:
        assert torch.equal(inputs[name], plain[name])
    num_slices = (len(plain["tgt_sizes"]) - 1) // 2
    assert inputs["temporal_ids"].tolist() == [[1, 4]] * num_slices + [[1, 5]] + [[1, -1]] * num_slices
    assert "temporal_ids" not in plain


@pytest.mark.parametrize(
    "temporal_ids",
    [
        ((0, 1), (2, 3)),
        np.array([[0, 1], [2, 3]]),
        [np.array([0, 1], dtype=np.int32), np.array([2, 3], dtype=np.int32)],
        [[np.int64(0), 1], (2, 3)],
    ],
)
def test_groups_may_be_lists_tuples_or_arrays(processor: MiniCPMVProcessor, temporal_ids: Any) -> None:
    inputs = processor.apply_chat_template(ask(*FRAMES), temporal_ids=temporal_ids)
    assert inputs["temporal_ids"].tolist() == [[1, 0], [0, 1], [1, 2], [0, 3]]


def test_in_a_batch_the_others_have_no_time(processor: MiniCPMVProcessor) -> None:
    batch = [ask(FRAMES[0], "a"), ask(*FRAMES[:2], "b"), ask("c")]
    inputs = processor.apply_chat_template(batch, temporal_ids=[None, [[0, 1]], None])
    assert inputs["temporal_ids"].tolist() == [[1, -1], [1, 0], [0, 1]]
    assert "temporal_ids" not in processor.apply_chat_template(batch, temporal_ids=[None, None, None])
    assert "temporal_ids" not in processor.apply_chat_template(batch)


def test_lists_and_training_hold_them_too(processor: MiniCPMVProcessor) -> None:
    turns = (Turn("user", (ImageRef(1), ImageRef(0), "?")), Turn("assistant", ("ok",)))
    sample = processor.encode_conversation(turns, FRAMES[:2], temporal_ids=[[3, 4]])
    assert sample.temporal_ids == [(1, 3), (0, 4)]
    swapped = processor.encode_conversation(
        (Turn("user", (ImageRef(0), ImageRef(1), "?")), turns[1]), FRAMES[1::-1], temporal_ids=[[3, 4]]
    )
    assert (sample.pixel_values == swapped.pixel_values).all()
    assert processor.encode_conversation(turns, FRAMES[:2]).temporal_ids is None
    measured = processor.encode_text(turns, [frame.size for frame in FRAMES[:2]], temporal_ids=[[3, 4]])
    assert measured.input_ids == sample.input_ids
    assert processor.apply_chat_template(ask(*FRAMES[:2]), temporal_ids=[[3, 4]], return_tensors=None)[
        "temporal_ids"
    ] == [[1, 3], [0, 4]]


@pytest.mark.parametrize(
    ("parts", "temporal_ids", "message"),
    [
        ((FRAMES[0], FRAMES[1]), [[0]], r"found 1 time indices for 2 images.*\n  fix: add \[-1\] for every image"),
        ((FRAMES[0],), [[0], [1]], r"found 2 time indices for 1 image.*\n  fix: remove the surplus"),
        ((FRAMES[0],), [0], r"found \[0\], expected a list of groups"),
        ((FRAMES[0],), [[]], r"found \[\[\]\], expected a list of groups"),
        ((FRAMES[0],), 3, "found 3, expected a list of groups"),
        ((FRAMES[0],), [[-2]], r"temporal_ids\[0\]: found -2, expected whole numbers from 0, or -1"),
        ((FRAMES[0],), [[0.5]], r"temporal_ids\[0\]: found 0.5, expected whole numbers"),
        ((FRAMES[0],), [[True]], "found True, expected whole numbers"),
        ((FRAMES[0],), [[[0]]], r"found \[0\], expected whole numbers"),
        (
            (FRAMES[0], "then", FRAMES[1]),
            [[0, 1]],
            r"conversation\[0\].content: found a frame of group 0 of temporal_ids away from the others",
        ),
        (
            (WIDE[0], FRAMES[0]),
            [[0, 1]],
            r"temporal_ids\[0\]: found frames that are cut into different tiles \(150 x 60, 50 x 40 pixels\).*\n"
            "  fix: pass max_slice_nums=1",
        ),
    ],
)
def test_what_makes_no_group_is_refused(
    processor: MiniCPMVProcessor, parts: tuple[Any, ...], temporal_ids: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        processor.apply_chat_template(ask(*parts), temporal_ids=temporal_ids)
    assert "\n  fix: " in str(caught.value)
    if temporal_ids == [[0, 1]] and len(parts) == 2:
        assert processor.apply_chat_template(ask(*parts), temporal_ids=temporal_ids, max_slice_nums=1)


def test_a_group_over_two_turns_is_refused(processor: MiniCPMVProcessor) -> None:
    messages = [*ask(FRAMES[0]), {"role": "assistant", "content": "ok"}, *ask(FRAMES[1])]
    with pytest.raises(UsageError, match=r"conversation\[2\].content: found a frame of group 0"):
        processor.apply_chat_template(messages, temporal_ids=[[0, 1]])


def test_a_batch_needs_one_entry_for_each_conversation(processor: MiniCPMVProcessor) -> None:
    batch = [ask(FRAMES[0]), ask(FRAMES[1])]
    for temporal_ids in ([[[0]]], [[0, 1]], 3):
        with pytest.raises(UsageError, match="temporal_ids: found"):
            processor.apply_chat_template(batch, temporal_ids=temporal_ids)


@pytest.mark.parametrize("model", ["v2", "v2_5", "v2_6", "v4"])
def test_versions_without_video_say_so(processors: dict[str, MiniCPMVProcessor], model: str) -> None:
    with pytest.raises(
        UsageError, match=r"temporal_ids: found time indices, expected nothing: openbmb/.* has no video"
    ):
        processors[model].apply_chat_template(ask(FRAMES[0]), temporal_ids=[[0]])


def test_blocks_hold_the_images_in_the_order_of_the_text() -> None:
    turns = (Turn("user", (ImageRef(2), "a", ImageRef(0), ImageRef(1))),)
    layout = lay_out_images(turns, num_images=3, version=VERSIONS["4.5"], temporal_ids=[[-1], [0, 1]])
    assert layout.turns == (Turn("user", (ImageRef(0), "a", ImageRef(1))),)
    assert layout.blocks == (ImageBlock((2,), (-1,)), ImageBlock((0, 1), (0, 1)))
    assert layout.images_per_block == [1, 2]
