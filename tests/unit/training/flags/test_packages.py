from __future__ import annotations

from typing import Any

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from minicpmv.errors import ConfigError, UsageError
from minicpmv.training.flags.catalogue import all_settings
from minicpmv.training.flags.packages import check_optimizer, refuse_unreleasable, resolve_trackers

_OWN_BLOCK = {"optimizer": {"type": "AdamW"}}
_OFFLOAD = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_optimizers_of_torch_and_transformers_need_no_package(name: str) -> None:
    check_optimizer({"optim": name}, given={"optim"})


@pytest.mark.usefixtures("nothing_installed")
def test_every_other_optimizer_is_refused_or_names_its_package() -> None:
    alone = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    for name in OptimizerNames:
        if name.value not in alone:
            with pytest.raises((ConfigError, UsageError), match=f"--optim:? .*{name.value}"):
                check_optimizer({"optim": name, "optim_target_modules": "all-linear"}, given={"optim"})


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("adamw_bnb_8bit", "pip install bitsandbytes"),
        ("paged_ademamix_8bit", "pip install bitsandbytes"),
        ("rmsprop_bnb_8bit", "pip install bitsandbytes"),
        ("adamw_torch_8bit", "pip install torchao"),
        ("galore_adamw_8bit", "pip install galore-torch bitsandbytes"),
        ("apollo_adamw", "pip install apollo-torch"),
        ("stable_adamw", "pip install torch-optimi"),
    ],
)
def test_missing_package_comes_with_its_install_line(name: str, command: str) -> None:
    with pytest.raises(ConfigError, match=f"fix: .* -m {command}, or"):
        check_optimizer({"optim": name}, given={"optim"})


def test_refused_optimizers_are_those_that_are_neither_listed_nor_suggested() -> None:
    for name in all_settings()["optim"].kind.refused:
        with pytest.raises(UsageError, match=rf"^--optim: found '{name}', expected another optimizer"):
            check_optimizer({"optim": name}, given={"optim"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": "lomo"}, "--optim: found 'lomo'"),
        ({"optim": "galore_adamw_layerwise"}, "inside the backward pass"),
        ({"optim": "schedule_free_sgd"}, "averaged before each saving"),
        ({"optim": "sgd", "optim_target_modules": "all-linear"}, "^--optim_target_modules --optim sgd: found both"),
        ({"optim_args": "momentum=0.9"}, "^--optim_args --optim adamw_torch_fused: found both"),
        (
            {"optim": "adafactor", "deepspeed": {"zero_optimization": {"stage": 2}}},
            "^--optim adafactor --deepspeed: found both",
        ),
        (
            {"optim": "sgd", "deepspeed": _OFFLOAD},
            "^--optim sgd --deepspeed: found both, expected adagrad or adamw_torch",
        ),
        ({"optim": "adafactor", "fsdp": True}, "expected adagrad or adamw_torch"),
        ({"optim": "sgd", "deepspeed": _OWN_BLOCK}, "^--optim --deepspeed: found both"),
    ],
)
def test_fault_in_the_optimizer_is_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_optimizer(settings, given=settings.keys())


@pytest.mark.parametrize(
    ("settings", "num_processes", "message"),
    [
        ({"gradient_accumulation_steps": 2}, 1, "--gradient_accumulation_steps 2 .* accumulated gradients are kept"),
        ({"max_grad_norm": 0.5}, 1, "--max_grad_norm 0.5 .* clipping takes the norm of all gradients"),
        ({"fp16": True}, 1, "--fp16 true .* loss scaling"),
        ({"deepspeed": "zero2"}, 1, "--deepspeed .* buckets of its own"),
        ({"fsdp": True}, 2, "--fsdp true"),
        ({}, 2, "(?s)--num_processes 2 .*fix: .* --num_processes 1"),
        ({"optim": "apollo_adamw"}, 1, "(?s)--optim apollo_adamw .*fix: .*adamw_torch_fused"),
        ({"optim": "adamw_torch_8bit"}, 1, "--optim adamw_torch_8bit .* it was not tried"),  # torchao's, not torch's
    ],
)
def test_what_needs_all_gradients_at_once_is_refused_beside_their_release(
    settings: dict[str, Any], num_processes: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        refuse_unreleasable(settings, num_processes=num_processes)


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd", "adamw_bnb_8bit", "paged_adamw_8bit"])
def test_optimizers_of_single_weights_go_with_released_gradients(name: str) -> None:
    refuse_unreleasable({"optim": name, "max_grad_norm": 0, "gradient_accumulation_steps": 1}, num_processes=1)


def test_low_rank_optimizers_need_to_know_their_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(UsageError, match="fix: add --optim_target_modules all-linear"):
        check_optimizer({"optim": "apollo_adamw"}, given={"optim"})
    check_optimizer({"optim": "apollo_adamw", "optim_target_modules": "all-linear"}, given={"optim"})


def test_offload_takes_any_optimizer_where_it_is_not_replaced() -> None:
    config = _OFFLOAD | {"zero_force_ds_cpu_optimizer": False}
    check_optimizer({"optim": "sgd", "deepspeed": config}, given={"optim"})


def test_rates_of_parts_do_not_pass_by_a_configured_optimizer() -> None:
    with pytest.raises(UsageError, match=r"^--vision_lr --deepspeed: found both"):
        check_optimizer({"deepspeed": _OWN_BLOCK}, given={"vision_lr"})
    check_optimizer({"deepspeed": {"zero_optimization": {"stage": 2}}}, given={"vision_lr"})


def test_arguments_reach_the_optimizers_that_read_them() -> None:
    check_optimizer({"optim": "sgd", "optim_args": "momentum=0.9"}, given={"optim", "optim_args"})


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("none", ["none"]),
        ("all", ["all"]),
        ("tensorboard", ["tensorboard"]),
        ("tensorboard, kubeflow", ["tensorboard", "kubeflow"]),
    ],
)
def test_installed_tracker_is_taken(asked: str, names: list[str]) -> None:
    settings = {"report_to": asked}
    resolve_trackers(settings)
    assert settings == {"report_to": names}


@pytest.mark.parametrize("name", sorted({*INTEGRATION_TO_CALLBACK} - {"kubeflow"}))
def test_missing_package_of_a_tracker_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"--report_to {name}: found no .*\n  fix: .* -m pip install "):
        resolve_trackers({"report_to": name})


@pytest.mark.parametrize(
    ("asked", "fix"),
    [
        ("wandbb", "did you mean wandb"),
        ("none,wandb", "or all or none by itself"),
        ("", "or all or none by itself"),
    ],
)
def test_unknown_tracker_is_refused(asked: str, fix: str) -> None:
    with pytest.raises(UsageError, match=fix):
        resolve_trackers({"report_to": asked})
