from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.show.page import Header, render_page
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES, conversation, save_picture, weigh_record, write_data
from tests.unit.show.pages import ReadPage, read_page

SCRIPT = "<script>alert('x')</script> & \"<b>\" {{ 7 * 7 }}"


@cache
def processor_of(name: str) -> MiniCPMVProcessor:
    return MiniCPMVProcessor.from_pretrained(FIXTURES / name)


def dataset_of(folder: Path, records: list[dict[str, Any]], name: str, **limits: Any) -> ConversationDataset:
    save_picture(folder / "wide.png", 150, 80)
    save_picture(folder / "small.png", 30, 80, seed=1)
    return ConversationDataset(
        load_records(write_data(folder / "train.json", records)),
        processor_of(name),
        max_length=limits.pop("max_length", 2048),
        **limits,
    )


def page_of(dataset: ConversationDataset) -> str:
    return render_page(dataset, Header(data="train.json", model="model", num_records=len(dataset), choice=""))


def read(dataset: ConversationDataset) -> ReadPage:
    return read_page(page_of(dataset))


def mixed() -> list[dict[str, Any]]:
    return [
        {
            "id": "one",
            "image": "wide.png",
            "conversations": conversation("<image>\nWhat?", "A cat", "And?", "中文 🎉"),
        },
        {
            "id": "two",
            "image": ["wide.png", "small.png"],
            "conversations": conversation("<image>, <image>", "1\n\n2"),
        },
        {"conversations": conversation("Only  text\t\u200b", "<box>1 2</box> </s> <|im_end|>")},
    ]


@pytest.mark.parametrize("name", VERSIONS)
def test_a_page_holds_the_ids_and_labels_of_the_data_set(tmp_path: Path, name: str) -> None:
    dataset = dataset_of(tmp_path, mixed(), name)
    page = read(dataset)
    assert len(page.records) == 3
    for record, item in zip(page.records, dataset, strict=True):
        assert record.ids == item["input_ids"].tolist()
        assert record.labels == item["labels"].tolist()
        assert [kind == "image" for kind in record.kinds] == item["image_mask"].tolist()


def test_a_record_with_fewer_slices_is_shown_as_it_is_trained(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, mixed()[:1], "v2_6", max_length=70)
    wanted = len(dataset_of(tmp_path, mixed()[:1], "v2_6")[0]["input_ids"])
    page = read(dataset)
    assert page.records[0].ids == dataset[0]["input_ids"].tolist()
    assert len(page.records[0].ids) < wanted
    assert f"this record has {wanted} tokens, {wanted - 70} too many" in page.text


def test_a_record_that_does_not_fit_is_shown_with_the_error_of_training(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, mixed()[:1], "v2_6", max_length=20)
    with pytest.raises(DataError) as raised:
        dataset.check_lengths()
    page = read(dataset)
    assert str(raised.value) in page.text
    fewest = processor_of("v2_6").encode_text(dataset.records[0].turns, [(150, 80)], max_slice_nums=1)
    assert page.records[0].ids == fewest.input_ids


def test_an_image_that_broke_after_the_check_is_an_error(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, mixed(), "v2_6")
    (tmp_path / "wide.png").unlink()
    with pytest.raises(DataError, match="D202"):
        page_of(dataset)


def test_all_that_comes_from_the_data_is_text(tmp_path: Path) -> None:
    image = f"{SCRIPT.replace('/', '')}.png"
    save_picture(tmp_path / image, 150, 80)
    record = {"id": SCRIPT, "image": image, "conversations": conversation(f"<image>\n{SCRIPT}", SCRIPT)}
    page = page_of(dataset_of(tmp_path, [record], "v2_6"))
    assert page.count("<script") == 1, "our own, at the end of the page"
    assert "<b>" not in page.replace("<b>× 4</b>", "")
    read_back = read_page(page)
    assert read_back.text.count(SCRIPT) == 3, "heading, question and answer, as written"
    assert image in read_back.text


@pytest.mark.parametrize("name", ["v2", "v2_5", "v2_6", "v4_5"])
def test_colours_tell_the_format_from_the_data_and_both_from_what_is_trained(tmp_path: Path, name: str) -> None:
    record = {"conversations": conversation("Why?", "So.", "Sure?", "Yes.")}
    (read_record,) = read(dataset_of(tmp_path, [record], name)).records

    def text_of(kind: str) -> str:
        return "".join(text for text, own in zip(read_record.texts, read_record.kinds, strict=True) if own == kind)

    assert text_of("context") == "Why?Sure?"
    assert text_of("trained") == {
        "v2": "So.<Yes.</s>",  # between turns the end is learnt at the first token of what follows
        "v2_5": "So.<|eot_id|>Yes.<|eot_id|>",
    }.get(name, "So.<|im_end|>Yes.<|im_end|>")
    assert "Why" not in text_of("template")


@pytest.mark.parametrize("name", ["v2", "v2_5", "v2_6", "v4_5"])
def test_weights_are_those_of_training_and_an_answer_of_weight_zero_is_no_longer_green(
    tmp_path: Path, name: str
) -> None:
    record = {"conversations": conversation("Why?", "So.", "Sure?", "Yes.", "Fine?", "No.")}
    dataset = dataset_of(tmp_path, [record], name)
    dataset.records = [weigh_record(dataset.records[0], 0.5, 0.0, 1.0)]
    page, item = read(dataset), dataset[0]
    (shown,) = page.records
    assert shown.labels == item["labels"].tolist()
    of_labels = [
        (weight, expected)
        for weight, expected, label in zip(shown.weights, item["label_weights"].tolist(), shown.labels, strict=True)
        if label != -100
    ]
    assert {weight for weight, _ in of_labels} == {0.5, 1.0}
    assert all(weight == expected for weight, expected in of_labels)
    end = {"v2": "", "v2_5": "<|eot_id|>"}.get(name, "<|im_end|>")
    assert "".join(t for t, w in zip(shown.texts, shown.weights, strict=True) if w == 0) == f"Yes.{end}"
    silent = {kind for kind, weight in zip(shown.kinds, shown.weights, strict=True) if weight == 0}
    assert silent == ({"context", "template"} if end else {"context"})
    # In the conversation and in the tokens; the weight that stands in the legend as well is any.
    assert page.text.count("not trained (weight 0)") == 2
    assert page.text.count("weight 0.5") == 3
    assert "Nothing is trained" not in page.text


def test_a_page_of_answers_that_count_alike_says_nothing_of_weights(tmp_path: Path) -> None:
    text = read(dataset_of(tmp_path, mixed(), "v2_6")).text
    assert "weight 0" not in text
    assert "counts in the loss" not in text


def test_a_record_that_trains_nothing_says_so(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [{"conversations": conversation("Why?", "So.")}], "v2_6")
    dataset.records = [weigh_record(dataset.records[0], 0.0)]
    assert "Nothing is trained." in read(dataset).text


def test_the_instruction_that_the_format_adds_is_not_the_users(tmp_path: Path) -> None:
    (record,) = read(dataset_of(tmp_path, [{"conversations": conversation("Why?", "So.")}], "v2_6")).records
    before = record.texts[: record.kinds.index("context")]
    assert "You·are·a·helpful·assistant." in "".join(before)


def test_tokens_of_one_character_are_named_together(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [{"conversations": conversation("文", "🎉")}], "v2_6")
    page = page_of(dataset)
    assert page.count("<ruby>") == 2
    assert "<rt>文</rt>" in page
    assert "<rt>🎉</rt>" in page


@pytest.mark.parametrize("name", ["v2", "v2_6"])
def test_a_page_needs_nothing_beside_it(tmp_path: Path, name: str) -> None:
    page = read(dataset_of(tmp_path, mixed(), name))
    outside = [link[:60] for link in page.links if not link.startswith(("#", "data:image/"))]
    assert outside == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.anchors
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert "url(" not in page.style
    assert "@import" not in page.style
