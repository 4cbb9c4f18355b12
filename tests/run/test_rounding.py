"""Full training of a half-precision base says what rounding kept, warns, and has two ways out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.training.run import main
from tests.run import engines
from tests.run.forked import run_command
from tests.run.training import flags, make_data, read_run
from tests.tiny import FIXTURES


def _half(folder: Path, dtype: str) -> Path:
    """Store the fixture in half precision."""
    base = shutil.copytree(FIXTURES / "v2_6", folder)
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
    return base


def _kept(output: Path) -> dict[str, float]:
    found = read_run(output).get("rounding", {}).get("parts", {})
    return {part: each["kept"] for part, each in found.items()}


@pytest.mark.usefixtures("prepared_interpreter")
@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
def test_share_that_rounding_keeps_is_told_and_stored(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = _half(tmp_path / "base", dtype)
    data = make_data(tmp_path)

    def train(name: str, *extra: str) -> dict[str, float]:
        common = ("--model_name_or_path", str(base), "--learning_rate", "1e-5", "--save_strategy", "no")
        assert main(flags(data, tmp_path / name, *common, *extra)) == 0
        return _kept(tmp_path / name)

    nearest = train("nearest", "--verify_saved", "true")
    told = capsys.readouterr().out
    assert f"Saved in {dtype}, and rounding keeps " in told
    assert f"language model {nearest['language model']:.1%}" in told
    assert nearest["language model"] < 0.9
    assert "less than 90% of" in told
    assert "--save_dtype float32 keeps all of it" in told
    verification = json.loads((tmp_path / "nearest" / "verification.json").read_text())
    assert {part: each["kept"] for part, each in verification["rounding"].items()} == nearest
    stochastic = train("stochastic", "--save_rounding", "stochastic")
    assert stochastic["language model"] == pytest.approx(1.0, abs=0.1)
    assert "left in" not in capsys.readouterr().out, "what is kept scatters about 1"
    assert train("whole", "--save_dtype", "float32") == {}
    assert "left in" not in capsys.readouterr().out
    saved = load_file(tmp_path / "stochastic" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {getattr(torch, dtype)}


@pytest.mark.usefixtures("prepared_interpreter")
def test_tied_weights_are_rounded_as_one(tmp_path: Path) -> None:
    """They stay one tensor, stored once as in the base; rounded apart they would be two, and no longer tied."""
    base = shutil.copytree(FIXTURES / "v2_6", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["llm.lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    extra = ("--save_dtype", "bfloat16", "--save_rounding", "stochastic", "--verify_saved", "true")
    named = ("--model_name_or_path", str(base), "--save_strategy", "no")
    assert main(flags(make_data(tmp_path), tmp_path / "out", *extra, *named, steps=1)) == 0
    found = json.loads((tmp_path / "out" / "verification.json").read_text())["tensors"]
    assert found["identical"] == found["saved"]
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize(
    "engine", ["", *(pytest.param(engine, marks=pytest.mark.slow) for engine in ("zero2", "zero3", "fsdp2"))]
)
def test_what_rounding_loses_is_no_fault_of_saving(engine: str, tmp_path: Path) -> None:
    """The unrounded weights have a loss that is lower by 0.048; of a longer run it may be by any amount."""
    extra = ("--learning_rate", "3e-4", "--verify_saved", "true", "--save_dtype", "bfloat16")
    switch = engines.switch(engine) if engine else ()
    arguments = flags(make_data(tmp_path), tmp_path / "out", *extra, *switch, steps=8)
    done = run_command(arguments, processes=2 if engine else None)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "verification.json").read_text())["loss"]["difference"] < 1e-4


@pytest.mark.parametrize("engine", [pytest.param(engine, marks=pytest.mark.slow) for engine in ("zero2", "zero3")])
def test_deepspeed_saves_its_float32_masters(engine: str, tmp_path: Path) -> None:
    """Its live weights are rounded already, and would seem to have lost nothing."""
    named = ("--model_name_or_path", str(_half(tmp_path / "base", "bfloat16")), "--learning_rate", "1e-5")
    common = (*named, "--bf16", "true", "--save_steps", "4", *engines.switch(engine))
    arguments, output = flags(make_data(tmp_path), tmp_path / "out", *common), tmp_path / "out"

    def save(*extra: str) -> tuple[str, dict[str, torch.Tensor]]:
        done = run_command([*arguments, *extra], processes=2, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout, load_file(output / "model.safetensors")

    told, nearest = save()
    assert "of the training is left in bfloat16" in told
    assert _kept(output)["language model"] < 0.9
    again = ("--resume_from_checkpoint", "true")  # from the last step: it trains no more
    told, whole = save(*again, "--save_dtype", "float32")
    assert _kept(output) == {}
    assert "left in" not in told
    assert all(torch.equal(whole[name].bfloat16(), nearest[name]) for name in whole)
    assert any(not torch.equal(whole[name], nearest[name].float()) for name in whole)
    told, scattered = save(*again, "--save_rounding", "stochastic", "--verify_saved", "true")
    assert {tensor.dtype for tensor in scattered.values()} == {torch.bfloat16}
    assert _kept(output)["language model"] == pytest.approx(1.0, abs=0.1)
    found = json.loads((output / "verification.json").read_text())
    assert (found["verdict"], found["tensors"]["identical"]) == ("verified", found["tensors"]["saved"])


@pytest.mark.parametrize("engine", ["zero2", pytest.param("zero3", marks=pytest.mark.slow)])
def test_adapter_of_deepspeed_is_saved_from_its_float32_masters(engine: str, tmp_path: Path) -> None:
    lora = ("--use_lora", "--lora_r", "4", "--bf16", "true", "--verify_saved", "true", *engines.switch(engine))
    done = run_command(flags(make_data(tmp_path), tmp_path / "out", *lora, steps=2), processes=2, timeout=240)
    assert done.returncode == 0, done.stderr
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(not torch.equal(saved[name], saved[name].bfloat16().float()) for name in saved if "lora_" in name)
    found = json.loads((tmp_path / "out" / "verification.json").read_text())
    assert found["tensors"]["identical"] == found["tensors"]["saved"]


def test_run_of_which_rounding_leaves_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, output = _half(tmp_path / "base", "bfloat16"), tmp_path / "out"
    common = ("--model_name_or_path", str(base), "--learning_rate", "1e-9", "--save_strategy", "no")
    arguments = flags(make_data(tmp_path), output, *common, "--tune_resampler", "false", "--tune_vision", "false")
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert (
        "error: Nothing of the training survives rounding to bfloat16: found shares of token embeddings 0.0%, "
        in told.err
    )
    assert "Saved" not in told.out
    assert not (output / "model.safetensors").exists()
    assert read_run(output)["status"] == "unchanged"
    again = (*arguments, "--resume_from_checkpoint", "true")
    assert main([*again, "--save_rounding", "stochastic"]) == 0
    assert abs(_kept(output)["language model"]) > 0.01, "all of it on average; of so little, scattered far"
    assert main([*again, "--save_dtype", "bfloat16"]) == 0, "who asks for it gets it"
    assert _kept(output)["language model"] < 0.01
    assert "of the training is left in bfloat16" in capsys.readouterr().out
