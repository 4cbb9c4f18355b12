"""Adapters in the layouts that other tools write; docs/merging.md says which versions of them were read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import minicpmv  # noqa: F401  registers the models
from minicpmv.errors import CheckpointError
from minicpmv.inference.loading import load_model
from minicpmv.models.adapters.attaching import attach_adapter
from minicpmv.training.flags.declared.learning import LearningArguments
from minicpmv.training.learning.switches import resolve_learning
from tests.tiny import FIXTURES, picture

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_OFFICIAL = r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


def base(model: str = "v2_6") -> Any:
    return AutoModelForCausalLM.from_pretrained(FIXTURES / model, dtype=torch.float32)


def noisy(wrapped: Any) -> Any:
    """Make everything that is trained differ from how it started."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return wrapped


def lora(folder: Path, model: Any, **config: Any) -> Any:
    """Train LoRA for a moment, as it were, and save it as PEFT does."""
    wrapped = noisy(get_peft_model(model, LoraConfig(r=4, **config)))
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return wrapped


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def trained_parts(model: Any, *beginnings: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        f"base_model.model.{name}": tensor + 0.1 * torch.randn_like(tensor)
        for name, tensor in model.state_dict().items()
        if name.startswith(beginnings)
    }


def live(wrapped: Any, name: str) -> Tensor:
    """The tensor of that bare name that a wrapped model reads, trained beside LoRA."""
    found = {
        key.removeprefix("base_model.model.").replace(".modules_to_save.default", ""): tensor
        for key, tensor in wrapped.state_dict().items()
        if ".modules_to_save." in key
    }
    return found[name]


def test_official_adapter_of_today(tmp_path: Path) -> None:
    """No task_type, and the parts that are trained whole copied into the adapter."""
    trained = lora(tmp_path, base(), target_modules=_OFFICIAL, modules_to_save=["embed_tokens", "resampler", "vpm"])
    wrapped = attach_adapter(base(), tmp_path)
    for name in ("resampler.query", "llm.model.embed_tokens.weight", "vpm.encoder.layers.0.mlp.fc1.bias"):
        assert torch.equal(live(wrapped, name), live(trained, name)), name


@pytest.mark.parametrize("file", ["vpm_resampler_embedtokens.pt", "vit.safetensors"])
def test_parts_that_lie_beside_lora_come_along(file: str, tmp_path: Path) -> None:
    """As the official scripts of 2024 wrote them, and ms-swift's lora_llm does: the config does not mention them."""
    model = base()
    lora(tmp_path, base(), target_modules=_OFFICIAL)
    parts = trained_parts(model, "vpm.", "resampler.", "llm.model.embed_tokens.")
    if file.endswith(".pt"):
        torch.save(parts, tmp_path / file)
    else:
        save_file(parts, tmp_path / file)
    wrapped = attach_adapter(model, tmp_path)
    for name, tensor in parts.items():
        assert torch.equal(live(wrapped, name.removeprefix("base_model.model.")), tensor), name
    run, _ = resolve_learning(LearningArguments(use_lora=True, lora_weight_path=str(tmp_path)), base(), given=set())
    assert (run.tune_vision, run.tune_resampler, run.tune_embeddings, run.tune_output_head) == (True, True, True, False)


def test_an_incomplete_part_beside_lora_is_refused(tmp_path: Path) -> None:
    lora(tmp_path, base(), target_modules=_OFFICIAL)
    parts = trained_parts(base(), "resampler.")
    del parts["base_model.model.resampler.query"]
    torch.save(parts, tmp_path / "vpm_resampler_embedtokens.pt")
    with pytest.raises(
        CheckpointError, match=r"expected 1 more for .*\n    base_model\.model\.resampler\.query: missing"
    ):
        attach_adapter(base(), tmp_path)


def test_a_tensor_beside_lora_of_no_such_part_is_named(tmp_path: Path) -> None:
    lora(tmp_path, base(), target_modules=_OFFICIAL)
    torch.save({"base_model.model.apm.conv1.weight": torch.zeros(2)}, tmp_path / "vpm_resampler_embedtokens.pt")
    with pytest.raises(CheckpointError, match=r"found apm\.conv1\.weight trained beside LoRA, expected tensors of vpm"):
        attach_adapter(base(), tmp_path)


def as_swift_s_own(folder: Path) -> None:
    """ms-swift's own tuner: no prefix, the adapter's name inside, and a config that says so."""
    file = folder / "adapter_model.safetensors"
    tensors = {
        re.sub(r"\.(lora_A|lora_B)\.", r".\1.default.", name.removeprefix("base_model.model.")).replace(
            "lora_magnitude_vector", "lora_magnitude_vector.default.weight"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file)
    edit(folder, swift_type="LORA", use_qa_lora=False, use_merged_linear=False, lora_dtype=None)


def as_llama_factory(folder: Path) -> None:
    """LLaMA-Factory lists every module by its full name."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in tensors if ".lora_" in name}
    edit(folder, target_modules=sorted(names))


def as_swift_s_peft(folder: Path) -> None:
    """ms-swift's default: PEFT's layout with an expression of its own and a second config."""
    edit(folder, target_modules=r"^(llm(?=\.).*\.(q_proj|k_proj|v_proj|o_proj))$")
    (folder / "additional_config.json").write_text('{"lora_dtype": null, "lorap_lr_ratio": null}')


@pytest.mark.parametrize("layout", [as_swift_s_own, as_swift_s_peft, as_llama_factory])
def test_lora_of_other_tools_is_the_same_lora(layout: Callable[[Path], None], tmp_path: Path) -> None:
    trained = lora(tmp_path, base(), target_modules=_OFFICIAL, use_dora=True)
    layout(tmp_path)
    wrapped = attach_adapter(base(), tmp_path)
    expected = {name: tensor for name, tensor in trained.state_dict().items() if ".lora_" in name}
    found = wrapped.state_dict()
    assert len(expected) == 24
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"peft_type": "VERA"}, "VERA"),
        ({"peft_type": "ADALORA"}, "ADALORA"),
        ({"swift_type": "LLAMAPRO"}, "LLAMAPRO"),
        ({"swift_type": "LORA", "use_merged_linear": True}, "LORA with use_merged_linear"),
    ],
)
def test_other_kinds_are_refused_by_name(changes: dict[str, Any], kind: str, tmp_path: Path) -> None:
    lora(tmp_path, base(), target_modules=_OFFICIAL)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=f"found an adapter of the kind {kind}, expected LORA\n  fix: merge it"):
        attach_adapter(base(), tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_4", "loftq", "lora-ga"])
def test_lora_that_belongs_to_a_changed_base_is_refused(start: str, tmp_path: Path) -> None:
    lora(tmp_path, base(), target_modules=_OFFICIAL)
    edit(tmp_path, init_lora_weights=start)
    with pytest.raises(CheckpointError, match=rf"changed base \(init_lora_weights {start}\)(.|\n)*pissa_convert"):
        attach_adapter(base(), tmp_path)


# -------------------------------------------------------------------------------------------------- MiniCPM-V-2's tower


class TimmTower(nn.Module):
    """The released tower's linear layers by their names."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for name in [name for name in weights if re.fullmatch(r"vpm\.blocks\..*\.(qkv|proj|fc1)\.weight", name)]:
            inner: nn.Module = self
            *path, last, _ = name.split(".")
            for part in path:
                if part not in inner._modules:
                    inner.add_module(part, nn.Module())
                inner = inner.get_submodule(part)
            linear = nn.Linear(*weights[name].shape[::-1], bias=False)
            linear.weight.data = weights[name].float()
            inner.add_module(last, linear)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_on_the_released_tower_of_2_reaches_query_key_and_value(dora: bool, tmp_path: Path) -> None:
    weights = load_file(FIXTURES / "v2" / "model.safetensors")
    trained = lora(tmp_path, TimmTower(weights), target_modules=r"vpm\..*\.(qkv|proj|fc1)", use_dora=dora)
    wrapped: Any = attach_adapter(base("v2"), tmp_path)
    theirs = trained.merge_and_unload().state_dict()
    ours = wrapped.merge_and_unload().state_dict()
    joined = torch.cat([ours[f"vpm.encoder.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"])
    torch.testing.assert_close(joined, theirs["vpm.blocks.0.attn.qkv.weight"], atol=1e-6, rtol=0)
    assert (joined - weights["vpm.blocks.0.attn.qkv.weight"].float()).abs().max() > 1e-3
    for theirs_name, ours_name in (("attn.proj", "self_attn.out_proj"), ("mlp.fc1", "mlp.fc1")):
        torch.testing.assert_close(
            ours[f"vpm.encoder.layers.1.{ours_name}.weight"],
            theirs[f"vpm.blocks.1.{theirs_name}.weight"],
            atol=1e-6,
            rtol=0,
        )


def test_the_whole_released_tower_of_2_beside_lora_comes_along(tmp_path: Path) -> None:
    lora(tmp_path, base("v2"), target_modules=_OFFICIAL)
    weights = load_file(FIXTURES / "v2" / "model.safetensors")
    torch.manual_seed(0)
    parts = {
        f"base_model.model.{name}": tensor.float() + 0.1 * torch.randn(tensor.shape)
        for name, tensor in weights.items()
        if name.startswith("vpm.")
    }
    torch.save(parts, tmp_path / "vpm_resampler_embedtokens.pt")
    wrapped = attach_adapter(base("v2"), tmp_path)
    joined = torch.cat([live(wrapped, f"vpm.encoder.layers.1.self_attn.{part}_proj.weight") for part in "qkv"])
    assert torch.equal(joined, parts["base_model.model.vpm.blocks.1.attn.qkv.weight"])
    table = live(wrapped, "vpm.embeddings.position_embedding.weight")
    assert torch.equal(table, parts["base_model.model.vpm.pos_embed"][0])


# --------------------------------------------------------------------------------------------------------- whole models


def model_without(name: str, folder: Path) -> Path:
    ignored = shutil.ignore_patterns(name, "cases*", "inference*", "grads*", "images")
    return shutil.copytree(FIXTURES / "v2_6", folder / "model", ignore=ignored)


def test_a_whole_model_saved_without_its_processor_loads(tmp_path: Path) -> None:
    """transformers' Trainer saves the tokenizer alone. Released configs leave out the usual resolution, 448."""
    folder = model_without("preprocessor_config.json", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["slice_config"]["scale_resolution"] = 56
    (folder / "config.json").write_text(json.dumps(config))
    messages = [{"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "Why?"}]}]
    made, known = (load_model(path).processor.apply_chat_template(messages) for path in (folder, FIXTURES / "v2_6"))
    assert made["input_ids"].tolist() == known["input_ids"].tolist()
    assert torch.equal(made["pixel_values"], known["pixel_values"])


def test_another_kind_of_model_is_refused_by_its_type(tmp_path: Path) -> None:
    folder = model_without("nothing", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "minicpmx"}))
    with pytest.raises(CheckpointError, match="found a model of the type 'minicpmx', expected a MiniCPM-V or"):
        load_model(folder)
