from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from minicpmv.errors import ConfigError, MachineError, UsageError
from minicpmv.machine.value import Machine
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.resolution import build_training_arguments, resolve_settings
from tests.machines import CPU, GPU, OLD_GPU, card, machine_with


def complete(extra: str = "", machine: Machine = CPU) -> tuple[Mapping[str, Any], list[str]]:
    needed = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"]
    resolved = resolve_settings(parse_arguments([*needed, *extra.split()]), machine)
    return resolved.training, list(resolved.notices)


def test_no_field_tells_a_tracker_or_run_json_a_secret() -> None:
    """Whatever a field comes to hold: an address with a password, or settings with a key."""
    args = build_training_arguments(complete()[0])
    for item in fields(TrainingArguments):
        if item.name != "parallelism_config" and not isinstance(getattr(args, item.name), bool | int | float):
            setattr(args, item.name, ["https://me:s3cr3t@host", {"api_key": "s3cr3t"}, "--hub_token s3cr3t --x 1"])
    described = args.to_json_string()
    assert described.count("***") > 100
    assert "s3cr3t" not in described
    assert "s3cr3t" not in str(args.to_sanitized_dict())


def test_workers_are_as_many_as_the_machine_can_be_meant_to_have() -> None:
    """A million of them, forked before the first step, ended the machine."""
    settings, notices = complete("--dataloader_num_workers 1000000")
    assert settings["dataloader_num_workers"] == 32
    assert [text for text in notices if text.startswith("--dataloader_num_workers 1,000,000: ")]
    settings, notices = complete("--dataloader_num_workers 16")
    assert (settings["dataloader_num_workers"], notices) == (16, [])


def test_token_for_the_hub_is_dropped_with_a_word() -> None:
    settings, notices = complete("--hub_token abc")
    assert "hub_token" not in settings
    assert [text for text in notices if text.startswith("--hub_token: not used, as it would be kept")]


def test_released_gradients_are_not_clipped_and_the_run_says_so() -> None:
    settings, notices = complete("--release_gradients true")
    assert settings["max_grad_norm"] == 0
    assert notices == [
        "--release_gradients true: gradients are not clipped (--max_grad_norm 0)",
        "--release_gradients true: no step is accumulated (--gradient_accumulation_steps 1)",
    ]
    assert complete("--release_gradients true --max_grad_norm 0 --gradient_accumulation_steps 1")[1] == []
    with pytest.raises(UsageError, match=r"^--fp16 true --release_gradients true"):
        complete("--release_gradients true", OLD_GPU)


@pytest.mark.parametrize(
    ("extra", "rate"), [("", 1e-5), ("--use_lora", 1e-4), ("--q_lora", 1e-4), ("--learning_rate 3e-6", 3e-6)]
)
def test_learning_rate_follows_what_is_trained(extra: str, rate: float) -> None:
    assert complete(extra)[0]["learning_rate"] == rate


@pytest.mark.parametrize(
    ("extra", "machine", "precision"),
    [
        ("", CPU, (None, None, True)),
        ("", GPU, (True, None, False)),
        ("", OLD_GPU, (None, True, False)),
        ("--fp16 false", OLD_GPU, (None, False, False)),
        ("--bf16 false", OLD_GPU, (False, None, False)),
        ("--bf16 true", OLD_GPU, (True, None, False)),
        ("--use_cpu true", OLD_GPU, (None, None, True)),
        ("--fp16 true", GPU, (None, True, False)),
        ("--bf16 false", GPU, (False, None, False)),
        ("--bf16 true", CPU, (True, None, True)),
        ("--no_cuda true", GPU, (None, None, True)),
        ("--use_cpu false", CPU, (None, None, True)),
        ("--use_cpu false", GPU, (True, None, False)),
    ],
)
def test_precision_is_what_the_machine_does_best(
    extra: str, machine: Machine, precision: tuple[bool | None, bool | None, bool]
) -> None:
    settings, _ = complete(extra, machine)
    assert (settings.get("bf16"), settings.get("fp16"), settings["use_cpu"]) == precision


@pytest.mark.parametrize("extra", ["--fp16 true", "--fp16 true --use_cpu false"])
def test_float16_is_refused_without_a_gpu(extra: str) -> None:
    with pytest.raises(UsageError, match=r"--fp16 true: found no accelerator"):
        complete(extra, CPU)


def test_what_an_old_card_makes_of_precision_is_said() -> None:
    reason = "Tesla T4, of compute capability 7.5, has no bfloat16, which begins with 8.0"
    assert complete("", OLD_GPU)[1] == [f"precision: float16, because {reason}; --fp16 false trains in float32"]
    assert complete("--bf16 true", OLD_GPU)[1] == [
        f"--bf16 true: {reason}; torch emulates it, slowly. Without the flag: --fp16 true"
    ]
    assert complete("", GPU)[1] == []


def test_card_that_cannot_be_used_is_no_reason_to_train_on_the_processor_unasked() -> None:
    without_cuda = replace(CPU, shown=("NVIDIA GPU",))
    with pytest.raises(
        MachineError, match=r"found 1 NVIDIA GPU that torch 2\.13\.0\+cpu, built for no GPU, cannot use"
    ):
        complete("", without_cuda)
    assert complete("--use_cpu true", without_cuda)[0]["use_cpu"] is True


def test_processes_do_not_share_a_card() -> None:
    machine = machine_with(card("NVIDIA L4", (8, 9)), num_processes=2, num_local_processes=2)
    with pytest.raises(MachineError, match=r"found 2 processes for 1 GPU, expected one for each"):
        complete("", machine)
    assert complete("--use_cpu true", machine)[0]["use_cpu"] is True


def test_workers_are_fewer_where_processes_share_few_cores() -> None:
    assert complete("", CPU)[0]["dataloader_num_workers"] == 0
    assert complete("", GPU)[0]["dataloader_num_workers"] == 2
    assert complete("--use_cpu true", GPU)[0]["dataloader_num_workers"] == 0
    assert complete("", replace(GPU, num_local_processes=2, num_cores=4))[0]["dataloader_num_workers"] == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--fp16 true", "float16 training does not work on a CPU"),
        ("--fp16 true --bf16 true", "expected at most one"),
        ("--remove_unused_columns true", "it would drop images"),
        ("--do_train false", "this command trains"),
        ("--hub_always_push true", "the model is uploaded once"),
        ("--fsdp true", "found one process, expected several"),
        ("--fsdp_config {}", "add --fsdp true"),
        ("--label_smoothing_factor 0.1", "never computed"),
        ("--auto_find_batch_size true", "all batches are planned before training"),
        ("--packing true --auto_find_batch_size true", "shorter rows"),
        (
            "--packing true --train_sampling_strategy group_by_length",
            "^--train_sampling_strategy group_by_length --packing true: found both",
        ),
        ("--packing true --dataloader_drop_last true", "no row is dropped"),
        ("--load_best_model_at_end true --validation_split 0", "add the data to judge by"),
        ("--keep_best true --validation_split 0", "add the data to judge by"),
        ("--early_stopping 2 --validation_split none", "add the data to judge by"),
        ("--q_lora --deepspeed zero3", "^--q_lora --deepspeed: found ZeRO-3"),
    ],
)
def test_what_cannot_be_honoured_is_refused(extra: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        complete(extra, GPU if "--bf16" in extra else CPU)


@pytest.mark.parametrize(
    ("extra", "machine", "waits"),
    [
        ("", GPU, False),
        ('--accelerator_config {"even_batches":true}', GPU, False),
        ('--accelerator_config {"non_blocking":false}', GPU, True),
        ("--dataloader_pin_memory false", GPU, True),
        ("--use_cpu true", GPU, True),
        ("", CPU, True),
    ],
)
def test_batches_go_to_an_accelerator_without_a_wait(extra: str, machine: Machine, waits: bool) -> None:
    assert complete(extra, machine)[0].get("accelerator_config", {}).get("non_blocking", False) is not waits


@pytest.mark.parametrize("name", ["split_batches", "dispatch_batches"])
def test_batches_are_not_dealt_out_in_another_way(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"found {name} true, expected it off"):
        build_training_arguments({"output_dir": str(tmp_path), "accelerator_config": {name: True}})


def test_evaluation_without_data_is_told_and_left_out() -> None:
    settings, notices = complete("--do_eval --eval_strategy steps --validation_split 0")
    assert "eval_strategy" not in settings
    assert notices == ["--do_eval, --eval_strategy: no validation data, so nothing is evaluated"]


def test_half_precision_evaluation_never_casts_what_is_saved() -> None:
    settings, notices = complete("--fp16_full_eval true")
    assert "fp16_full_eval" not in settings
    assert notices == ["--fp16_full_eval: evaluation runs in the precision of training"]


SHARED, SHARED_GPUS = replace(CPU, num_processes=2), replace(GPU, num_processes=2)


@pytest.mark.parametrize("given", ["--fsdp", "--fsdp true", "--fsdp full_shard auto_wrap", "--fsdp=True"])
def test_fsdp_is_of_the_second_kind_and_saves_whole_weights(given: str) -> None:
    settings, _ = complete(given, SHARED)
    assert settings["fsdp"] is True
    assert settings["fsdp_config"] == {"version": 2, "state_dict_type": "FULL_STATE_DICT"}


@pytest.mark.parametrize("given", ["", "--fsdp false"])
def test_without_fsdp_nothing_is_said_of_it(given: str) -> None:
    assert not {"fsdp", "fsdp_config"} & complete(given, SHARED)[0].keys()


@pytest.mark.parametrize("spelled", ['{"fsdp_cpu_offload":true}', '{"cpu_offload":true,"version":2}'])
def test_fsdp_configuration_is_a_file_or_an_object(spelled: str, tmp_path: Path) -> None:
    path = tmp_path / "fsdp.json"
    path.write_text(spelled)
    for written in (spelled, str(path)):
        settings, _ = complete(f"--fsdp true --fsdp_config {written}", SHARED_GPUS)
        assert settings["fsdp_config"]["cpu_offload"] is True


@pytest.mark.parametrize(
    ("extra", "machine", "message"),
    [
        ("--deepspeed zero2", SHARED, "^--fsdp --deepspeed: found both"),
        ("--q_lora", SHARED, "^--q_lora --fsdp: found both"),
        ("--use_cpu true", SHARED_GPUS, "^--fsdp true --use_cpu true: found an accelerator"),
        ("--optim adafactor", SHARED, "^--optim adafactor --fsdp: found both, expected adagrad"),
        ('--fsdp_config {"cpu_offload":true}', SHARED, "^--fsdp_config: found cpu_offload on a CPU"),
        ('--fsdp_config {"version":1}', SHARED, "found version 1, expected 2"),
        ('--fsdp_config {"state_dict_type":"SHARDED_STATE_DICT"}', SHARED, "whole weights"),
        ('--fsdp_config {"fsdp_activation_checkpointing":true}', SHARED, "--activation_checkpointing does it"),
        ('--fsdp_config {"fsdp_backward_prefetch":"none"}', SHARED, "it belongs to FSDP1"),
        ('--fsdp_config {"reshard_after_forward":"full_shard"}', SHARED, "expected true or false"),
    ],
)
def test_what_fsdp_cannot_do_is_refused(extra: str, machine: Machine, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        complete(f"--fsdp true {extra}", machine)


@pytest.mark.parametrize("written", ["nowhere.json", "{1}", "broken"])
def test_fsdp_configuration_that_cannot_be_read_is_named(written: str, tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("[]")
    place = str(tmp_path / written) if written == "broken" else written
    with pytest.raises(ConfigError, match=r"JSON object|invalid JSON at line 1 column 2"):
        complete(f"--fsdp true --fsdp_config {place}", SHARED)


def test_deepspeed_becomes_a_configuration() -> None:
    settings, notices = complete("--deepspeed finetune/ds_config_zero3.json")
    assert settings["deepspeed"]["zero_optimization"]["stage"] == 3
    assert notices == ["--deepspeed finetune/ds_config_zero3.json: no such file; using the shipped preset 'zero3'"]


BARE_GPU = replace(GPU, tools=frozenset())


@pytest.mark.parametrize(
    ("extra", "machine", "missing"),
    [
        ("--torch_compile true", replace(CPU, tools=frozenset()), "C++ compiler and no Python.h"),
        ("--torch_compile true", replace(CPU, tools=frozenset({"C++ compiler"})), "Python.h"),
        ("--torch_compile true", BARE_GPU, "C compiler and no Python.h"),
        ("--deepspeed zero2-offload", BARE_GPU, "C++ compiler and no Python.h and no ninja"),
        ("--deepspeed zero3-offload", replace(GPU, tools=GPU.tools - {"ninja"}), "ninja"),
        ('--deepspeed {"optimizer":{"type":"AdamW","params":{"lr":"auto"}}}', GPU, "nvcc"),
    ],
)
def test_what_must_be_compiled_is_refused_without_its_tools(extra: str, machine: Machine, missing: str) -> None:
    with pytest.raises(MachineError, match=re.escape(f"{extra.split()[0]}: found no {missing}, expected ")):
        complete(extra, machine)


@pytest.mark.parametrize(
    ("extra", "machine"),
    [
        ("--torch_compile true", CPU),
        ("--torch_compile true --torch_compile_backend aot_eager", BARE_GPU),
        ("--deepspeed zero2", BARE_GPU),
        ("--deepspeed zero2-offload", GPU),
        ("--deepspeed zero2-offload", replace(CPU, tools=frozenset())),
        ('--deepspeed {"optimizer":{"type":"AdamW","params":{"torch_adam":true}}}', BARE_GPU),
        ('--deepspeed {"optimizer":{"type":"OneBitAdam"}}', BARE_GPU),
    ],
)
def test_what_compiles_nothing_needs_no_tools(extra: str, machine: Machine) -> None:
    complete(extra, machine)
