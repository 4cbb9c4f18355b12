"""The Auto classes load a released directory with this package's code and execute none that lies there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.parity.cases import FIXTURES, VERSIONS, load_case


def with_hostile_code(version: str, folder: Path) -> Path:
    """A copy in which every file that auto_map or transformers could ever import raises, and says so if it was run."""
    shutil.copytree(FIXTURES / version, folder)
    names = {"generate", "configuration_minicpm", "modeling_minicpmv", "__init__"}
    for file in folder.glob("*config.json"):
        entries = json.loads(file.read_text(encoding="utf-8")).get("auto_map", {}).values()
        classes = [name for entry in entries for name in ([entry] if isinstance(entry, str) else entry) if name]
        names |= {name.rpartition(".")[0] for name in classes}
    (folder / "custom_generate").mkdir()
    for place in (folder, folder / "custom_generate"):
        for name in names:
            told = f"open({str(folder / 'executed')!r}, 'a').write({name!r})\n"
            (place / f"{name}.py").write_text(f"{told}raise RuntimeError('executed')\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("version", "trust"),
    [
        ("v2", {}),
        ("v2_6", {"trust_remote_code": True}),
        *(
            pytest.param(version, {"trust_remote_code": trust}, marks=pytest.mark.slow)
            for version in VERSIONS
            for trust in (False, True)
        ),
    ],
)
def test_no_code_in_a_directory_is_executed(version: str, trust: dict, tmp_path: Path) -> None:
    folder = with_hostile_code(version, tmp_path / "model")
    assert type(AutoConfig.from_pretrained(folder, **trust)) is MiniCPMVConfig
    case = load_case(version, "two_images")
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        model: Any = auto_class.from_pretrained(folder, dtype=torch.float32, **trust)
        with torch.no_grad():
            logits = model(**case.inputs).logits[case.attention_mask]
        torch.testing.assert_close(logits, case.expected("logits"), atol=2e-5, rtol=0.0)
        generated = model.generate(**case.inputs, max_new_tokens=1, do_sample=False)
        assert generated.shape[1] == case.attention_mask.shape[1] + 1
        assert type(model) is MiniCPMVForConditionalGeneration
    assert not (folder / "executed").exists()
