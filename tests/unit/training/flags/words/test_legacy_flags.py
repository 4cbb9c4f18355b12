from __future__ import annotations

import pytest

from minicpmv.errors import UsageError
from minicpmv.training.flags.words.legacy_flags import translate_legacy

TODAY = {
    "activation_checkpointing",
    "eval_strategy",
    "gradient_checkpointing",  # transformers 5.23 has both, the old one with a warning
    "learning_rate",
    "optim",
    "per_device_train_batch_size",
    "train_sampling_strategy",
    "use_cpu",
    "warmup_steps",
}


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("--evaluation_strategy steps", "--eval_strategy steps"),
        ("--evaluation-strategy=steps", "--eval_strategy steps"),
        ("--gradient_checkpointing true", "--activation_checkpointing true"),
        ("--gradient_checkpointing", "--activation_checkpointing true"),
        ("--no_cuda", "--use_cpu true"),
        ("--warmup_ratio 0.01", "--warmup_steps 0.01"),
        ("--group_by_length true", "--train_sampling_strategy group_by_length"),
        ("--adafactor true", "--optim adafactor"),
        ("--optim adamw_hf", "--optim adamw_torch"),
        ("--per_gpu_train_batch_size 3", "--per_device_train_batch_size 3"),
        ("--fsdp full_shard auto_wrap", "--fsdp true"),
    ],
)
def test_renamed_flag_becomes_todays(old: str, today: str) -> None:
    rewritten, notices = translate_legacy(old.split(), known=TODAY)
    assert rewritten == today.split()
    assert len(notices) == 1


@pytest.mark.parametrize(
    "stated",
    [
        "--save_safetensors true",
        "--past_index -1",
        "--lora_layer_replication none",
        "--group_by_length false",
        "--use_ipex false",
        "--fsdp_transformer_layer_cls_to_wrap Qwen2DecoderLayer",
    ],
)
def test_flag_that_states_what_happens_anyway_is_told_not_passed_on(stated: str) -> None:
    rewritten, notices = translate_legacy(stated.split(), known=TODAY)
    assert rewritten == []
    assert len(notices) == 1


@pytest.mark.parametrize(
    ("impossible", "reason"),
    [
        ("--save_safetensors false", "weights are always saved as safetensors"),
        ("--fp16_backend apex", "torch's own"),
        ("--warmup_ratio 1.5", "--warmup_steps for a number of steps"),
        ("--do_predict", "this command trains"),
        ("--lora_layer_replication [[0,2]]", "PEFT replicates layers only in bare language models"),
        ("--fsdp shard_grad_op auto_wrap", """--fsdp true --fsdp_config '{"reshard_after_forward": false}'"""),
        ("--fsdp hybrid_shard", "found 'hybrid_shard', expected true or false"),
    ],
)
def test_flag_that_cannot_be_honoured_is_refused_with_the_reason(impossible: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        translate_legacy(impossible.split(), known=TODAY)


def test_todays_flags_and_their_values_pass_untouched() -> None:
    arguments = ["--eval_strategy", "steps", "--lora_target_modules", r"llm\..*(q|k)_proj", "--optim=adamw_torch"]
    assert translate_legacy(arguments, known=TODAY) == (arguments, [])


def test_flag_that_an_older_transformers_lacks_becomes_the_one_it_has() -> None:
    """Python 3.10 ends at transformers 5.20, which knows only the old name."""
    older = TODAY - {"activation_checkpointing"}
    for given in ("--activation_checkpointing true", "--gradient_checkpointing true"):
        rewritten, _ = translate_legacy(given.split(), known=older)
        assert rewritten == ["--gradient_checkpointing", "true"]
