from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.quantizers.quantizers_utils import should_convert_module

import minicpmv  # noqa: F401  registers the models
from minicpmv.errors import ConfigError
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import check_weights
from minicpmv.training.learning.lora import add_lora, quantization
from minicpmv.training.learning.parts import PartSummary, format_parts, summarise_parts
from minicpmv.training.learning.switches import resolve_learning
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(FIXTURES / "v2_6")


def how(model) -> dict[str, str]:
    return {row.part: row.how for row in summarise_parts(model)}


def settled(model, **fields) -> RunArguments:
    run, _ = resolve_learning(RunArguments(**fields), model, given=fields.keys())
    return run


def test_every_parameter_is_counted_once(model) -> None:
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.parameters for row in summarise_parts(model)) == total
    wrapped = add_lora(model, settled(model, use_lora=True), keep_dtype=False)
    assert sum(row.parameters for row in summarise_parts(wrapped)) == total
    learning = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    assert sum(row.trainable for row in summarise_parts(wrapped)) == learning


def test_lora_recipe(model) -> None:
    wrapped = add_lora(model, settled(model, use_lora=True, lora_r=8), keep_dtype=False)
    assert how(wrapped) == {
        "vision tower": "full",
        "resampler": "full",
        "token embeddings": "full",
        "output head": "frozen",
        "language model": "LoRA",
    }
    # 2 layers, 8 heads of 16 and 2 key-value heads: q and o are 128 x 128, k and v 32 x 128; rank 8.
    assert {row.part: row.trainable for row in summarise_parts(wrapped)}["language model"] == 2 * 8 * (4 * 128 + 320)


def test_no_norm_has_two_precisions_where_biases_are_trained_of_a_bfloat16_model() -> None:
    base = AutoModelForCausalLM.from_pretrained(FIXTURES / "v2_6", dtype=torch.bfloat16)
    run = settled(base, use_lora=True, lora_bias="all", lora_modules_to_save="none")
    wrapped = add_lora(base, run, keep_dtype=False)
    norms = [module for module in wrapped.modules() if isinstance(module, nn.LayerNorm)]
    assert {(norm.weight.dtype, norm.bias.dtype) for norm in norms} == {(torch.float32, torch.float32)}
    assert not any(norm.weight.requires_grad for norm in norms)
    kept = {name for name, tensor in wrapped.named_parameters() if tensor.dtype == torch.bfloat16}
    assert "base_model.model.vpm.encoder.layers.0.self_attn.k_proj.weight" in kept, "linear layers stay as they were"


@pytest.mark.parametrize(
    ("fixture", "kinds"),
    [
        ("v2_6", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"),
        ("v4_6", "q_proj k_proj v_proj o_proj in_proj_qkv in_proj_z out_proj gate_proj up_proj down_proj"),
        ("v4_7", "q_proj k_proj v_proj o_proj in_proj_qkv in_proj_z out_proj gate_proj up_proj down_proj"),
    ],
)
def test_four_bits_are_for_the_layers_of_the_language_model(fixture: str, kinds: str) -> None:
    """By transformers' own reading of the names, which packs whatever is not named to be left out."""
    skeleton: Any = build_skeleton(FIXTURES / fixture)
    network = skeleton.config.minicpmv_version.network
    left_out = quantization(torch.float32, network).llm_int8_skip_modules
    linear = [name for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)]
    packed = [name for name in linear if should_convert_module(name, left_out)]
    assert {name.rpartition(".")[2] for name in packed} == set(kinds.split())
    assert all(name.startswith(f"{network.parts.layers}.") for name in packed)


@pytest.mark.parametrize(
    ("config", "flags", "named"),
    [
        ({}, {"q_lora": True}, "--q_lora true: found no bitsandbytes"),
        ({"quantization_config": {"load_in_4bit": True}}, {}, "--model_name_or_path m"),
    ],
)
def test_missing_bitsandbytes_names_the_install_line(
    config: dict[str, Any], flags: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"{named}(.|\n)*install 'minicpmv-finetune\[qlora\]'"):
        check_weights(config, RunArguments(model_name_or_path="m", use_lora=True, **flags))


def test_biases_and_lora_in_one_part_are_told_apart(model) -> None:
    run = settled(
        model, use_lora=True, lora_bias="lora_only", lora_modules_to_save="none", lora_target_modules="q_proj"
    )
    rows = {
        row.part: row for row in summarise_parts(add_lora(model, run, keep_dtype=False), rates_of=lambda _: (1.0, 0.0))
    }
    assert rows["language model"].how == "LoRA + biases"
    assert rows["vision tower"].how == "frozen"
    assert rows["language model"].learning_rates == [1.0]
    assert rows["vision tower"].learning_rates == []


def test_rates_stand_in_the_table() -> None:
    rows = [PartSummary("language model", 20000, 500, "LoRA", [1e-4, 2e-5], [0.1])]
    assert format_parts(rows).splitlines() == [
        "part            parameters  trainable  share  how   learning rate  weight decay",
        "language model      20,000        500  2.50%  LoRA  0.0001, 2e-05  0.1",
        "all                 20,000        500  2.50%",
    ]


def test_table_reads_at_a_glance() -> None:
    rows = [PartSummary("vision tower", 1000, 1000, "full"), PartSummary("language model", 20000, 500, "LoRA")]
    assert format_parts(rows).splitlines() == [
        "part            parameters  trainable    share  how",
        "vision tower         1,000      1,000  100.00%  full",
        "language model      20,000        500    2.50%  LoRA",
        "all                 21,000      1,500    7.14%",
    ]
