"""What a finished run leaves works: by the seeds' snippet, by plain loading, in a directory of the released layout."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoProcessor

from minicpmv.data.samples.collation import Collator
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.start import learner
from tests.omni import write_omni
from tests.parity.cases import VERSIONS
from tests.run.training import flags, make_data, read_run, run_here
from tests.tiny import FIXTURES

_NOT_RELEASED = shutil.ignore_patterns("cases*", "inference*", "grads*", "resampler_temporal*", "images")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def _batch(data: str, model: str) -> dict[str, Tensor]:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / model)
    dataset = ConversationDataset(load_records(data), processor, max_length=2048)
    batch = Collator(0)([dataset[0], dataset[1]])
    return {name: value for name, value in batch.items() if name != "labels"}


@dataclass(frozen=True)
class Adapter:
    """What a LoRA run left, and the model as it was when training ended."""

    model: str
    """Its base: a folder of the fixtures, or a path."""
    path: Path
    logits: Tensor


_REPEATED = ("v2_5", "v4", "v4_5")
"""Save as 2.6 does, whose layout they have."""
_VERSIONS = [pytest.param(model, marks=pytest.mark.slow if model in _REPEATED else ()) for model in VERSIONS]


@pytest.fixture(scope="module", params=[*_VERSIONS, "v4_6", "o-4.5"])
def adapter(request: pytest.FixtureRequest, data: str, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    output = tmp_path_factory.mktemp("adapter")
    model: str = request.param
    if model.startswith("o-"):
        model = str(write_omni(tmp_path_factory.mktemp("omni") / "base", model))
    live: list[Any] = []
    original = learner.add_lora

    def remember(*args: Any, **kwargs: Any) -> PeftModel:
        live.append(original(*args, **kwargs))
        return live[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "add_lora", remember)
        # The live model that is compared with would answer under autocast: off by 0.12 where 2e-5 is asked.
        run_here(flags(data, output, "--use_lora", "--bf16", "false", model=model))
    with torch.no_grad():
        logits = live[0].eval()(**_batch(data, model)).logits
    return Adapter(model, output, logits)


def test_snippet_of_the_official_readme(adapter: Adapter, data: str) -> None:
    path_to_adapter, trained, batch = adapter.path, adapter.logits, _batch(data, adapter.model)
    model = AutoPeftModelForCausalLM.from_pretrained(
        path_to_adapter, device_map="auto", trust_remote_code=True, dtype=torch.float32
    ).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        logits = model(**batch).logits
    written = model.generate(**batch, max_new_tokens=8, do_sample=False)
    weights = torch.load(f"{path_to_adapter}/vpm_resampler_embedtokens.pt")
    message = model.load_state_dict(weights, strict=False)
    assert message.unexpected_keys == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.generate(**batch, max_new_tokens=8, do_sample=False), written)
    torch.testing.assert_close(logits, trained, atol=2e-5, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(FIXTURES / adapter.model, dtype=torch.float32).eval()
    with torch.no_grad():
        untrained = base(**batch).logits
    assert (untrained - trained).abs().max() > 0.01, "the comparison above would otherwise show nothing"


def test_weights_file_holds_what_was_trained_outside_lora(adapter: Adapter) -> None:
    weights = torch.load(adapter.path / "vpm_resampler_embedtokens.pt")
    parts = {name.removeprefix("base_model.model.").split(".modules_to_save.")[0] for name in weights}
    if adapter.model == "v4_6":  # its embeddings are its head as well
        assert parts == {"model.merger", "model.vision_tower"}
        return
    assert parts == {"llm.model.embed_tokens", "resampler", "vpm"}
    assert "base_model.model.resampler.modules_to_save.default.query" in weights
    assert not any("lora_" in name for name in weights)


def test_adapter_directory_names_its_base_and_needs_no_pickle(adapter: Adapter) -> None:
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((FIXTURES / adapter.model).resolve())
    assert config["task_type"] == "CAUSAL_LM"
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (64, 64, 0.05)
    names = {path.name for path in adapter.path.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
        "checkpoint-4",
        "log.jsonl",
        "run.json",
        "run.yaml",
        "vpm_resampler_embedtokens.pt",
    }


def test_vision_tower_stays_out_of_the_adapter_unless_tuned(data: str, tmp_path: Path) -> None:
    run_here(flags(data, tmp_path, "--use_lora", "--tune_vision", "false", "--lora_r", "4", steps=1))
    weights = torch.load(tmp_path / "vpm_resampler_embedtokens.pt")
    assert not any(".vpm." in name for name in weights)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert not any(".vpm." in name for name in file.keys())  # noqa: SIM118  it is no dict


@pytest.mark.parametrize("model", _VERSIONS)
def test_full_checkpoint_is_complete_in_the_released_layout(model: str, data: str, tmp_path: Path) -> None:
    base, output = tmp_path / "base", tmp_path / "output"
    shutil.copytree(FIXTURES / model, base, ignore=_NOT_RELEASED)
    (base / "modeling_minicpmv.py").write_text("raise RuntimeError('code of a checkpoint was run')\n")
    # A rate at which even a norm's weight moves by more than half a step of the checkpoint's bfloat16.
    arguments = flags(data, output, "--save_strategy", "no", "--learning_rate", "3e-2", steps=2)
    run_here([*arguments, "--model_name_or_path", str(base)])

    rewritten = {"config.json", "generation_config.json", "model.safetensors"}
    for path in base.iterdir():
        assert (output / path.name).is_file()
        if path.name not in rewritten:
            assert _digest(output / path.name) == _digest(path)
    assert json.loads((output / "config.json").read_text()) == json.loads((base / "config.json").read_text())
    before, after = (json.loads((path / "generation_config.json").read_text()) for path in (base, output))
    assert after | {"eos_token_id": before["eos_token_id"]} == before, "end tokens are added, and nothing else"
    with safe_open(base / "model.safetensors", "pt") as old, safe_open(output / "model.safetensors", "pt") as new:
        assert set(new.keys()) == set(old.keys())
        changed = 0
        for name in old.keys():  # noqa: SIM118  it is no dict
            assert new.get_tensor(name).dtype == old.get_tensor(name).dtype
            assert new.get_tensor(name).shape == old.get_tensor(name).shape
            changed += not torch.equal(new.get_tensor(name), old.get_tensor(name))
    fixed = {"resampler.pos_embed"} if model == "v2" else set()
    assert changed == len(set(_names(base)) - fixed)
    AutoModelForCausalLM.from_pretrained(output)
    AutoProcessor.from_pretrained(output)


def test_save_dtype_keeps_full_precision(data: str, tmp_path: Path) -> None:
    run_here(flags(data, tmp_path, "--save_dtype", "float32", steps=1))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.get_tensor("resampler.query").dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "float32"


def test_only_chosen_parts_change(data: str, tmp_path: Path) -> None:
    run_here(flags(data, tmp_path, "--tune_vision", "false", "--tune_llm", "false", steps=1))
    old, new = (load_file(folder / "model.safetensors") for folder in (FIXTURES / "v2_6", tmp_path))
    names = [name for name in old if not torch.equal(old[name], new[name])]
    assert names
    assert all(name.startswith("resampler.") for name in names)


def test_last_line_is_a_command_for_one_of_the_pictures(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(flags(data, tmp_path / "my output", "--use_lora", "--lora_r", "4", steps=1))
    words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    picture = str(Path(data).parent / "0.png")
    assert words == ["minicpmv", "chat", str(tmp_path / "my output"), "--image", picture, "What's this?"]


def test_run_json_says_what_was_run(adapter: Adapter, data: str) -> None:
    run = read_run(adapter.path)
    assert run["status"] == "finished"
    assert run["seed"] == 42
    assert run["data"] == [{"path": data, "sha256": _digest(Path(data))}]
    versions = {"v2": "2.0", "v2_5": "2.5", "v2_6": "2.6", "v4": "4.0", "v4_5": "4.5", "v4_6": "4.6"}
    assert run["base_model"]["version"] == versions.get(adapter.model, "o-4.5")
    assert run["versions"].keys() >= {"minicpmv-finetune", "torch", "transformers", "peft"}
    assert run["metrics"]["train_loss"] > 0
    assert run["training_arguments"]["learning_rate"] == 1e-3
    assert all(entry["tokens_per_second"] > 0 for entry in run["log"] if "loss" in entry)


def _names(checkpoint: Path) -> list[str]:
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        return list(file.keys())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
