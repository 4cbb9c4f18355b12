"""Full training of a half-precision base says what rounding kept, warns, and has two ways out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpmv.training.run import main
from tests.run.training import flags, make_data, read_run
from tests.tiny import FIXTURES


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_share_that_rounding_keeps_is_told_and_stored(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(FIXTURES / "v2_6", tmp_path / "base")
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
    data = make_data(tmp_path)

    def train(name: str, *extra: str) -> dict[str, float]:
        arguments = flags(data, tmp_path / name, "--learning_rate", "1e-5", "--save_strategy", "no", *extra)
        arguments[arguments.index("--model_name_or_path") + 1] = str(base)
        assert main(arguments) == 0
        found = read_run(tmp_path / name).get("rounding", {}).get("parts", {})
        return {part: each["kept"] for part, each in found.items()}

    nearest = train("nearest", "--prove_saved", "true")
    told = capsys.readouterr().out
    assert f"Saved in {dtype}, in which rounding keeps of what was learnt: " in told
    assert f"language model {nearest['language model']:.1%}" in told
    assert nearest["language model"] < 0.9
    assert "of what was learnt is left in" in told
    assert "--save_dtype float32 keeps all of it" in told
    proof = json.loads((tmp_path / "nearest" / "proof.json").read_text())
    assert {part: each["kept"] for part, each in proof["rounding"].items()} == nearest
    stochastic = train("stochastic", "--save_rounding", "stochastic")
    assert stochastic["language model"] == pytest.approx(1.0, abs=0.1)
    assert "left in" not in capsys.readouterr().out, "what is kept scatters about 1"
    assert train("whole", "--save_dtype", "float32") == {}
    assert "left in" not in capsys.readouterr().out
    saved = load_file(tmp_path / "stochastic" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {getattr(torch, dtype)}


def test_tied_weights_are_rounded_as_one(tmp_path: Path) -> None:
    """They stay one tensor, stored once as in the base; rounded apart they would be two, and no longer tied."""
    base = shutil.copytree(FIXTURES / "v2_6", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors["llm.lm_head.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    extra = ("--save_dtype", "bfloat16", "--save_rounding", "stochastic", "--prove_saved", "true")
    arguments = flags(make_data(tmp_path), tmp_path / "out", *extra, "--save_strategy", "no", steps=1)
    arguments[arguments.index("--model_name_or_path") + 1] = str(base)
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out" / "proof.json").read_text())["tensors"]
    assert found["identical"] == found["saved"]
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == tensors.keys()
