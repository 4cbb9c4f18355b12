"""A film in a conversation against its frames as the official examples feed them: tokens, pixels, sizes, times.

Those examples give frames as pictures of one turn, unnumbered, the groups of 4.5 by ``temporal_ids``. The ways of
pictures and groups are held against stored official numbers in ``test_conversations`` and ``test_frames``, the films
of 4.6 and later in ``test_prompts_4_6``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.errors import UsageError
from minicpmv.processing.encoding import EncodedConversation
from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.plan import FilmPlan
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.films.shown import Convert, ShownFilm
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.text.turns import FilmRef, ImageRef, Turn
from minicpmv.releases.row import find_code
from minicpmv.releases.table import VERSIONS
from tests.omni import write_omni
from tests.tiny import FIXTURES, picture

WIDE, UPRIGHT = (150, 84), (60, 150)
FRAMES = [picture(*WIDE, seed=seed) for seed in range(7)]
ANSWER = Turn("assistant", ("A cat runs.",))
GROUPED = (
    ((0, 4, 8), (11, 15, 19), (23,)),
    ((0, 4), (8, 11), (15, 19), (23,)),
    ((0,), (4,), (8,), (11,), (15,), (19,), (23,)),
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("omni")
    omni = {name: write_omni(folder / name, name) for name in ("o-2.6", "o-4.5")}
    return omni | {"2.0": FIXTURES / "v2", "2.5": FIXTURES / "v2_5", "2.6": FIXTURES / "v2_6", "4.0": FIXTURES / "v4",
                   "4.5": FIXTURES / "v4_5", "4.6": FIXTURES / "v4_6", "4.7": FIXTURES / "v4_7"}  # fmt: skip


def open_processor(checkpoints: dict[str, Path], release: str) -> MiniCPMVProcessor:
    return find_code(VERSIONS[release].reading.processor).from_pretrained(checkpoints[release])


def film(frames: list[Image.Image] = FRAMES, **more: Any) -> ShownFilm:
    plan = FilmPlan(times=tuple(map(float, range(len(frames)))), size=frames[0].size, **more)
    return ShownFilm(plan, lambda convert: [convert(frame) for frame in frames])


def same(found: EncodedConversation, expected: EncodedConversation) -> None:
    for name in ("input_ids", "labels", "image_mask", "tgt_sizes", "temporal_ids"):
        assert getattr(found, name) == getattr(expected, name), name
    assert np.array_equal(found.pixel_values, expected.pixel_values)


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("release", ["2.6", "4.0", "o-2.6", "o-4.5"])
def test_frames_are_unnumbered_pictures_joined_by_newlines(
    checkpoints: dict[str, Path], release: str, tiles: int
) -> None:
    processor = open_processor(checkpoints, release)
    found = processor.encode_conversation(
        [Turn("user", (FilmRef(0), "What?")), ANSWER], films=[film()], video_max_slice_nums=tiles
    )
    frames = tuple(ImageRef(number) for number in range(len(FRAMES)))
    expected = processor.encode_conversation(
        [Turn("user", (*frames, "What?")), ANSWER], FRAMES, use_image_id=False, max_slice_nums=tiles
    )
    assert len(expected.tgt_sizes) == (7 if tiles == 1 else 21)
    same(found, expected)


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("groups", GROUPED)
def test_groups_of_frames_have_the_times_of_the_plan(
    checkpoints: dict[str, Path], groups: tuple[tuple[int, ...], ...], tiles: int
) -> None:
    processor = open_processor(checkpoints, "4.5")
    shown = film(group=len(groups[0]), time_ids=tuple(time for group in groups for time in group))
    found = processor.encode_conversation(
        [Turn("user", (FilmRef(0), "What?")), ANSWER], films=[shown], video_max_slice_nums=tiles
    )
    frames = tuple(ImageRef(number) for number in range(len(FRAMES)))
    expected = processor.encode_conversation(
        [Turn("user", (*frames, "What?")), ANSWER],
        FRAMES,
        temporal_ids=groups,
        use_image_id=False,
        max_slice_nums=tiles,
    )
    same(found, expected)
    assert sum(found.image_mask) == len(groups) * processor.query_num * (1 if tiles == 1 else 3)


def mixed(processor: MiniCPMVProcessor, **more: Any) -> tuple[list[Turn], list[Image.Image], list[ShownFilm]]:
    """Two films and two pictures in two turns; a picture is cut where a frame of its size is not."""
    turns = [
        Turn("user", (ImageRef(0), "and", FilmRef(1), "What?")),
        ANSWER,
        Turn("user", (FilmRef(0), ImageRef(1), "And here?")),
        ANSWER,
    ]
    pictures = [picture(*WIDE, seed=20), picture(*UPRIGHT, seed=21)]
    timed = processor.version.reading.temporal
    more = {"group": 2, "time_ids": (3, 5, 9)} if timed else {}
    other = [picture(*UPRIGHT, seed=30 + seed) for seed in range(3)]
    return turns, pictures, [film(FRAMES[:3], **more), film(other, **more)]


@pytest.mark.parametrize("release", ["2.6", "4.5", "4.6", "4.7"])
def test_pictures_beside_a_film_keep_numbers_and_tiles(checkpoints: dict[str, Path], release: str) -> None:
    """As each would be encoded alone, but for the numbers of pictures, which count pictures only."""
    processor = open_processor(checkpoints, release)
    turns, pictures, films = mixed(processor)
    text = processor.write(turns, [each.size for each in pictures], films=[each.plan for each in films]).text()
    assert [text.count(f"<image_id>{number}</image_id>") for number in range(4)] == (
        [2, 2, 0, 0] if release == "4.6" else [1, 1, 0, 0]  # films are counted, too, by themselves
    )
    sample = processor.encode_conversation(turns, pictures, films=films)
    alone = [processor.image_processor.plan(each.size) for each in pictures]
    frames = [processor.image_processor.plan(each.plan.size, 1) for each in films]
    assert alone[0].num_slices > 1
    expected = [alone[0].tgt_sizes, frames[1].tgt_sizes * 3, frames[0].tgt_sizes * 3, alone[1].tgt_sizes]
    assert sample.tgt_sizes == [size for sizes in expected for size in sizes]
    if release == "4.5":
        times = [(1, 3), (0, 5), (1, 9)]
        still = [[(1, -1)] * plan.num_slices for plan in alone]
        assert sample.temporal_ids == [*still[0], *times, *times, *still[1]]
    else:
        assert sample.temporal_ids is None
    cut = np.cumsum([rows * columns for rows, columns in sample.tgt_sizes])
    start = len(expected[0])
    found = sample.pixel_values[cut[start - 1] : cut[start + 2]]
    assert np.array_equal(
        found,
        np.concatenate(films[1].read(lambda frame: processor.image_processor.patches(frame, frames[1]))),
    )
    measured = processor.encode_text(turns, [each.size for each in pictures], films=[each.plan for each in films])
    assert measured.input_ids == sample.input_ids


def test_a_frame_is_kept_as_the_patches_that_it_is_cut_into(checkpoints: dict[str, Path]) -> None:
    processor = open_processor(checkpoints, "2.6")
    kept: list[Any] = []

    def read(convert: Convert) -> list[Any]:
        kept.extend(convert(frame) for frame in FRAMES[:2])
        return kept

    turns = [Turn("user", (FilmRef(0), "?")), ANSWER]
    processor.encode_conversation(turns, films=[ShownFilm(film(FRAMES[:2]).plan, read)])
    patches = processor.image_processor.plan(WIDE, 1).num_patches
    assert [(each.shape, each.dtype) for each in kept] == [((patches, 588), np.uint8)] * 2


@pytest.mark.parametrize("release", ["2.0", "2.5"])
def test_a_release_without_films_says_why(checkpoints: dict[str, Path], release: str) -> None:
    processor = open_processor(checkpoints, release)
    with pytest.raises(UsageError, match=r"found a film, expected none: .* takes none, because it was trained on"):
        processor.encode_conversation([Turn("user", (FilmRef(0), "?")), ANSWER], films=[film()])


def test_films_and_places_fit_each_other(checkpoints: dict[str, Path]) -> None:
    processor = open_processor(checkpoints, "4.5")
    turns = [Turn("user", (FilmRef(0), "?")), ANSWER]
    with pytest.raises(UsageError, match=r"references to films \[0\] and 2 films, expected every film to have one"):
        processor.encode_conversation(turns, films=[film(), film()])
    with pytest.raises(UsageError, match=r"references to films \[0\] and 0 films"):
        processor.encode_conversation(turns)
    with pytest.raises(UsageError, match="found time indices and a film, expected one of them"):
        processor.encode_conversation(turns, films=[film()], temporal_ids=[[0]])
    with pytest.raises(UsageError, match="found a film in a turn of role 'assistant'"):
        processor.encode_conversation([Turn("user", ("?",)), Turn("assistant", (FilmRef(0),))], films=[film()])


class Opened:
    """A film of pictures in memory."""

    request = FilmRequest(max_frames=3)
    facts = FilmFacts(duration=7.0, rate=1.0, num_frames=7, size=WIDE)

    def read(self, times: Sequence[float], convert: Convert) -> list[Any]:
        return [convert(FRAMES[int(time)]) for time in times]


@pytest.mark.parametrize("release", ["2.6", "4.5", "4.7"])
def test_a_message_with_a_film_is_what_is_trained(checkpoints: dict[str, Path], release: str) -> None:
    processor = open_processor(checkpoints, release)
    parts = [{"type": "video", "video": Opened()}, {"type": "image", "image": FRAMES[0]}, {"type": "text", "text": "?"}]
    asked = processor.apply_chat_template([{"role": "user", "content": parts}])
    shown = processor.show_film(Opened())
    assert len(shown.plan.times) == 3
    trained = processor.encode_conversation(
        [Turn("user", (FilmRef(0), ImageRef(0), "?")), ANSWER], [FRAMES[0]], films=[shown]
    )
    num_tokens = trained.labels.index(next(label for label in trained.labels if label >= 0))
    ids = asked["input_ids"][0].tolist()
    assert trained.input_ids[:num_tokens] == ids
    assert asked["tgt_sizes"].tolist() == [list(size) for size in trained.tgt_sizes]
    assert np.array_equal(asked["pixel_values"], processor.image_processor.normalise(trained.pixel_values))
    assert ("temporal_ids" in asked) == (release == "4.5")
    if release == "4.5":
        assert asked["temporal_ids"].tolist() == [list(row) for row in trained.temporal_ids or ()]
