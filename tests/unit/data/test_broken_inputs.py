"""Every broken input is named by its code: no crash, no hang, no silent pass."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from minicpmv.data.checks.code_pages import code_pages
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError
from minicpmv.processing.pictures.patches import load_image
from tests.unit.data.broken_inputs import Case, all_cases, spoilt_images

CASES = all_cases()
_SECONDS = 10


@contextmanager
def _time_limit(name: str) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{name}: more than {_SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def codes_of(case: Case, folder: Path) -> Counter[str]:
    """Return what a check says, and make sure that a run refuses the same, unless only decoding can tell."""
    folder.mkdir()
    for name, data in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    file = folder / case.file
    file.write_bytes(case.data)
    survey = Survey([str(file)])
    survey.read_texts()
    survey.read_images()
    survey.read_films()
    survey.statistics()
    for path, size in survey.image_sizes.items():
        assert load_image(path).size == size  # what a check passes does not fail later
    found = [str(finding.problem) for finding in survey.findings if finding.problem.severity == "problem"]
    try:
        load_records(file)
        refused: list[str] = []
    except DataError as error:
        refused = [str(problem) for problem in error.problems]
    if found and not refused:
        quick = Survey([str(file)])
        quick.read_texts()
        quick.read_images(decode=False)
        quick.read_films()
        assert not [finding for finding in quick.findings if finding.problem.severity == "problem"]
        assert all("[D142]" in problem for problem in found)
    else:
        assert sorted(refused) == sorted(found)
    return Counter(finding.problem.code for finding in survey.findings)


@pytest.mark.parametrize("code", sorted({case.code for case in CASES}))
def test_broken_input_is_named_by_its_code(code: str, tmp_path: Path) -> None:
    for number, case in enumerate(case for case in CASES if case.code == code):
        with _time_limit(case.name):
            codes = codes_of(case, tmp_path / str(number))
        assert code in codes, f"{case.name}: found {dict(codes)}"


def test_spoilt_image_is_named_or_can_be_loaded(tmp_path: Path) -> None:
    """Where a format has no checksum, wrong pixels cannot be told from right ones."""
    for number, case in enumerate(spoilt_images()):
        with _time_limit(case.name):
            codes = codes_of(case, tmp_path / str(number))
        assert codes.keys() <= {"D142"}, case.name


def test_there_are_hundreds_of_cases_and_every_code_of_a_file_has_some() -> None:
    assert len(CASES) == len({case.name for case in CASES}) >= 400
    needs_a_model = {"D151", "D152", "D153", "D167", "D201", "D202", "D203", "D204", "D205", "D206"}
    by_path_or_size = {"D101", "D307"}
    # Tables, boxes, permissions, folders, films and kinds of records have tests of their own.
    elsewhere = {"D108", "D139", "D146", "D147", "D176", "D181", "D309", "D332", "D333"}
    assert {case.code for case in CASES} == set(code_pages()) - needs_a_model - by_path_or_size - elsewhere
