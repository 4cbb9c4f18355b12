"""Better and worse answers in the forms of other tools are one record; what cannot be read stays a named fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.sources.conversion import convert
from minicpmv.data.sources.loading import load_records
from minicpmv.errors import DataError
from tests.tiny import conversation, save_picture, write_data

ASKED = [{"role": "user", "content": "Why?"}]
SAID = {"role": "assistant", "content": "So."}
WORSE = {"role": "assistant", "content": "No."}
SHAREGPT = [{"from": "human", "value": "Why?"}]

FORMS: dict[str, dict[str, Any]] = {
    "ours": {"conversations": [*ASKED, SAID], "rejected": "No."},
    "RLHF-V": {"text": json.dumps({"question": "Why?", "chosen": "So.", "rejected": "No."}), "idx": 3},
    "RLAIF-V": {
        "ds_name": "a",
        "origin_dataset": "b",
        "image_path": "x/a.png",
        "image": "a.png",
        "question": "Why?",
        "chosen": "So.",
        "rejected": "No.",
    },
    "MMPR": {"question": "Why?", "chosen": "So.", "rejected": "No."},
    "LLaMA-Factory Alpaca": {"instruction": "Why?", "input": "", "chosen": "So.", "rejected": "No."},
    "LLaMA-Factory ShareGPT": {
        "conversations": SHAREGPT,
        "chosen": {"from": "gpt", "value": "So."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "ms-swift response": {"messages": [*ASKED, SAID], "rejected_response": "No."},
    "ms-swift turns": {"messages": [*ASKED, SAID], "rejected_response": [WORSE]},
    "ms-swift messages": {"messages": [*ASKED, SAID], "rejected_messages": [*ASKED, WORSE]},
    "TRL text": {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    "TRL explicit": {"prompt": ASKED, "chosen": [SAID], "rejected": [WORSE]},
    "TRL implicit": {"chosen": [*ASKED, SAID], "rejected": [*ASKED, WORSE]},
}


@pytest.mark.parametrize("form", FORMS)
def test_pair_of_every_form_is_one_record(tmp_path: Path, form: str) -> None:
    save_picture(tmp_path / "a.png")
    file = write_data(tmp_path / "pairs.json", [{"image": "a.png", **FORMS[form]}])
    (record,) = load_records(file)
    assert [(turn.role, turn.text) for turn in record.turns] == [("user", "Why?"), ("assistant", "So.")]
    assert [(turn.role, turn.text) for turn in record.rejected] == [("assistant", "No.")]
    assert len(record.images) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": [*ASKED, SAID], "label": False},
        {"messages": [*ASKED, SAID], "kto_tag": False},
        {"prompt": ASKED, "completion": [SAID], "label": False},
    ],
    ids=["ours, ms-swift", "LLaMA-Factory", "TRL"],
)
def test_judged_answer_of_every_form_is_one_record(tmp_path: Path, fields: dict[str, Any]) -> None:
    (record,) = load_records(write_data(tmp_path / "judged.json", [fields]))
    assert (record.turns[-1].text, record.desirable, record.rejected) == ("So.", False, ())


@pytest.mark.parametrize(
    ("fields", "code", "found"),
    [
        ({"question": "Why?", "chosen": "So.", "rejected": "So."}, "D180", "the same answer twice"),
        ({"question": "Why?", "chosen": "So.", "rejected": ""}, "D180", "nothing"),
        ({"prompt": ASKED, "chosen": [SAID], "rejected": [*ASKED]}, "D180", "the role 'user'"),
        (
            {"messages": [*ASKED, SAID], "rejected_response": "No.", "rejected_images": ["b.png"]},
            "D160",
            "rejected_images",
        ),
        (
            {"messages": [*ASKED, SAID], "rejected_messages": [*conversation("Else?", "No.")]},
            "D160",
            "rejected_messages",
        ),
        ({"chosen": [*ASKED, SAID], "rejected": [*conversation("Else?", "No.")]}, "", "one question"),
    ],
)
def test_what_is_no_pair_is_named(tmp_path: Path, fields: dict[str, Any], code: str, found: str) -> None:
    with pytest.raises(DataError) as caught:
        load_records(write_data(tmp_path / "pairs.json", [fields]))
    assert code in str(caught.value)
    assert found in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_converted_pair_is_the_same_record(tmp_path: Path, form: str) -> None:
    save_picture(tmp_path / "a.png")
    file, converted = write_data(tmp_path / "pairs.json", [FORMS[form]]), str(tmp_path / "converted.jsonl")
    convert([file], converted)
    (before,), (after,) = load_records(file), load_records(converted)
    assert (after.turns, after.rejected) == (before.turns, before.rejected)
    assert after.rejected


def test_converted_judgement_is_kept(tmp_path: Path) -> None:
    file = write_data(tmp_path / "judged.json", [{"messages": [*ASKED, SAID], "kto_tag": False}])
    convert([file], str(tmp_path / "converted.jsonl"))
    assert json.loads((tmp_path / "converted.jsonl").read_text())["label"] is False
