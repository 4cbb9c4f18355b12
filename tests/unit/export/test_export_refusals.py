"""What cannot be exported is named before anything is written; what went wrong while writing is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from safetensors.torch import load_file, save_file

from minicpmv.cli.main import main
from minicpmv.errors import CheckpointError
from minicpmv.export.gguf import files as gguf_files
from minicpmv.export.gguf.export import export_gguf
from minicpmv.export.gguf.types import ERROR_BOUNDS, NUMBER_FORMATS, tensor_type
from tests.exportable import write_exportable
from tests.tiny import FIXTURES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exportable(tmp_path_factory.mktemp("model") / "tiny", "v2_6")


def _with(model: Path, folder: Path, change: Any) -> str:
    """A copy of the model whose config was changed."""
    shutil.copytree(model, folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(fields)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return str(folder)


def _refused(capsys: pytest.CaptureFixture[str], model: str, output: Path, *more: str) -> str:
    assert main(["export", model, "--output", str(output), *more]) == 2
    assert not list(output.glob("*.gguf"))
    return capsys.readouterr().err


def test_2_0_which_the_engine_does_not_have(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = _refused(capsys, str(FIXTURES / "v2"), tmp_path / "out")
    assert "found openbmb/MiniCPM-V-2, expected one of version 2.5, 2.6, 4.0, 4.5" in told


def test_weights_that_are_not_finite(model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = Path(_with(model, tmp_path / "broken", lambda fields: None))
    tensors = load_file(broken / "model.safetensors")
    tensors["llm.model.norm.weight"][1] = float("inf")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    told = _refused(capsys, str(broken), tmp_path / "out")
    assert f"{broken} llm.model.norm.weight: found values that are not finite" in told


def test_a_table_of_another_size(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = _refused(capsys, str(FIXTURES / "v2_6"), tmp_path / "out")
    assert "found a position table of 10 x 10, expected 70 x 70" in told


def test_weights_that_do_not_fit_the_config(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    told = _refused(capsys, _with(model, tmp_path / "m", lambda fields: fields.update(query_num=5)), tmp_path / "out")
    assert "resampler.query: found [4, 128], expected [5, 128]" in told


def test_scaled_positions(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    other = _with(model, tmp_path / "m", lambda fields: fields.update(rope_scaling=scaling))
    assert "found rope_scaling of type 'linear', expected none" in _refused(capsys, other, tmp_path / "out")


def test_a_tokenizer_that_splits_otherwise(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    other = Path(_with(model, tmp_path / "m", lambda fields: None))
    content = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    (other / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert "found BPE with the pattern" in _refused(capsys, str(other), tmp_path / "out")


def test_an_adapter_of_2_0_is_not_even_merged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"base_model_name_or_path": str(FIXTURES / "v2")}
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    told = _refused(capsys, str(adapter), tmp_path / "out")
    assert "found openbmb/MiniCPM-V-2, expected one of version" in told


def test_k_quants_without_the_tool_that_writes_them(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    told = _refused(capsys, str(model), tmp_path / "out", "--type", "q4_k_m")
    assert not (tmp_path / "out").exists(), "said before anything is merged or written"
    assert "found no llama-quantize on PATH" in told
    assert "choose one of f32, f16, bf16, q8_0" in told


def test_a_tool_that_fails_is_quoted(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    tool = tmp_path / "llama-quantize"
    tool.write_text("#!/bin/sh\necho no such type: $3\nexit 3\n", encoding="utf-8")
    tool.chmod(0o755)
    told = _refused(capsys, str(model), tmp_path / "out", "--type", "q4_k_m", "--llama-quantize", str(tool))
    assert "found exit code 3" in told
    assert "no such type: Q4_K_M" in told


def test_values_at_a_wrong_place_are_found(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix is written with its rows in another order, which no shape shows."""
    write = gguf_files.quantize

    def turned(values: Any, kind: GGMLQuantizationType) -> Any:
        return write(np.ascontiguousarray(values[::-1]) if values.shape == (96, 48) else values, kind)

    monkeypatch.setattr(gguf_files, "quantize", turned)
    with pytest.raises(CheckpointError, match=r"mlp\.fc1\.weight: found values that differ by 1\.4 of their size"):
        export_gguf(str(model), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["q8_0", "q5_1", "q4_0"])
def test_rounding_stays_within_half_of_the_bound_and_is_not_zero(name: str, model: Path, tmp_path: Path) -> None:
    kind = NUMBER_FORMATS[name]
    done = export_gguf(str(model), tmp_path, kind=name, run=False)
    assert 0 < done.errors[kind] < ERROR_BOUNDS[kind] / 2
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(done.model).tensors}
    assert kinds["blk.0.attn_q.weight"] is kind
    assert kinds["token_embd.weight"] is GGMLQuantizationType.Q8_0
    assert kinds["blk.0.attn_norm.weight"] is GGMLQuantizationType.F32


def test_rows_that_fill_no_block_stay_float16() -> None:
    assert tensor_type("blk.0.ffn_down.weight", (8, 48), GGMLQuantizationType.Q8_0) is GGMLQuantizationType.F16


def test_what_was_written_is_said(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    assert main(["export", str(model), "--output", str(tmp_path / "out"), "--type", "f16"]) == 0
    told = capsys.readouterr()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"tiny-f16.gguf", "mmproj-tiny-f16.gguf"}
    assert "the likeliest token is the same at" in told.out
    assert "llama.cpp cuts up to 9 slices; this checkpoint was made for 4" in told.err


def test_files_are_replaced_where_that_is_asked_for_and_gguf_alone(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["export", str(model), "--output", str(tmp_path), "--type", "f16", "--no-logits"]
    language, vision = tmp_path / "tiny-f16.gguf", tmp_path / "mmproj-tiny-f16.gguf"
    vision.write_bytes(b"GGUF of another day")
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"{vision}: found a file that would be replaced, expected none of this name\n  fix: name" in told
    assert "--overwrite" in told
    assert [path.name for path in tmp_path.iterdir()] == [vision.name]
    assert vision.read_bytes() == b"GGUF of another day"

    assert main([*words, "--overwrite"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {language.name, vision.name}
    assert GGUFReader(vision).tensors

    written = vision.read_bytes()
    language.unlink()
    for make in (lambda: language.write_bytes(b"notes"), lambda: language.symlink_to("nowhere"), language.mkdir):
        make()
        capsys.readouterr()
        assert main([*words, "--overwrite"]) == 2
        assert f"{language}: found something other than a GGUF file" in capsys.readouterr().err
        assert vision.read_bytes() == written, "neither file is replaced without the other"
        language.rmdir() if language.is_dir() else language.unlink()
