"""What is saved of 4.6 and 4.7 is the released layout: read back word for word, also by a process without us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from minicpmv.errors import CheckpointError
from minicpmv.models.skeleton import load_weights
from tests.parity.cases import FIXTURES
from tests.parity.native_cases import NATIVE, load_case, load_model, logits_without_us, native_inputs


def read(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", NATIVE)
def test_a_checkpoint_that_is_read_and_saved_is_the_same(version: str, tmp_path: Path) -> None:
    """Every field of the config, known or not, and every tensor in its precision."""
    load_weights(FIXTURES / version, dtype="auto").save_pretrained(tmp_path)
    assert read(tmp_path) == read(FIXTURES / version)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, FIXTURES / version))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("version", [NATIVE[0], *(pytest.param(each, marks=pytest.mark.slow) for each in NATIVE[1:])])
def test_what_is_saved_answers_alike_where_this_package_is_not(version: str, tmp_path: Path) -> None:
    model = load_model(version)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
        expected = model(**load_case(version, "image_tiled.16x").prompt).logits[0, -1]
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits_without_us(tmp_path / "saved", version), expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("version", NATIVE)
def test_auto_classes_give_the_release_and_take_both_kinds_of_arguments(version: str) -> None:
    case = load_case(version, "image_tiled.16x")
    for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        model: Any = auto_class.from_pretrained(FIXTURES / version, dtype=torch.float32).eval()
        with torch.no_grad():
            for given in (native_inputs(version), case.prompt):
                last = model(**given).logits[0, -1]
                torch.testing.assert_close(last, case.stored["prompt_last_logits"], atol=5e-5, rtol=0)


@pytest.mark.parametrize("version", NATIVE)
def test_a_change_is_written_and_nothing_else(version: str, tmp_path: Path) -> None:
    config: Any = AutoConfig.from_pretrained(FIXTURES / version, downsample_mode="4x")
    config.text_config.vocab_size = 500
    config.save_pretrained(tmp_path)
    before, after = read(FIXTURES / version), read(tmp_path)
    before["downsample_mode"] = "4x"
    before["text_config"]["vocab_size"] = 500
    assert after == before
    again: Any = AutoConfig.from_pretrained(tmp_path)
    assert again.minicpmv_version.name == config.minicpmv_version.name
    assert again.token_rule.side == 2


def test_wide_tensors_stay_wide_and_others_are_cast() -> None:
    for version, wide in (("v4_7", {".A_log", ".norm.weight"}), ("v4_6", set())):
        model = load_weights(FIXTURES / version, dtype=torch.bfloat16)
        found = {name.partition("linear_attn")[2] for name, p in model.named_parameters() if p.dtype == torch.float32}
        assert found == wide


def test_other_weights_are_refused_by_name_and_those_of_other_heads_are_carried(tmp_path: Path) -> None:
    tensors = load_file(FIXTURES / "v4_6" / "model.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (folder / name).write_bytes((FIXTURES / "v4_6" / name).read_bytes())
    carried = {"mtp.norm.weight": torch.ones(3)}
    save_file(tensors | carried, folder / "model.safetensors", metadata={"format": "pt"})
    load_weights(folder).save_pretrained(tmp_path / "saved")
    saved: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "saved").glob("*.safetensors"):
        saved |= load_file(file)
    assert saved.keys() == tensors.keys() | carried.keys()
    save_file(tensors | {"else.weight": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"else\.weight"):
        load_weights(folder)
