"""4.7 with experts: LoRA on the tensors that hold them, proved, merged, and refused where PEFT cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.cli.main import main
from minicpmv.inference.loading import load_model
from minicpmv.training.run import main as train
from tests.experts import write_experts
from tests.parity.native_cases import last_logits
from tests.run.training import flags, make_data, run_here


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_experts(tmp_path_factory.mktemp("experts") / "base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def words(base: str, data: str, output: Path, target: str, *extra: str) -> list[str]:
    lora = ["--use_lora", "--lora_r", "4", "--lora_preset", "adapters_only", "--lora_target_modules", target]
    return flags(data, output, *lora, "--packing", "true", "--model_max_length", "256", *extra, model=base, steps=3)


@pytest.mark.parametrize(
    "target", [pytest.param(each, marks=pytest.mark.slow) for each in ("attention,experts", "experts")]
)
def test_an_adapter_on_experts_is_proved_and_merged(target: str, base: str, data: str, tmp_path: Path) -> None:
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    run_here(words(base, data, adapter, target, "--verify_saved", "true"))
    proof = json.loads((adapter / "verification.json").read_text(encoding="utf-8"))
    assert proof["verdict"] == "verified"
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert len(config["target_parameters"]) == 2 * 4
    assert main(["merge", str(adapter), str(merged), "--dtype", "float32"]) == 0
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (base, merged))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    experts = {name for name in before if ".mlp.experts." in name}
    assert len(moved & experts) > len(experts) / 2, "some experts are chosen for no token"
    assert all(".attn." in name or "_attn." in name for name in moved - experts)
    logits = [
        last_logits(load_model(folder, device="cpu", dtype=torch.float32).model, "v4_7")
        for folder in (base, adapter, merged)
    ]
    torch.testing.assert_close(logits[2], logits[1], atol=2e-5, rtol=0)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_zero_3_cannot_gather_what_peft_reads_and_says_so(
    base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(base, data, tmp_path / "output", "experts", "--use_cpu", "true", "--deepspeed", "zero3")
    assert train(arguments) == 2
    assert "--lora_target_modules experts: found ZeRO-3 and LoRA on experts" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("lora_dropout", "0.1"), ("use_dora", "true"), ("init_lora_weights", "pissa")]
)
def test_what_peft_cannot_do_on_experts_is_refused(
    flag: str, value: str, base: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(words(base, data, tmp_path / "output", "experts", f"--{flag}", value)) == 2
    assert f"--{flag} {value} --lora_target_modules experts: found both" in capsys.readouterr().err
