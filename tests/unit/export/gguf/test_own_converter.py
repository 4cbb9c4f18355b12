"""Files that llama.cpp's own converter writes of 4.6: how it is started, and that a wrong one is never kept.

The converter here is a stub that copies files made by the test; ``tests/engines/test_own_converter.py`` runs the real
one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from minicpmv.cli.main import main
from minicpmv.errors import CheckpointError
from minicpmv.export.checkpoint import open_checkpoint
from minicpmv.export.gguf.export import export_gguf
from minicpmv.export.gguf.native_tensors import native_language_tensors, native_vision_tensors
from minicpmv.export.gguf.tensors import EngineTensor
from tests.exportable import write_exportable
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL = FIXTURES / "v4_6"

_STUB = """\
import json, pathlib, shutil, sys
KNOWN = ["MiniCPMV4_6ForConditionalGeneration"]
here, folder = pathlib.Path(__file__).parent, pathlib.Path(sys.argv[1])
called = {"options": sys.argv[4:], "files": sorted(file.name for file in folder.iterdir()),
          "template": (folder / "chat_template.jinja").read_text(encoding="utf-8")}
with (here / "calls.jsonl").open("a", encoding="utf-8") as file:
    file.write(json.dumps(called) + chr(10))
vision = "--mmproj" in sys.argv  # and --no-mtp, which a real one knows
shutil.copyfile(here / ("vision.gguf" if vision else "language.gguf"), sys.argv[3])
"""

_Spoil = Callable[[str, Any], Any]


def _write(file: Path, arch: str, tensors: list[EngineTensor], spoil: _Spoil) -> None:
    values = load_file(MODEL / "model.safetensors")
    writer = GGUFWriter(file, arch)
    for tensor in tensors:
        made = spoil(tensor.name, tensor.of(values[tensor.source].float().numpy()))
        if made is not None:
            writer.add_tensor(tensor.name, made)
    extra = spoil("extra", None)
    if extra is not None:
        writer.add_tensor("extra", extra)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _checkout(folder: Path, spoil: _Spoil = lambda name, made: made) -> Path:
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(_STUB, encoding="utf-8")
    checkpoint = open_checkpoint(str(MODEL))
    language = native_language_tensors(checkpoint.config, checkpoint.shapes, half=False)
    _write(folder / "language.gguf", "qwen35", language, spoil)
    _write(folder / "vision.gguf", "clip", native_vision_tensors(checkpoint.config, checkpoint.shapes), spoil)
    return folder


def _export(checkout: Path, output: Path, **more: Any) -> Any:
    return export_gguf(str(MODEL), output, kind="f32", llama_cpp=str(checkout), run=False, **more)


def test_both_files_are_converted_and_compared(tmp_path: Path) -> None:
    done = _export(_checkout(tmp_path / "llama.cpp"), tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["mmproj-v4_6-f32.gguf", "v4_6-f32.gguf"]
    assert max(done.errors.values()) < 1e-6
    assert len(GGUFReader(done.model).tensors) + len(GGUFReader(done.vision).tensors) == 130


def test_the_converter_gets_data_the_template_with_marks_and_no_code(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    (model / "tokenization_of_somebody.py").write_text("raise SystemExit('this was run')", encoding="utf-8")
    checkout = _checkout(tmp_path / "llama.cpp")
    export_gguf(str(model), tmp_path / "out", kind="f32", llama_cpp=str(checkout), run=False)
    language, vision = map(json.loads, (checkout / "calls.jsonl").read_text(encoding="utf-8").splitlines())
    assert language["options"] == ["--outtype", "f32", "--no-mtp"]
    assert vision["options"] == ["--outtype", "f32", "--mmproj"]
    assert "model.safetensors" in language["files"]
    assert not [name for name in language["files"] if name.endswith(".py")]
    assert "'<image_id>' ~ given.pictures" in language["template"]
    assert language["template"].endswith((MODEL / "chat_template.jinja").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (lambda name, made: made[::-1].copy() if name == "blk.1.attn_gate.weight" else made, "in_proj_z.weight: found"),
        (lambda name, made: made - 1 if name == "blk.0.attn_norm.weight" else made, "input_layernorm.weight: found"),
        (lambda name, made: None if name == "v.vit_merger.ds_ln.bias" else made, "ds_ln.bias: found no such tensor"),
        (
            lambda name, made: np.ones(3, np.float32) if name == "extra" else made,
            "tensors that are not the model's: extra; expected 55 tensors",
        ),
    ],
    ids=["rows", "a norm without its 1", "a missing tensor", "another tensor"],
)
def test_a_file_that_is_wrong_is_not_kept(spoilt: _Spoil, told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=told):
        _export(_checkout(tmp_path / "llama.cpp", spoilt), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_adapter_is_merged_before_it_is_converted(tmp_path: Path) -> None:
    """One that changes nothing yet, so that the stub's files are the merged model's."""
    base = AutoModelForImageTextToText.from_pretrained(MODEL)
    config = LoraConfig(target_modules=r"model\.language_model\.layers\.3\.self_attn\.q_proj", r=2)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "lora"))
    checkout = _checkout(tmp_path / "llama.cpp")
    done = export_gguf(str(tmp_path / "lora"), tmp_path / "out", kind="f32", llama_cpp=str(checkout), run=False)
    assert done.merged is not None
    assert done.merged.base == MODEL
    assert done.model.name == "lora-f32.gguf"
    assert max(done.errors.values()) < 1e-6


def test_with_4x_the_merger_inside_the_tower_is_left_out(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    for name in ("config.json", "preprocessor_config.json"):
        fields = json.loads((model / name).read_text(encoding="utf-8"))
        (model / name).write_text(json.dumps(fields | {"downsample_mode": "4x"}), encoding="utf-8")
    checkpoint = open_checkpoint(str(model))
    names = {tensor.name for tensor in native_vision_tensors(checkpoint.config, checkpoint.shapes)}
    assert not [name for name in names if "vit_merger" in name]
    assert len(names) == 59


def _refused(capsys: pytest.CaptureFixture[str], output: Path, model: Path, *more: str) -> str:
    assert main(["export", str(model), "--output", str(output), *more]) == 2
    assert not output.exists()
    return capsys.readouterr().err


def test_without_a_checkout_the_way_and_both_commands_are_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = _refused(capsys, tmp_path / "out", MODEL)
    assert "found openbmb/MiniCPM-V-4.6, expected --llama-cpp DIR with it" in told
    assert "git clone --depth 1 https://github.com/ggml-org/llama.cpp" in told
    for end in ("--outfile model.gguf --no-mtp`", "--outfile mmproj.gguf --mmproj`"):
        assert f"convert_hf_to_gguf.py {MODEL} --outtype f16 {end}" in told


def test_a_folder_without_the_converter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = _refused(capsys, tmp_path / "out", MODEL, "--llama_cpp", str(tmp_path))
    assert f"--llama-cpp {tmp_path}: found no convert_hf_to_gguf.py" in told


def test_a_converter_that_does_not_know_the_release(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    checkout = _checkout(tmp_path / "llama.cpp")
    told = _refused(capsys, tmp_path / "out", FIXTURES / "v4_7", "--llama-cpp", str(checkout))
    assert "found a converter without MiniCPMV4_7ForConditionalGeneration" in told
    assert "llama-cpp-python 0.3.36" in told


def test_a_package_of_models_next_to_the_script_is_searched_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkout = _checkout(tmp_path / "llama.cpp")
    (checkout / "conversion").mkdir()
    (checkout / "conversion" / "minicpm.py").write_text('"MiniCPMV4_7ForConditionalGeneration"', encoding="utf-8")
    words = ["export", str(FIXTURES / "v4_7"), "--output", str(tmp_path / "out")]
    assert main([*words, "--llama-cpp", str(checkout)]) == 2
    assert "without MiniCPMV4_7" not in capsys.readouterr().err


def test_a_release_that_is_written_here_takes_no_checkout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write_exportable(tmp_path / "tiny", "v2_6")
    told = _refused(capsys, tmp_path / "out", model, "--llama-cpp", str(tmp_path))
    assert "found openbmb/MiniCPM-V-2_6, expected 4.6 or later" in told


def test_a_converter_that_fails_is_quoted(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path / "llama.cpp")
    script = checkout / "convert_hf_to_gguf.py"
    script.write_text(_STUB + "print('BPE pre-tokenizer was not recognized')\nsys.exit(3)\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"found exit code 3(.|\n)*BPE pre-tokenizer was not recognized"):
        _export(checkout, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_types_that_the_converter_lacks_need_llama_quantize(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = _checkout(tmp_path / "llama.cpp")
    monkeypatch.setenv("PATH", "")
    told = _refused(capsys, tmp_path / "out", MODEL, "--llama-cpp", str(checkout), "--type", "q4_0")
    assert "choose one of f32, f16, bf16, q8_0, which need none" in told
