"""Data that several processes check, each a part, are judged as by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data import machine_copies
from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.data.records.file_state import FileStates
from minicpmv.data.sharing import ALONE, Sharing, part_of
from minicpmv.data.sources import loading
from minicpmv.data.sources.cache import DataCache
from minicpmv.data.sources.check_cache import check_or_recall
from minicpmv.data.sources.loading import Checked
from minicpmv.data.sources.mixing import DataSource, load_mixture
from minicpmv.data.sources.source_digests import open_source
from minicpmv.data.sources.validation import parse_split
from minicpmv.errors import DataError
from tests.ranks import on_ranks
from tests.tiny import conversation, save_picture, write_data
from tests.unit.data.odd_images import huge_png

RANKS = (2, 3, 7)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few records at a time, and a file for every array that processes share."""
    monkeypatch.setattr(loading, "_AT_A_TIME", 4)
    monkeypatch.setattr(machine_copies, "_WORTH_A_FILE", 1)


def faulty_records(folder: Path) -> list[dict[str, Any]]:
    """Make 40 records whose faults lie apart: what one process finds is the repetition of what another has found."""
    save_picture(folder / "a.png", 60, 40)
    (folder / "huge.png").write_bytes(huge_png())
    records: list[dict[str, Any]] = []
    for index in range(40):
        record: dict[str, Any] = {"id": f"r{index}", "conversations": conversation(f"Why {index}?", "So.")}
        picture = {2: "missing.png", 11: "a.png", 17: "missing.png", 23: "huge.png", 31: "a.png", 38: "huge.png"}
        if index in picture:
            record |= {"image": picture[index], "conversations": conversation(f"<image>\nWhat {index}?", "That.")}
        if index in (5, 25, 35):
            record["points"] = [[1, 2]] if index == 25 else None if index == 35 else []
        if index in (9, 29):
            record["origin"] = "web"
        if index in (14, 33):
            record["id"] = "twice"
        records.append(record)
    records[20]["conversations"] = []
    records[37] = records[3]
    return records


def sound_records(folder: Path) -> list[dict[str, Any]]:
    """Make 30 records of text and of pictures, which some share."""
    for number in range(4):
        save_picture(folder / f"{number}.png", 40 + 10 * number, 40, seed=number)
    talks = [conversation(f"<image>\nWhat {index}?" if index % 2 else f"Why {index}?", "So.") for index in range(30)]
    images = [{"image": f"{index % 4}.png"} if index % 2 else {} for index in range(30)]
    return [{"id": str(index), "conversations": talks[index], **images[index]} for index in range(30)]


def checked(path: str, sharing: Sharing, cache: DataCache | None = None) -> tuple[Checked, FileStates, bool]:
    raw, content = open_source(path, sharing=sharing)
    return check_or_recall(raw, content, path, image_root=None, version=None, cache=cache, sharing=sharing)


def findings(found: tuple[Checked, FileStates, bool]) -> list[Any]:
    result, states, _ = found
    arrays = (*result.sizes.as_arrays(), *result.films.as_arrays(), *states.as_arrays(), result.bad)
    return [*map(np.ndarray.tolist, arrays), result.problems, result.notices, result.left_out]


def test_parts_are_neighbours_that_cover_all() -> None:
    assert part_of(7, ALONE) == range(7)
    for number in (1, 2, 3, 9):
        parts = on_ranks(number, lambda sharing: part_of(7, sharing))
        assert [place for part in parts for place in part] == list(range(7))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("number", RANKS)
def test_all_processes_find_what_one_finds(tmp_path: Path, number: int) -> None:
    path = write_data(tmp_path / "train.json", faulty_records(tmp_path))
    alone = findings(checked(path, ALONE))
    codes = {problem.code for _, problem in alone[-3]} | {notice.code for notice in alone[-2]}
    assert codes >= {"D114", "D141", "D143", "D160", "D320"}, "each kind of finding is joined in its own way"
    assert on_ranks(number, lambda sharing: findings(checked(path, sharing))) == [alone] * number


@pytest.mark.parametrize("number", RANKS)
def test_all_processes_count_the_empty_cells_that_one_counts(tmp_path: Path, number: int) -> None:
    """The pictures are in the part of the first process, the first empty cell in another's."""
    save_picture(tmp_path / "a.png")
    rows = ["question,image,answer", *(f"Why {index}?,{'a.png' if index < 3 else ''},So." for index in range(20))]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    alone = findings(checked(str(tmp_path / "a.csv"), ALONE))
    assert [notice.found for notice in alone[-2] if notice.code == "D322"] == [
        "no picture in 17 of 20 rows, of which this is the first"
    ]
    assert on_ranks(number, lambda sharing: findings(checked(str(tmp_path / "a.csv"), sharing))) == [alone] * number


@pytest.mark.parametrize("number", RANKS)
def test_all_processes_know_the_pictures_that_one_knows(tmp_path: Path, number: int) -> None:
    """Those of two sources, of which each process has compared some."""
    paths = [write_data(tmp_path / name, sound_records(tmp_path)) for name in ("train.json", "more.json")]

    def know(sharing: Sharing) -> list[Any]:
        files = [checked(path, sharing)[1] for path in paths]
        shares = [each.part(sharing) for each in files]
        pictures = PictureDigests(files, sharing=sharing)
        places = [pictures._place(str(tmp_path / f"{number}.png")) for number in range(4)]
        names = [paths.tobytes().split(b"\0")[:-1] for paths, _ in shares]
        assert [len(numbers) for _, numbers in shares] == [len(each) for each in names]
        return [pictures.states.tolist(), places, sharing.gather(names)]

    alone, *found = know(ALONE), *on_ranks(number, know)
    assert [each[:2] for each in found] == [alone[:2]] * number
    of_sources = zip(*found[0][2], strict=True)
    assert [[name for part in parts for name in part] for parts in of_sources] == alone[2][0], "each is compared once"


def test_the_first_cache_serves_processes_that_have_none(tmp_path: Path) -> None:
    path = write_data(tmp_path / "train.json", sound_records(tmp_path))

    def check(sharing: Sharing) -> tuple[Checked, FileStates, bool]:
        return checked(path, sharing, DataCache(tmp_path / f"kept-{sharing.rank}"))

    first, second = on_ranks(3, check), on_ranks(3, check)
    assert [found[2] for found in (*first, *second)] == [False] * 3 + [True] * 3
    assert [findings(found) for found in second] == [findings(found) for found in first]
    assert not (tmp_path / "kept-1").exists()
    (tmp_path / "3.png").unlink()  # compared by the last of them alone
    with pytest.raises(DataError, match=r"3\.png"):
        on_ranks(
            3, lambda sharing: load_mixture([DataSource(path)], cache=DataCache(tmp_path / "kept-0"), sharing=sharing)
        )


@pytest.mark.parametrize("number", RANKS)
def test_all_processes_hold_out_what_one_does(tmp_path: Path, number: int) -> None:
    path = write_data(tmp_path / "train.json", sound_records(tmp_path))

    def load(sharing: Sharing) -> list[Any]:
        mixture = load_mixture([DataSource(path)], split=parse_split("0.3"), sharing=sharing)
        assert mixture.validation is not None
        held_out = [record.id for record in mixture.validation.records]
        return [mixture.identity, held_out, [record.id for record in mixture.records]]

    alone = load(ALONE)
    assert alone[1]
    assert on_ranks(number, load) == [alone] * number


def test_another_copy_of_the_data_on_another_machine_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / name / "train.json" for name in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        write_data(path, [{"id": path.parent.name, "conversations": conversation("Why?", "So.")}])
    with pytest.raises(DataError, match=r"\[D204\] found another content than on the first machine"):
        on_ranks(2, lambda sharing: open_source(str(paths[sharing.rank]), sharing=sharing))


def test_a_file_that_one_process_cannot_open_is_the_fault_of_all(tmp_path: Path) -> None:
    path = write_data(tmp_path / "train.json", [{"id": "a", "conversations": conversation("Why?", "So.")}])

    def load(sharing: Sharing) -> str:
        sources = [DataSource(path if sharing.rank == 0 else str(tmp_path / "gone.json"))]
        with pytest.raises(DataError) as refused:
            load_mixture(sources, sharing=sharing)
        return str(refused.value)

    told = on_ranks(2, load)
    assert told[0] == told[1]
    assert "gone.json" in told[0]
