from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

import minicpmv  # noqa: F401  registers the models
from minicpmv.errors import ConfigError, UsageError
from minicpmv.training.arguments import RunArguments
from minicpmv.training.lora import add_lora, modules_to_save, quantisation
from minicpmv.training.parts import PartSummary, choose_trained_parts, format_parts, summarise_parts
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(FIXTURES / "v2_6")


def how(model) -> dict[str, str]:
    return {row.part: row.how for row in summarise_parts(model)}


@pytest.mark.parametrize(
    ("tune_llm", "tune_vision", "frozen"),
    [
        (True, True, set()),
        (True, False, {"vision tower"}),
        (False, True, {"token embeddings", "output head", "language model"}),
        (False, False, {"vision tower", "token embeddings", "output head", "language model"}),
    ],
)
def test_flags_decide_what_learns(model, tune_llm: bool, tune_vision: bool, frozen: set[str]) -> None:
    choose_trained_parts(model, tune_llm=tune_llm, tune_vision=tune_vision)
    assert {part for part, kind in how(model).items() if kind == "frozen"} == frozen


def test_every_parameter_is_counted_once(model) -> None:
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.parameters for row in summarise_parts(model)) == total
    wrapped = add_lora(model, RunArguments(use_lora=True, tune_vision=True), keep_dtype=False)
    assert sum(row.parameters for row in summarise_parts(wrapped)) == total
    learning = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    assert sum(row.trainable for row in summarise_parts(wrapped)) == learning


def test_lora_recipe(model) -> None:
    wrapped = add_lora(model, RunArguments(use_lora=True, tune_vision=True, lora_r=8), keep_dtype=False)
    assert how(wrapped) == {
        "vision tower": "full",
        "resampler": "full",
        "token embeddings": "full",
        "output head": "frozen",
        "language model": "LoRA",
    }
    # 2 layers, 8 heads of 16 and 2 key-value heads: q and o are 128 x 128, k and v 32 x 128; rank 8.
    assert {row.part: row.trainable for row in summarise_parts(wrapped)}["language model"] == 2 * 8 * (4 * 128 + 320)


@pytest.mark.parametrize(
    ("target", "hits"),
    [
        (r"llm\..*layers\.1\.self_attn\.q_proj", 1),
        ("q_proj,v_proj", 4),  # those of the language model, although the tower has some, too
        ("all-linear", 14),
    ],
)
def test_targets_stay_inside_the_language_model(model, target: str, hits: int) -> None:
    wrapped = add_lora(model, RunArguments(use_lora=True, lora_target_modules=target), keep_dtype=False)
    names = [name for name, _ in wrapped.named_parameters() if "lora_A" in name]
    assert len(names) == hits
    assert all(".llm." in name for name in names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"lora_target_modules": r"language_model\..*q_proj"},
            "expected names like llm.model.layers.0.self_attn.q_proj",
        ),
        ({"lora_target_modules": "llm.("}, "no regular expression"),
        ({"lora_modules_to_save": "vit"}, "'vit', which names no module"),
        ({"lora_target_modules": r".*\.q_proj", "tune_vision": True}, "already trained fully"),
        ({"lora_weight_path": "nowhere"}, "found no adapter_config.json in 'nowhere'"),
    ],
)
def test_fault_in_the_targets_is_explained(model, fields, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        add_lora(model, RunArguments(use_lora=True, **fields), keep_dtype=False)


@pytest.mark.parametrize(
    ("written", "tune_vision", "names"),
    [
        (None, True, ["embed_tokens", "resampler", "vpm"]),
        (None, False, ["embed_tokens", "resampler"]),
        ("resampler, lm_head", False, ["resampler", "lm_head"]),
        ("none", False, []),
    ],
)
def test_modules_trained_beside_lora(written: str | None, tune_vision: bool, names: list[str]) -> None:
    run = RunArguments(use_lora=True, lora_modules_to_save=written, tune_vision=tune_vision)
    assert modules_to_save(run) == names


def test_missing_bitsandbytes_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        quantisation(torch.float32)


def test_table_reads_at_a_glance() -> None:
    rows = [PartSummary("vision tower", 1000, 1000, "full"), PartSummary("language model", 20000, 500, "LoRA")]
    assert format_parts(rows).splitlines() == [
        "part            parameters  trainable    share  how",
        "vision tower         1,000      1,000  100.00%  full",
        "language model      20,000        500    2.50%  LoRA",
        "all                 21,000      1,500    7.14%",
    ]
