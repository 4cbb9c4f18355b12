"""Records with two answers in tokens: the question once, and each answer as in a conversation of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minicpmv.data.records.record import Record
from minicpmv.data.samples.collation import PackedCollator
from minicpmv.data.samples.compared import Comparison, find_changes
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.processing.text.turns import ImageRef, Turn
from tests.parity.cases import VERSIONS
from tests.parity.native_cases import NATIVE
from tests.tiny import save_picture
from tests.unit.data.samples.test_dataset import processor_of

PAIRS = Comparison(kind="pair")


def record(folder: Path, *, chosen: str = "A red car.", rejected: str = "A blue car, I think.") -> Record:
    """Two questions about a picture; the last answer is compared."""
    return Record(
        source="train.json",
        index=0,
        images=(save_picture(folder / "a.png", 50, 40),),
        image_sizes=((50, 40),),
        turns=(
            Turn("user", (ImageRef(0), "Hello?")),
            Turn("assistant", ("Yes.",)),
            Turn("user", ("What is it?",)),
            Turn("assistant", (chosen,)),
        ),
        rejected=(Turn("assistant", (rejected,)),),
    )


def dataset(name: str, *records: Record, comparison: Comparison = PAIRS) -> ConversationDataset:
    return ConversationDataset(records, processor_of(name), max_length=512, comparison=comparison)


@pytest.mark.parametrize("name", [*VERSIONS, *NATIVE])
def test_each_answer_is_as_in_a_conversation_of_its_own(tmp_path: Path, name: str) -> None:
    pair = record(tmp_path)
    (item,) = dataset(name, pair)
    segments = item["segments"].tolist()
    (whole, _, _, better), (rest, first, start, worse) = segments
    assert (better, worse, first) == (1, -1, 0)
    assert whole + rest == len(item["input_ids"])
    context = [replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in pair.turns[:-1]]
    seen = [torch.arange(whole), torch.cat([torch.arange(start), torch.arange(whole, whole + rest)])]
    for places, answer in zip(seen, (pair.turns[-1], *pair.rejected), strict=True):
        alone = processor_of(name).encode_conversation([*context, answer], pair.images)
        assert item["input_ids"][places].tolist() == alone.input_ids
        assert item["labels"][places].tolist() == alone.labels
        assert item["image_mask"][places].tolist() == alone.image_mask
        if alone.position_rows is not None:
            assert item["position_rows"][:, places].tolist() == alone.position_rows.tolist()
    assert len(item["tgt_sizes"]) == len(alone.tgt_sizes)


def test_the_unit_of_planning_is_the_pair(tmp_path: Path) -> None:
    pairs = dataset("v2_6", record(tmp_path))
    report = pairs.check_lengths()
    (item,) = pairs
    assert report.lengths.tolist() == [len(item["input_ids"])]
    assert report.num_trained.tolist() == [int((item["labels"] != -100).sum())]


def test_a_judged_answer_is_learnt_alone(tmp_path: Path) -> None:
    for desirable, rank in ((True, 1), (False, -1)):
        judged = replace(record(tmp_path), rejected=(), desirable=desirable)
        (item,) = dataset("v2_6", judged, comparison=Comparison(kind="answer"))
        assert item["segments"].tolist() == [[len(item["input_ids"]), 0, 0, rank]]
        labelled = processor_of("v2_6").tokenizer.decode(item["input_ids"][item["labels"] != -100])
        assert "A red car." in labelled
        assert "Yes." not in labelled


def test_of_a_pair_the_better_answer_is_a_conversation(tmp_path: Path) -> None:
    pairs = dataset("v2_6", record(tmp_path))
    (item,) = pairs.as_conversations()
    assert "segments" not in item
    assert item["input_ids"].tolist() == pairs[0]["input_ids"][: len(item["input_ids"])].tolist()


def test_collated_pairs_continue_their_own_question(tmp_path: Path) -> None:
    pair = record(tmp_path)
    items = [*dataset("v2_6", pair, replace(pair, rejected=(Turn("assistant", ("No.",)),)))]
    layout = PackedCollator(0, compares=True)(items)["layout"]
    lengths = [item["segments"].tolist() for item in items]
    assert list(layout.samples) == [segment[0] for each in lengths for segment in each]
    start = len(items[0]["input_ids"])
    assert [first for first, number in layout.samples.prefixes if number] == [0, start]
    assert layout.ranks == (1, -1, 1, -1)
    assert sum(layout.labels_of_each) == sum(int((item["labels"] != -100).sum()) for item in items)


def test_a_row_without_pairs_says_so() -> None:
    layout = PackedCollator(0, compares=True)([])["layout"]
    assert (layout.ranks, layout.labels_of_each) == ((0,), (0,))


# ------------------------------------------------------------------------------------------------------------- changes


@pytest.mark.parametrize(
    ("first", "second", "changed"),
    [
        ([7, 8, 4, 5, 6], [9, 4, 5, 6], ([0, 1], [0])),
        ([4, 5, 6, 7], [4, 5, 6], ([], [])),
        ([4, 5, 6], [9, 4, 5, 6], ([], [])),
        ([7, 4, 5, 8], [9, 4, 5, 3], ([0, 1, 2, 3], [0, 1, 2, 3])),
        ([4, 5, 6], [4, 5, 6], ([], [])),
    ],
    ids=["replaced", "left out", "inserted", "a common stretch of two is chance", "the same"],
)
def test_changed_tokens(first: list[int], second: list[int], changed: tuple[list[int], list[int]]) -> None:
    question = [1, 2, 3, 3]
    found = find_changes(question + first, question + second, len(question))
    assert tuple([place - len(question) for place in each] for each in found) == changed


def test_changed_tokens_weigh_more(tmp_path: Path) -> None:
    pair = record(tmp_path, chosen="There is a red car in the picture.", rejected="There is a blue dog in the picture.")
    (item,) = dataset("v2_6", pair, comparison=Comparison(kind="pair", segment_weight=5.0))
    weights = item["label_weights"]
    assert set(weights[item["labels"] != -100].tolist()) == {1.0, 5.0}
    assert not weights[item["labels"] == -100].any()
    (plain,) = dataset("v2_6", pair)
    assert "label_weights" not in plain
