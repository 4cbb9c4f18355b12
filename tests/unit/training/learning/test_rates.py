from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

import minicpmv  # noqa: F401  registers the models
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts, parts_of
from minicpmv.training.learning.rates import Rates, split_groups
from minicpmv.training.learning.switches import resolve_learning
from tests.parity.cases import VERSIONS
from tests.tiny import FIXTURES

# PEFT 0.21 asks transformers by an old name; may go with the PEFT release that asks by the new one.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_OWN = {"vision_lr": 1e-6, "resampler_lr": 2e-6, "embeddings_lr": 3e-6, "vision_weight_decay": 0.0}


def prepare(release: str = "v4_5", /, **fields: Any) -> tuple[Any, Any, Rates]:
    """Return a model, an optimizer as Trainer makes it, and the rates of the flags."""
    model: Any = AutoModelForCausalLM.from_pretrained(FIXTURES / release, dtype=torch.float32)
    run, _ = resolve_learning(RunArguments(**fields), model, given=fields.keys())
    if run.use_lora:
        model = add_lora(model, run, keep_dtype=False)
    else:
        choose_trained_parts(model, run)
    decaying: Any = Trainer.get_decay_parameter_names(None, model)  # type: ignore[arg-type]  needs no trainer
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        {"params": [parameter for name, parameter in trained.items() if (name in decaying) == decays], "own": decays}
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    rates = Rates.of_run(run, parts_of(model), learning_rate=1e-3, weight_decay=0.1)
    split_groups(optimizer, model, rates, decaying=decaying)
    return model, optimizer, rates


def found(model: Any, optimizer: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and decay by name; every trained parameter exactly once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [
        (names[id(parameter)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sorted(name for name, _ in pairs) == sorted(trained)
    return dict(pairs)


def test_each_part_has_its_own_rate() -> None:
    model, optimizer, _ = prepare(**_OWN)
    rates = {name: rate for name, (rate, _) in found(model, optimizer).items()}
    assert {rate for name, rate in rates.items() if name.startswith("vpm.")} == {1e-6}
    assert {rate for name, rate in rates.items() if name.startswith("resampler.")} == {2e-6}
    assert {rates["llm.model.embed_tokens.weight"], rates["llm.lm_head.weight"]} == {3e-6}
    assert {rate for name, rate in rates.items() if name.startswith("llm.model.layers")} == {1e-3}


def test_biases_and_norms_never_decay() -> None:
    model, optimizer, _ = prepare()
    for name, (_, decay) in found(model, optimizer).items():
        spared = name.endswith("bias") or "norm" in name or ".ln_" in name
        assert (decay == 0.0) == spared, name


@pytest.mark.parametrize("release", VERSIONS)
def test_no_norm_of_any_release_decays(release: str) -> None:
    """By their class, not by their name: transformers 4.44 let 2.6's decay and spared 2.5's."""
    model, optimizer, _ = prepare(release)
    decays = {name: decay for name, (_, decay) in found(model, optimizer).items()}
    norms = [
        f"{name}.{own}"
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
        for own, _ in module.named_parameters()
    ]
    assert any(name.startswith("llm.") for name in norms)
    assert {decays[name] for name in norms} == {0.0}
    assert 0.1 in decays.values()


def test_decay_of_one_part_can_be_its_own() -> None:
    model, optimizer, _ = prepare(**_OWN)
    decays = {name: decay for name, (_, decay) in found(model, optimizer).items()}
    assert {decay for name, decay in decays.items() if name.startswith("vpm.")} == {0.0}
    assert decays["resampler.query"] == 0.1


def test_lora_has_the_rate_of_its_part_or_its_own() -> None:
    target = "attention,vision-attention"
    model, optimizer, _ = prepare(
        use_lora=True, lora_target_modules=target, lora_lr=5e-4, vision_lr=1e-6, lora_weight_decay=0.0
    )
    rates = found(model, optimizer)
    assert {value for name, value in rates.items() if ".lora_" in name and ".llm." in name} == {(5e-4, 0.0)}
    assert {value for name, value in rates.items() if ".lora_" in name and ".vpm." in name} == {(1e-6, 0.0)}
    assert rates["base_model.model.resampler.modules_to_save.default.query"] == (1e-3, 0.1)


def test_settings_of_a_group_survive_its_splitting() -> None:
    _, optimizer, _ = prepare(**_OWN)
    assert all("own" in group and group["betas"] == (0.9, 0.999) for group in optimizer.param_groups)
    assert all(group["params"] for group in optimizer.param_groups)


def test_first_group_has_the_common_rate() -> None:
    """Trainer logs the rate of the first."""
    _, optimizer, _ = prepare(tune_llm=False, tune_embeddings=True, embeddings_lr=1e-6, vision_lr=1e-6)
    assert optimizer.param_groups[0]["lr"] == 1e-3
