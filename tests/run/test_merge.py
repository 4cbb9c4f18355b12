"""``minicpmv merge``: the merged model is base and adapter, whatever kind the adapter is, and never half there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import minicpmv.export.merging.merge as merging
from minicpmv.cli.main import main
from minicpmv.export.merging.merged_tensors import MergedTensors
from minicpmv.export.merging.verification import find_samples
from minicpmv.files import disk_space as disk
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.models.checkpoints.reference import Reference, write_reference
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_NOT_RELEASED = shutil.ignore_patterns("cases*", "inference*", "grads*", "resampler_temporal*", "images")
_ALL_LINEAR = r"(llm\.model|vpm\.encoder)\.layers\.\d+\..*(_proj|fc1)"
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 12}},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
    "biases": {"bias": "lora_only"},
    "biases beside": {"bias": "all", "modules_to_save": ["resampler"]},
    "beside": {"modules_to_save": ["embed_tokens", "resampler", "lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "kv_proj"]},
}


def make_base(folder: Path, model: str = "v2_6") -> Path:
    shutil.copytree(FIXTURES / model, folder, ignore=_NOT_RELEASED)
    (folder / "modeling_minicpmv.py").write_text("raise RuntimeError('code of a checkpoint was run')\n")
    return folder


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_adapter(folder: Path, base: Path, *, strength: float = 0.1, **config: Any) -> Path:
    settings = {"r": 4, "target_modules": _ALL_LINEAR, "task_type": "CAUSAL_LM"} | config
    wrapped: Any = get_peft_model(load(base), LoraConfig(**settings))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(strength * torch.randn_like(parameter))
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter"), base, use_dora=True, modules_to_save=["resampler"])


@torch.no_grad()
def logits(model: Any, base: Path) -> Tensor:
    return model.eval()(**find_samples(base, base).inputs).logits


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_merged(base: Path, adapter: Path, out: Path) -> None:
    """Compare by the way users load them, in float32: sums in another order differ by 2e-6 of the largest logit."""
    expected = logits(attach_adapter(load(base), adapter), base)
    found = logits(load(out), base)
    torch.testing.assert_close(found, expected, atol=5e-6 * max(1.0, float(expected.abs().max())), rtol=0)
    assert (logits(load(base), base) - expected).abs().max() > 0.1, "the comparison above would otherwise show nothing"


@pytest.mark.parametrize(
    "variant",
    [name if name in ("lora", "beside") else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)
def test_merged_in_float32_is_base_with_adapter(variant: str, base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, **VARIANTS[variant])
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--dtype", "float32", "--no-verify"]) == 0
    check_merged(base, adapter, tmp_path / "out")


@pytest.mark.parametrize(
    "model", ["v2", *(pytest.param(model, marks=pytest.mark.slow) for model in VERSIONS if model not in ("v2", "v2_6"))]
)
def test_every_release_is_merged_into_its_own_layout(model: str, tmp_path: Path) -> None:
    """2.0's query, key and value are one matrix in its files, and three modules that carry LoRA."""
    base = make_base(tmp_path / "base", model)
    beside = ["resampler"] if model == "v2_5" else ["resampler", "patch_embedding"]
    adapter = make_adapter(tmp_path / "adapter", base, use_dora=True, modules_to_save=beside)
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--dtype", "float32"]) == 0
    check_merged(base, adapter, tmp_path / "out")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", base))
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_what_the_adapter_does_not_touch_is_copied_bit_for_bit(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(adapter), str(out), "--no-verify"]) == 0
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    same = {name for name in before if torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))}
    touched = {
        name for name in before if name.startswith("resampler.") or name.endswith(("_proj.weight", "fc1.weight"))
    }
    assert same == before.keys() - touched
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert names(out) == names(base) | {"merge.json"}
    rewritten = {"config.json", "generation_config.json"}
    for name in names(base) - {"model.safetensors"} - rewritten:
        assert (out / name).read_bytes() == (base / name).read_bytes(), name
    for name in rewritten:
        stated, before = (json.loads((folder / name).read_text()) for folder in (out, base))
        added = {"eos_token_id": [403, 401]} if name == "generation_config.json" else {}  # `generate` stops there too
        assert stated == before | added


def test_precision_holds_for_every_tensor_and_is_stated(base: Path, adapter: Path, tmp_path: Path) -> None:
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--dtype", "float16", "--no-verify"]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"


def test_shards_and_torch_files_are_read_and_written(base: Path, adapter: Path, tmp_path: Path) -> None:
    old = make_base(tmp_path / "old")
    (old / "model.safetensors").unlink()
    weights = load_file(base / "model.safetensors")
    halves = {"pytorch_model-1.bin": list(weights)[::2], "pytorch_model-2.bin": list(weights)[1::2]}
    for file, held in halves.items():
        torch.save({name: weights[name] for name in held}, old / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in halves.items() for name in held}}
    (old / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    arguments = ["merge", str(adapter), str(tmp_path / "out"), "--base", str(old), "--max-shard-size", "100KB"]
    assert main([*arguments, "--no-verify"]) == 0
    assert main(["merge", str(adapter), str(tmp_path / "whole"), "--no-verify"]) == 0
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 5
    parts = {name: tensor for file in shards for name, tensor in load_file(file).items()}
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    assert logits(load(tmp_path / "out"), base).isfinite().all()


@pytest.mark.slow
def test_a_process_that_knows_only_the_directory_answers_alike(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["merge", str(adapter), str(out)]) == 0
    code = f"""
import minicpmv, torch
from transformers import AutoModelForCausalLM, AutoProcessor
model = AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=False, dtype=torch.float32).eval()
processor = AutoProcessor.from_pretrained({str(out)!r}, trust_remote_code=False)
messages = [{{"role": "user", "content": [{{"type": "text", "text": "What is this?"}}]}}]
print(model.generate(**processor.apply_chat_template(messages), max_new_tokens=8, do_sample=False).tolist())
"""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    from minicpmv.processing.processor import MiniCPMVProcessor

    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}]}]
    inputs = MiniCPMVProcessor.from_pretrained(base).apply_chat_template(messages)
    wrapped: Any = attach_adapter(load(base), adapter).eval()
    assert json.loads(ran.stdout) == wrapped.generate(**inputs, max_new_tokens=8, do_sample=False).tolist()


# -------------------------------------------------------------------------------------------------------- verification


def test_the_records_that_the_run_has_stored_are_compared(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = shutil.copytree(adapter, tmp_path / "adapter")
    inputs = find_samples(base, base).inputs
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -3:] = inputs["input_ids"][:, -3:]
    reference = Reference(
        records=["a record"],
        loss=1.0,
        tolerance=1.0,
        reason="",
        dtypes=["float32"],
        autocast=None,
        in_four_bits=False,
        num_weights=1,
        tensors={},
        not_saved=[],
    )
    write_reference(stored, reference, {**inputs, "labels": labels})
    assert main(["merge", str(stored), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "Compared with base and adapter on 1 record stored by the run:" in said
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    in_float32, in_bfloat16 = record["agreements"]
    assert (in_float32["positions"], in_float32["dtype"], in_bfloat16["dtype"]) == (3, "float32", "bfloat16")
    assert 0 < in_float32["difference"] < 0.2 * in_float32["effect"]
    assert (record["base"], record["adapter"]) == (str(base), str(stored))
    assert not (tmp_path / "out" / "verification").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_base_with_adapter_is_not_saved(
    dtype: str,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here nothing is merged; what stood at the place stays."""
    monkeypatch.setattr(MergedTensors, "_is_touched", lambda self, own: False)
    (tmp_path / "out").mkdir()
    shutil.copy(FIXTURES / "v2_6" / "config.json", tmp_path / "out")  # or nothing would be replaced
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--dtype", dtype, "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert "found that logits differ by up to " in said
    assert "nothing is saved\n  fix: " in said
    assert [names(tmp_path), names(tmp_path / "out")] == [{"out"}, {"config.json"}]


def test_an_adapter_that_rounding_takes_away_is_refused_and_float32_keeps_it(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps far below bfloat16's at the base's weights."""
    adapter = make_adapter(tmp_path / "adapter", base, strength=1e-4)
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 2
    assert "half of the adapter's effect" in (said := capsys.readouterr().err)
    assert "fix: --dtype float32 rounds nothing off; --no-verify" in said
    assert names(tmp_path) == {"adapter"}
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--dtype", "float32"]) == 0


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_place_that_is_taken_is_left_alone_unless_asked(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "precious").mkdir(parents=True)
    (tmp_path / ".out.partial").mkdir()  # as a killed merge leaves it
    assert main(["merge", str(adapter), str(out), "--no-verify"]) == 2
    assert f"{out}: found files in it, expected a new or empty directory\n  fix: " in capsys.readouterr().err
    assert names(out) == {"precious"}
    (out / "precious" / "cat.png").touch()
    assert main(["merge", str(adapter), str(out), "--no-verify", "--overwrite"]) == 2
    assert "found 'precious/cat.png', which is no part of a model and would be lost" in capsys.readouterr().err
    (out / "precious" / "cat.png").unlink()
    assert main(["merge", str(adapter), str(out), "--no-verify", "--overwrite"]) == 0
    assert "merge.json" in names(out)
    assert "precious" not in names(out)
    assert names(tmp_path) == {"out"}


def test_nothing_is_merged_over_what_is_merged(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (base, adapter, base.parent):
        assert main(["merge", str(adapter), str(out), "--overwrite"]) == 2
        assert "there, expected a separate directory" in capsys.readouterr().err


def spoil(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    next(tensor for name, tensor in tensors.items() if "lora_B" in name)[0] = torch.nan
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil, "that are not finite when merged, expected finite ones"),
        (lambda adapter: (adapter / "adapter_config.json").unlink(), "found no adapter_config.json, expected"),
        (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "found no adapter_model.safetensors"),
    ],
)
def test_a_broken_adapter_is_named_and_nothing_is_left(
    damage, message: str, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(adapter, tmp_path / "broken")
    damage(broken)
    assert main(["merge", str(broken), str(tmp_path / "out"), "--no-verify"]) == 2
    assert message in capsys.readouterr().err
    assert names(tmp_path) == {"broken"}


@pytest.mark.parametrize(
    ("value", "message"), [(torch.nan, "that are not finite"), (1e30, "beyond the range of torch.float16")]
)
def test_a_base_that_is_not_finite_is_named_where_nothing_is_merged_as_well(
    value: float, message: str, adapter: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(base, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["llm.lm_head.weight"] = tensors["llm.lm_head.weight"].float()
    tensors["llm.lm_head.weight"][3, 4] = value
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    command = ["merge", str(adapter), str(tmp_path / "out"), "--no-verify", "--base", str(broken), "--dtype", "float16"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert f"error: {broken}: found values in llm.lm_head.weight {message}" in told
    assert names(tmp_path) == {"broken"}


def test_a_packed_base_and_one_that_is_not_there_are_refused(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = make_base(tmp_path / "packed")
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--base", str(packed)]) == 2
    assert "found quantized weights, expected unquantized ones to merge into" in capsys.readouterr().err
    assert main(["merge", str(adapter), str(tmp_path / "out"), "--base", "nobody/nothing"]) == 2
    assert "found neither a directory 'nobody/nothing' nor a copy of such a hub" in capsys.readouterr().err


def test_one_of_two_tied_weights_is_not_merged_into_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tied = make_base(tmp_path / "tied")
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(tied / "model.safetensors")
    del weights["llm.lm_head.weight"]
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    both = make_adapter(tmp_path / "both", tied, modules_to_save=["embed_tokens"])
    assert main(["merge", str(both), str(tmp_path / "out"), "--no-verify"]) == 2
    assert (
        "found llm.model.embed_tokens.weight trained apart from the weight that it is tied to"
        in capsys.readouterr().err
    )
    alone = make_adapter(tmp_path / "alone", tied)
    assert main(["merge", str(alone), str(tmp_path / "out"), "--dtype", "float32"]) == 0


def test_too_little_disk_or_memory_is_said_before_anything_is_merged(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MergedTensors, "read", lambda self, name: pytest.fail("merged"))
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        assert main(["merge", str(adapter), str(tmp_path / "out")]) == 2
        assert "found too little room, 1,000 bytes free there, expected " in (said := capsys.readouterr().err)
        assert "nothing was changed\n  fix: free space there, or name another place" in said
    monkeypatch.setattr(merging, "free_memory", lambda device: 1000)
    assert main(["merge", str(adapter), str(tmp_path / "out")]) == 2
    assert "found 1,000 bytes of memory free, expected " in (said := capsys.readouterr().err)
    assert "--no-verify, which needs only the memory of one layer" in said
    assert names(tmp_path) == set()
