from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import minicpmv  # noqa: F401  registers the models
from minicpmv.errors import CheckpointError
from minicpmv.inference.loading import load_model
from minicpmv.models.adapters.attaching import attach_adapter
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_TARGET = r"(llm|vpm)\..*\.(q_proj|v_proj)"


def make_adapter(folder: Path, model: str = "v2_5") -> Path:
    base = AutoModelForCausalLM.from_pretrained(FIXTURES / model, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=_TARGET, modules_to_save=["resampler"])
    wrapped: Any = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "adapter")


def base(model: str = "v2_5") -> Any:
    return AutoModelForCausalLM.from_pretrained(FIXTURES / model, dtype=torch.float32)


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def test_adapter_on_its_own_base_is_loaded_whole(adapter: Path) -> None:
    wrapped = attach_adapter(base(), adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    live = {name.replace(".default", ""): tensor for name, tensor in wrapped.state_dict().items()}
    assert all(
        torch.equal(live[name.replace(".resampler.", ".resampler.modules_to_save.")], stored[name]) for name in stored
    )


@pytest.mark.parametrize("record", [True, False])
def test_adapter_of_another_release_is_refused_with_both_names(adapter: Path, record: bool) -> None:
    """Whether the run's own record lies beside it or not."""
    if record:
        edit(adapter / "run.json", base_model={"path": "/models/mine", "version": "2.5"})
        edit(adapter / "adapter_config.json", base_model_name_or_path=str(FIXTURES / "v2"))
    with pytest.raises(CheckpointError) as caught:
        attach_adapter(base("v2"), adapter)
    message = str(caught.value)
    where = "/models/mine" if record else str(FIXTURES / "v2_5")
    assert f"found an adapter of openbmb/MiniCPM-Llama3-V-2_5 ({where})" in message
    assert f"expected one of openbmb/MiniCPM-V-2 ({FIXTURES / 'v2'})" in message
    assert "fix: load it on the model that it was trained on" in message


def test_release_counts_even_where_every_shape_fits(adapter: Path) -> None:
    edit(adapter / "run.json", base_model={"path": "/models/mine", "version": "4.5"})
    with pytest.raises(CheckpointError, match=r"adapter of openbmb/MiniCPM-V-4_5 \(/models/mine\), expected one of"):
        attach_adapter(base(), adapter)


def test_opening_such_an_adapter_to_chat_fails_in_the_same_way(adapter: Path) -> None:
    edit(adapter / "run.json", base_model={"path": "/models/mine", "version": "2.5"})
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(FIXTURES / "v2"))
    with pytest.raises(
        CheckpointError, match=r"adapter of openbmb/MiniCPM-Llama3-V-2_5 \(/models/mine\), expected one of"
    ):
        load_model(adapter)


def test_tensors_of_another_size_are_named(adapter: Path) -> None:
    """Same release, other widths: nothing but the tensors can tell."""
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "layers.0.self_attn.q_proj.lora_A" in name or name.endswith("resampler.query"):
            tensors[name] = torch.cat([tensor, tensor], dim=-1).contiguous()
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as caught:
        attach_adapter(base(), adapter)
    assert re.search(
        r"llm\.model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight: found \[4, \d+\], expected a width of",
        str(caught.value),
    )
    assert re.search(r"resampler\.query: found \[\d+, \d+\], expected \[\d+, \d+\]", str(caught.value))


def test_layers_that_the_model_lacks_are_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.llm.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors[name.replace("layers.0", "layers.9")] = tensors[name].clone()
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"layers\.9\.self_attn\.q_proj\.lora_A\.weight: no such module"):
        attach_adapter(base(), adapter)


@pytest.mark.parametrize(
    "name",
    [
        "llm.model.layers.0.self_attn.q_proj.lora_B.weight",
        "vpm.encoder.layers.0.self_attn.v_proj.lora_A.weight",
        "resampler.query",
    ],
)
def test_deleted_tensor_is_reported(name: str, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[f"base_model.model.{name}"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=rf"expected 1 more for (.|\n)*{re.escape(name)}: missing"):
        attach_adapter(base(), adapter)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "found no adapter_model.safetensors"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("{"),
            "adapter_config.json: found no readable JSON",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"12345678"), "that cannot be read"),
        (
            lambda folder: edit(folder / "adapter_config.json", r=8),
            "found [4, 128], expected rank 8, as adapter_config.json says",
        ),
        (
            lambda folder: edit(folder / "adapter_config.json", target_modules="nothing"),
            "that PEFT cannot put on openbmb/MiniCPM-Llama3-V-2_5",
        ),
        (
            lambda folder: edit(folder / "adapter_config.json", init_lora_weights="pissa"),
            "LoRA that belongs to a changed base",
        ),
    ],
)
def test_damaged_adapter_is_explained(damage, message: str, adapter: Path) -> None:
    damage(adapter)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        attach_adapter(base(), adapter)


@pytest.mark.parametrize(
    ("target", "learns"), [(r"llm\..*\.q_proj", False), (r"vpm\..*\.q_proj", True)], ids=["frozen tower", "LoRA on it"]
)
def test_tower_is_run_backwards_only_if_something_learns_in_it(target: str, learns: bool) -> None:
    wrapped: Any = get_peft_model(base("v2_6"), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=target))
    model = wrapped.base_model.model
    if learns:  # the older kind of recomputation, which loses every gradient behind inputs that need none
        older_name = getattr(model, "gradient_checkpointing_enable", None)  # before transformers 5.23
        enable: Any = getattr(model, "activation_checkpointing_enable", older_name)
        enable({"use_reentrant": True})
    features = model.vpm.train()(torch.randn(6, 588), [(2, 3)], [1])
    assert features.requires_grad == learns
    if learns:
        features.square().sum().backward()
        matrices = [parameter for name, parameter in model.vpm.named_parameters() if "lora_B" in name]
        assert matrices
        assert all(matrix.grad.abs().max() > 0 for matrix in matrices)
