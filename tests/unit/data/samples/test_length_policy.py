from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES, conversation, save_picture, weigh_record, write_data

LONG = "word " * 60 + "<box>1 2 3 4</box>" + " end" * 5


@cache
def processor_of(name: str) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / name)


def dataset_of(folder: Path, texts: tuple[str, ...], *, name: str = "v2_6", **settings: Any) -> ConversationDataset:
    save_picture(folder / "large.png", 112, 112)  # four tiles
    data = write_data(folder / "train.json", [{"image": "large.png", "conversations": conversation(*texts)}])
    return ConversationDataset(load_records(data), processor_of(name), **settings)


def ids_of(dataset: ConversationDataset) -> list[int]:
    return dataset[0]["input_ids"].tolist()


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("cut", [1, 2, 5, 40])
def test_a_cut_answer_is_the_beginning_of_the_record_with_one_slice(tmp_path: Path, name: str, cut: int) -> None:
    texts = ("What?", "So.", "And this?", LONG)
    whole = dataset_of(tmp_path, texts, name=name, max_length=2048, max_slice_nums=1)[0]
    limit = len(whole["input_ids"]) - cut
    dataset = dataset_of(tmp_path, texts, name=name, max_length=limit, truncate_answers=True)
    item, report = dataset[0], dataset.check_lengths()
    for key in ("input_ids", "labels", "image_mask"):
        assert item[key].tolist() == whole[key].tolist()[:limit]
    assert item["pixel_values"].equal(whole["pixel_values"])
    assert (report.num_cut, report.num_reduced, report.lengths.tolist()) == (1, 1, [limit])
    assert report.num_trained.tolist() == [int((item["labels"] != -100).sum())]
    assert item["labels"][-1] == item["input_ids"][-1]  # the record ends within what is trained


def test_slices_go_before_text(tmp_path: Path) -> None:
    texts = ("What?", LONG)
    fewest = len(ids_of(dataset_of(tmp_path, texts, max_length=2048, max_slice_nums=1)))
    dataset = dataset_of(tmp_path, texts, max_length=fewest, truncate_answers=True)
    assert (dataset.fit(0).max_slice_nums, dataset.fit(0).num_cut) == (1, 0)


def test_d201_where_only_more_than_the_last_answer_could_be_cut(tmp_path: Path) -> None:
    texts = ("What?", LONG, "And this?", "So.")
    whole = dataset_of(tmp_path, texts, max_length=2048, max_slice_nums=1)[0]
    trained = (whole["labels"] != -100).nonzero().flatten().tolist()
    last_answer = next(at for at in reversed(trained) if at - 1 not in trained)
    kept = dataset_of(tmp_path, texts, max_length=last_answer + 1, truncate_answers=True)
    assert len(ids_of(kept)) == last_answer + 1
    with pytest.raises(DataError, match="D201"):
        dataset_of(tmp_path, texts, max_length=last_answer, truncate_answers=True)[0]


def test_an_image_before_an_answer_that_is_not_trained_is_never_cut(tmp_path: Path) -> None:
    """What is cut is the last answer's end, whatever that answer weighs."""
    save_picture(tmp_path / "small.png", 40, 40)
    texts = conversation("What?", LONG, "<image>\nAnd this?", "So it is.")
    data = write_data(tmp_path / "train.json", [{"image": "small.png", "conversations": texts}])
    (record,) = load_records(data)

    def item_of(*weights: float, **settings: Any) -> dict[str, Any]:
        return ConversationDataset([weigh_record(record, *weights)], processor_of("v2_6"), **settings)[0]

    whole = item_of(1.0, 1.0, max_length=2048)
    last_image = int(whole["image_mask"].nonzero().max())
    start = next(at for at in range(last_image, len(whole["labels"])) if whole["labels"][at] != -100)
    kept = item_of(0.5, 0.0, max_length=start + 1, truncate_answers=True)
    assert kept["input_ids"].tolist() == whole["input_ids"][: start + 1].tolist()
    assert len(kept["label_weights"]) == start + 1
    assert kept["labels"][start] == -100
    with pytest.raises(DataError, match="D201"):
        item_of(1.0, 0.0, max_length=start, truncate_answers=True)


def test_tokens_of_an_answer_that_weighs_nothing_are_not_counted_as_trained(tmp_path: Path) -> None:
    data = write_data(tmp_path / "train.json", [{"conversations": conversation("What?", LONG, "And?", "So.")}])
    (record,) = load_records(data)
    counts = [
        ConversationDataset([weigh_record(record, *weights)], processor_of("v2_6"), max_length=2048)
        .check_lengths()
        .num_trained.tolist()
        for weights in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 3.0))
    ]
    assert counts[0] == counts[3]
    assert counts[0] == [counts[1][0] + counts[2][0]]


def test_d201_without_fewer_slices_where_they_are_not_allowed(tmp_path: Path) -> None:
    full = len(ids_of(dataset_of(tmp_path, ("What?", "So."), max_length=2048)))
    assert len(ids_of(dataset_of(tmp_path, ("What?", "So."), max_length=full, on_long_record="error"))) == full
    with pytest.raises(DataError) as caught:
        dataset_of(tmp_path, ("What?", "So."), max_length=full - 1, on_long_record="error").check_lengths()
    (problem,) = caught.value.problems
    assert problem.found == f"{full} tokens, 20 of them for images"
    assert (
        problem.fix
        == f"set --model_max_length to {full} or more, or allow fewer slices (--on_long_record fewer_slices)"
    )


def test_skipping_leaves_out_only_what_fewer_slices_do_not_help(tmp_path: Path) -> None:
    save_picture(tmp_path / "large.png", 112, 112)
    records = [
        {"id": name, "image": "large.png", "conversations": conversation("What?", answer)}
        for name, answer in (("a", "So."), ("b", LONG), ("c", "Yes."))
    ]
    data = load_records(write_data(tmp_path / "train.json", records))
    dataset = ConversationDataset(data, processor_of("v2_6"), max_length=40, on_long_record="skip")
    report = dataset.check_lengths()
    assert [record.id for record in dataset.records] == ["a", "c"]
    (name,) = report.left_out
    assert name.endswith("record 1 (id 'b')")
    assert [problem.code for problem in report.left_out[name]] == ["D201"]
    assert report.lengths.tolist() == [len(item["input_ids"]) for item in dataset]
    assert report.num_reduced == 2


def film_of(folder: Path, *, num_frames: int, name: str, **settings: Any) -> ConversationDataset:
    """One record with a film of that many frames, 0.5 seconds apart, and a text."""
    for number in range(num_frames):
        save_picture(folder / "film" / f"{number:02}.png", 60, 40, seed=number)
    record = {"video": {"video": "film", "fps": 2}, "conversations": conversation("<video>\nWhat?", "So.")}
    data = write_data(folder / "train.json", [record])
    return ConversationDataset(load_records(data), processor_of(name), **settings)


@pytest.mark.parametrize("name", ["v2_6", "v4_6"])
def test_films_show_as_many_frames_as_fit_evenly(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = film_of(tmp_path, num_frames=12, name=name, max_length=2048)
    num_tokens = len(ids_of(whole))
    per_frame = num_tokens - len(ids_of(film_of(tmp_path / "less", num_frames=11, name=name, max_length=2048)))
    dataset = film_of(tmp_path, num_frames=12, name=name, max_length=num_tokens - 2 * per_frame)
    fit, report = dataset.fit(0), dataset.check_lengths()
    assert (fit.max_frames, fit.group, fit.length, fit.wanted) == (10, 1, num_tokens - 2 * per_frame, num_tokens)
    assert (report.num_thinned, report.num_reduced, report.num_cut) == (1, 0, 0)
    assert report.num_patches.tolist() == [int(dataset[0]["tgt_sizes"].prod(dim=1).sum())]
    assert "1 of 1 records exceed" in caplog.text
    assert "show fewer frames of their films, taken evenly" in caplog.text
    assert "with at most 10 frames of each film" in caplog.text
    assert len(ids_of(dataset)) == fit.length
    smallest = film_of(tmp_path, num_frames=12, name=name, max_length=num_tokens - 11 * per_frame)
    assert smallest.fit(0).max_frames == 1
    with pytest.raises(DataError, match=r"\[D201\].*of them for films with one frame of each film"):
        film_of(tmp_path, num_frames=12, name=name, max_length=num_tokens - 12 * per_frame).fit(0)
    with pytest.raises(DataError, match=r"allow fewer slices and frames \(--on_long_record fewer_slices\)"):
        film_of(tmp_path, num_frames=12, name=name, max_length=num_tokens - 1, on_long_record="error").fit(0)


def test_groups_grow_before_less_than_half_of_the_frames_is_left(tmp_path: Path) -> None:
    whole = film_of(tmp_path, num_frames=12, name="v4_5", max_length=2048)
    num_tokens, fit = len(ids_of(whole)), whole.fit(0)
    assert (fit.max_frames, fit.group) == (0, 0)
    assert whole[0]["temporal_ids"].tolist() == [[1, 5 * number] for number in range(12)]
    per_block = num_tokens - len(ids_of(film_of(tmp_path / "less", num_frames=11, name="v4_5", max_length=2048)))
    fits = [
        film_of(tmp_path, num_frames=12, name="v4_5", max_length=num_tokens - gone * per_block).fit(0)
        for gone in (3, 6, 7, 9, 11)
    ]
    # Twelve blocks; then 9, 6, 5, 3 and 1 of them.
    assert [(fit.max_frames, fit.group) for fit in fits] == [(9, 1), (6, 1), (10, 2), (6, 2), (6, 6)]
    item = film_of(tmp_path, num_frames=12, name="v4_5", max_length=num_tokens - 11 * per_block)[0]
    assert item["temporal_ids"][:, 0].tolist() == [1, 0, 0, 0, 0, 0]
    assert int(item["image_mask"].sum()) == processor_of("v4_5").query_num


def test_settings_of_the_processor_choose_the_frames_where_a_record_does_not(tmp_path: Path) -> None:
    for number in range(6):
        save_picture(tmp_path / "film" / f"{number}.png", 90, 50, seed=number)
    texts = conversation("<video>\nWhat?", "So.")
    data = write_data(
        tmp_path / "train.json",
        [
            {"id": "0", "video": "film", "conversations": texts},
            {"id": "1", "video": {"video": "film", "max_frames": 5}, "conversations": texts},
        ],
    )
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6", max_frames=2, video_max_slice_nums=2)
    dataset = ConversationDataset(load_records(data), processor, max_length=2048)
    assert [len(item["tgt_sizes"]) for item in dataset] == [2 * 3, 5 * 3]
    processor.save_pretrained(tmp_path / "saved")
    again = MiniCPMVProcessor.from_pretrained(tmp_path / "saved").image_processor
    assert (again.max_frames, again.video_max_slice_nums, again.video_fps) == (2, 2, None)
