"""An adapter is exported as the model that merging makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from minicpmv.cli.main import main
from minicpmv.export.gguf.export import export_gguf
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.exportable import write_exportable


# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_files_are_those_of_the_merged_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter, merged = (
        write_exportable(tmp_path / "base", "v2_6"),
        tmp_path / "tuned",
        tmp_path / "merged" / "tuned",
    )
    model: Any = MiniCPMVForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    wrapped: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["v_proj"], init_lora_weights=False))
    wrapped.save_pretrained(str(adapter))

    assert main(["export", str(adapter), "--output", str(tmp_path / "at_once")]) == 0
    shown = capsys.readouterr().out
    assert f"First merged into {base}" in shown
    assert main(["merge", str(adapter), str(merged), "--no-verify"]) == 0
    export_gguf(str(merged), tmp_path / "in_two_steps", run=False)
    export_gguf(str(base), tmp_path / "untuned", run=False)

    names = sorted(file.name for file in (tmp_path / "at_once").iterdir())
    assert names == ["mmproj-tuned-f32.gguf", "tuned-f32.gguf"], "and what it was merged in is gone"
    for name in names:
        assert (tmp_path / "at_once" / name).read_bytes() == (tmp_path / "in_two_steps" / name).read_bytes()
    untuned = (tmp_path / "untuned" / "base-f32.gguf").read_bytes()
    assert (tmp_path / "at_once" / "tuned-f32.gguf").read_bytes()[-len(untuned) // 2 :] != untuned[-len(untuned) // 2 :]
