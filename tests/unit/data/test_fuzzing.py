"""Any bytes and any JSON value give records or a ``DataError``: reading, checking and loading raise nothing else."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicpmv.data.media.image_faults import ImageUse
from minicpmv.data.media.image_files import survey_images
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import DataError
from minicpmv.processing.pictures.patches import load_image
from tests.unit.data.broken_inputs import GOOD_TEXT, all_cases

# The same examples in every run: a fault found once in a while helps nobody who did not cause it.
_ALIKE = settings(
    derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
_TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "user",
        "assistant",
        "system",
        "<image>",
        "<image_00>",
        "a.png",
        "Why?",
        "\0",
        "\ud83d",
        "",
        " ",
        "..",
        "/dev/null",
    ]
)
_KEYS = st.sampled_from(["id", "image", "conversations", "role", "content", "<image_00>", "images"]) | _TEXTS
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=20
)
_MESSAGES = st.fixed_dictionaries({"role": _TEXTS | _VALUES, "content": _TEXTS | _VALUES})
_RECORDS = st.fixed_dictionaries(
    {"conversations": st.lists(_MESSAGES | _VALUES, max_size=4) | _VALUES},
    optional={"id": _VALUES, "image": _TEXTS | st.lists(_TEXTS) | st.dictionaries(_KEYS, _TEXTS) | _VALUES},
)
_JSON_PIECES = st.sampled_from(
    [*'[]{}",:\\/ \n\t\0', "'", "true", "null", "NaN", "1e999", "\\u", "\\ud83d", "//", "/*", "\ufeff"]
)
_IMAGES = [data for case in all_cases() for data in case.files.values() if len(data) < 20_000]


def survives(data: bytes) -> None:
    """Read, check and load a file of these bytes; a check and a run must agree."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.json"
        file.write_bytes(data)
        survey = Survey([str(file)])
        survey.read_texts()
        survey.read_images()
        survey.read_films()
        survey.statistics()
        is_sound = all(finding.problem.severity == "notice" for finding in survey.findings)
        assert all(str(finding.problem) for finding in survey.findings)
        if is_sound:
            assert len(load_records(file)) == len(list(survey.sound_records()))
        else:
            with pytest.raises(DataError):
                load_records(file)


@_ALIKE
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@_ALIKE
@given(st.lists(_JSON_PIECES | st.text(max_size=3) | st.integers().map(str), max_size=30))
def test_anything_that_looks_like_json(pieces: list[str]) -> None:
    survives(("[" + "".join(pieces)).encode("utf-8", "surrogatepass"))


@_ALIKE
@given(st.integers(0, len(GOOD_TEXT)), st.integers(0, 20), _JSON_PIECES | st.text(max_size=5))
def test_a_good_file_with_something_replaced(start: int, length: int, piece: str) -> None:
    survives((GOOD_TEXT[:start] + piece + GOOD_TEXT[start + length :]).encode("utf-8", "surrogatepass"))


@_ALIKE
@given(st.lists(_RECORDS | _VALUES, max_size=4))
def test_any_records(records: list[Any]) -> None:
    survives(json.dumps(records).encode())


@_ALIKE
@given(st.sampled_from(_IMAGES), st.integers(0, 20_000), st.binary(max_size=20), st.integers(0, 40))
def test_image_files_with_something_replaced(image: bytes, start: int, piece: bytes, length: int) -> None:
    """What is passed can be decoded; what cannot has a problem."""
    start %= len(image) + 1
    data = image[:start] + piece + image[start + length :]
    use = ImageUse(record=0, where="train.json", written="a.png", path=data, root=".")
    report = survey_images([use])
    assert len(report.sizes) + len(report.problems) == 1
    for size in report.sizes.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about damaged EXIF data
            assert load_image(data).size == size
