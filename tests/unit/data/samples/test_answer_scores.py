"""Values of answers in a folder: found by all that they depend on, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minicpmv.data.samples.answer_scores import AnswerStore, KnownScores
from minicpmv.data.samples.compared import Tokens

KEYS = [bytes([number]) * 32 for number in (3, 1, 2)]
VALUES = [torch.tensor([-1.0, -2.0]), torch.zeros(0), torch.tensor([-3.5])]
TOKENS = Tokens(
    input_ids=[1, 2, 3, 4, 5],
    labels=[-100, -100, 3, 4, 5],
    image_mask=[True, False, False, False, False],
    label_weights=None,
    position_rows=None,
    segments=[[4, 0, 0, 1], [1, 0, 2, -1]],
)
"""A question of two tokens; answers 3, 4 and 5."""


def opened(folder: Path) -> AnswerStore:
    store = AnswerStore(folder)
    store.open()
    return store


def test_values_are_found_after_the_folder_is_opened_again(tmp_path: Path) -> None:
    opened(tmp_path / "new").write(KEYS[:2], VALUES[:2])
    opened(tmp_path / "new").write(KEYS[2:], VALUES[2:])
    store = opened(tmp_path / "new")
    assert len(store) == 3
    for key, values in zip(KEYS, VALUES, strict=True):
        found = store.find(key, len(values))
        assert found is not None
        assert found.tolist() == values.tolist()
    assert store.find(KEYS[0], 3) is None
    assert store.find(bytes(32), 2) is None


def test_keys_with_one_beginning_are_told_apart(tmp_path: Path) -> None:
    one, other = bytes(8) + bytes([1]) * 24, bytes(8) + bytes([2]) * 24
    AnswerStore(tmp_path).write([one, other], [torch.tensor([1.0]), torch.tensor([2.0])])
    store = opened(tmp_path)
    assert [store.find(key, 1) for key in (one, other)] == [[1.0], [2.0]]


def test_two_writers_of_the_same_leave_one_file(tmp_path: Path) -> None:
    for _ in range(2):
        AnswerStore(tmp_path).write(KEYS, VALUES)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("change", ["cut", "turned"])
def test_a_damaged_file_counts_as_missing(tmp_path: Path, change: str) -> None:
    AnswerStore(tmp_path).write(KEYS, VALUES)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if change == "cut":
        content = content[:-3]
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    assert len(opened(tmp_path)) == 0


def test_each_answer_has_a_name_of_its_own() -> None:
    known = KnownScores(store=AnswerStore(Path()), made_by="a")
    first, second = known.keys(TOKENS, [b"picture"], 9)
    alone = replace(TOKENS, input_ids=[1, 2, 5], labels=[-100, -100, 5], image_mask=[True, False, False])
    assert known.keys(replace(alone, segments=[[3, 0, 0, -1]]), [b"picture"], 9) == [second]
    assert first != second


@pytest.mark.parametrize(
    "other",
    [
        {"made_by": "b"},
        {"contents": [b"another picture"]},
        {"max_slice_nums": 1},
        {"input_ids": [1, 9, 3, 4, 5]},
        {"labels": [-100, 2, 3, 4, 5]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_whatever_changes_is_another_answer(other: dict) -> None:
    tokens = replace(TOKENS, **{name: other[name] for name in ("input_ids", "labels") if name in other})

    def names(
        tokens: Tokens, *, made_by: str = "a", contents: list[bytes] | None = None, max_slice_nums: int = 9
    ) -> list:
        known = KnownScores(store=AnswerStore(Path()), made_by=made_by)
        return known.keys(tokens, contents or [b"picture"], max_slice_nums)

    options = {name: value for name, value in other.items() if name not in ("input_ids", "labels")}
    assert set(names(tokens, **options)).isdisjoint(names(TOKENS))


def test_an_item_has_values_or_what_to_call_them(tmp_path: Path) -> None:
    known = KnownScores(store=AnswerStore(tmp_path), made_by="a", is_naming=True)
    named = known.describe(TOKENS, [b"picture"], 9)["answer_keys"]
    assert named.shape == (2, 32)
    assert not known.has(TOKENS, [b"picture"], 9)
    known.store.write([bytes(key) for key in named.tolist()], [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])])
    known.store.open()
    known.is_naming = False
    assert known.has(TOKENS, [b"picture"], 9)
    assert known.describe(TOKENS, [b"picture"], 9)["reference_log_probs"].tolist() == [-1, -2, -3]
    with pytest.raises(KeyError):
        known.describe(TOKENS, [b"another"], 9)
