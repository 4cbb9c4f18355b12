"""``generate`` alone stops where ``chat`` does, whatever the released generation config lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, GenerationConfig

from minicpmv.models.answering.answers import end_token_ids
from minicpmv.models.checkpoints.companions import copy_companions
from minicpmv.models.checkpoints.end_tokens import complete_end_ids, find_end_ids
from minicpmv.releases.table import VERSIONS, detect_version
from tests.parity.cases import VERSIONS as FOLDERS
from tests.tiny import FIXTURES


def _version(folder: str) -> Any:
    return detect_version(json.loads((FIXTURES / folder / "config.json").read_text(encoding="utf-8")))


def _ends(folder: str) -> list[int]:
    return end_token_ids(AutoProcessor.from_pretrained(FIXTURES / folder).tokenizer, _version(folder))


ENDS = [
    (folder, token)
    for folder in FOLDERS
    for token in _version(folder).reading.terminators
    if token != "</s>" or folder == "v2"
]


@pytest.mark.parametrize(("folder", "token"), ENDS)
def test_a_model_that_says_an_end_token_stops_there(folder: str, token: str) -> None:
    """The head is made to say one token whatever was asked."""
    processor = AutoProcessor.from_pretrained(FIXTURES / folder)
    model: Any = AutoModelForCausalLM.from_pretrained(FIXTURES / folder, dtype=torch.float32).eval()
    said = processor.tokenizer.added_tokens_encoder[token]
    model.get_output_embeddings().register_forward_hook(lambda *given: _only(given[-1], said))
    inputs = processor.apply_chat_template([{"role": "user", "content": "Hi"}])
    generated = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == [said]


def _only(logits: torch.Tensor, token_id: int) -> torch.Tensor:
    return torch.full_like(logits, -100.0).index_fill(-1, torch.tensor([token_id]), 100.0)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tokenizer_s_files_name_the_ends_that_the_tokenizer_has(folder: str, tmp_path: Path) -> None:
    assert find_end_ids(FIXTURES / folder, _version(folder)) == _ends(folder)
    if folder != "v2":  # which has no tokenizer.json
        shutil.copyfile(FIXTURES / folder / "tokenizer.json", tmp_path / "tokenizer.json")
        assert find_end_ids(tmp_path, _version(folder)) == _ends(folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_saved_names_every_end(folder: str, tmp_path: Path) -> None:
    copy_companions(FIXTURES / folder, tmp_path, dtype=None)
    stated = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    before = json.loads((FIXTURES / folder / "generation_config.json").read_text(encoding="utf-8"))
    found = stated["eos_token_id"]
    assert set(_ends(folder)) <= {*found} if isinstance(found, list) else _ends(folder) == [found]
    assert stated | {"eos_token_id": 0} == before | {"eos_token_id": 0}


@pytest.mark.parametrize("folder", ["v2", "v4_5"])
def test_a_generation_config_that_lacks_nothing_stays_byte_for_byte(folder: str, tmp_path: Path) -> None:
    copy_companions(FIXTURES / folder, tmp_path, dtype=None)
    name = "generation_config.json"
    assert (tmp_path / name).read_bytes() == (FIXTURES / folder / name).read_bytes()


def test_a_generation_config_of_the_caller_s_is_left_alone() -> None:
    given = GenerationConfig(eos_token_id=7)
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / "v2_5", generation_config=given)
    assert model.generation_config.eos_token_id == 7


@pytest.mark.parametrize(
    ("stated", "ends", "completed"),
    [
        (None, [4, 5], [4, 5]),
        (5, [4, 5], [4, 5]),
        ([5, 4, 9], [4, 5], [5, 4, 9]),
        (9, [4], [4, 9]),
        (4, [4], 4),
        (4, [], 4),
    ],
)
def test_what_is_stated_is_kept(stated: Any, ends: list[int], completed: Any) -> None:
    assert complete_end_ids(stated, ends) == completed


def test_no_tokenizer_no_ends(tmp_path: Path) -> None:
    assert find_end_ids(tmp_path, VERSIONS["2.5"]) == []
