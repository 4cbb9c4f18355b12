from __future__ import annotations

import dataclasses

import pytest
from transformers import TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.training.flags.arguments import parse_arguments

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"]


def test_only_what_is_given_reaches_the_trainer() -> None:
    request = parse_arguments([*NEEDED, "--learning_rate", "1e-5", "--do_train", "--label_names", "labels"])
    assert request.training == {"output_dir": "o", "learning_rate": 1e-5, "do_train": True, "label_names": ["labels"]}
    assert request.run.data_path == ["d.json"]


def test_defaults_of_the_official_recipe() -> None:
    run = parse_arguments([*NEEDED, "--use_lora"]).run
    assert (run.lora_r, run.lora_alpha, run.lora_dropout, run.model_max_length) == (64, 64, 0.05, 2048)
    assert run.lora_target_modules == r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


def test_q_lora_implies_lora() -> None:
    assert parse_arguments([*NEEDED, "--q_lora"]).run.use_lora


def test_every_training_argument_is_a_flag() -> None:
    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["--help"])
    assert stopped.value.code == 0
    assert len(names) > 100


@pytest.mark.parametrize(
    ("extra", "packing", "notices"),
    [
        ("", True, []),
        ("--packing", True, []),
        ("--packing false --dataloader_drop_last true", False, []),
        ("--dataloader_drop_last false --train_sampling_strategy sequential", True, []),
        (
            "--train_sampling_strategy group_by_length",
            False,
            ["--train_sampling_strategy group_by_length: records are padded, not packed; without it they are packed"],
        ),
        (
            "--dataloader_drop_last true",
            False,
            ["--dataloader_drop_last true: records are padded, not packed; without it they are packed"],
        ),
    ],
)
def test_rows_are_packed_unless_something_speaks_against_it(extra: str, packing: bool, notices: list[str]) -> None:
    request = parse_arguments([*NEEDED, *extra.split()])
    assert request.run.packing is packing
    assert list(request.notices) == notices


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--learnin_rate 1e-4", r"--learnin_rate: no such flag\n  fix: did you mean --learning_rate"),
        ("--tune-vison true", "did you mean --tune_vision"),
        ("--lora r", "--lora: no such flag"),  # no abbreviations: `--lora` could be any of nine
        ("--max_steps many", "--max_steps: found 'many', expected a whole number"),
        ("--use_lora --tune_llm true", "LoRA keeps the language model frozen"),
        ("--lora_r 8", "--lora_r: found without --use_lora true"),
        ("--use_lora --tune_vision true --lora_modules_to_save resampler", "two answers"),
        ("--use_dora true --init_lora_weights pissa", "--init_lora_weights, --use_dora: found without --use_lora true"),
        ("--lora_lr 1e-4", "--lora_lr: found without --use_lora true"),
        ("--vision_lr 0", "--vision_lr: found 0, expected more than 0"),
        ("--embeddings_weight_decay -1", "--embeddings_weight_decay: found -1"),
        ("--use_lora --lora_r 0", "--lora_r: found 0"),
        ("--use_lora --lora_dropout 1", "--lora_dropout: found 1"),
        ("--use_lora --lora_layers_pattern layers", "found without --lora_layers_to_transform"),
        ("--use_lora --init_lora_weights svd", "found 'svd', expected true, gaussian, pissa, pissa_niter_N or olora"),
        ("--q_lora --init_lora_weights pissa", "cannot be taken out of its 4 bits"),
        ("--use_lora --lora_weight_path a --init_lora_weights olora", "matrices have started long ago"),
        ("--use_lora --init_lora_weights pissa --lora_dropout 0.1", "expected no dropout"),
        ("--use_lora --tune_output_head --lora_modules_to_save none", "two answers to whether lm_head is trained"),
        ("--use_lora --lora_layer_replication [[0,2]]", "PEFT replicates layers only in bare language models"),
        ("--max_slice_nums 0", "--max_slice_nums: found 0"),
        ("--packing false --pack_length 4096", "--pack_length: found without packing"),
        ("--dataloader_drop_last true --pack_length 4096", "--pack_length: found without packing"),
        ("--pack_length 1024", "found 1024, expected at least the 2048 tokens that one record may have"),
    ],
)
def test_fault_in_the_flags_is_explained(extra: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments([*NEEDED, *extra.split()])


def test_all_missing_flags_are_named_at_once() -> None:
    with pytest.raises(UsageError, match="found no --model_name_or_path, --data_path, --output_dir"):
        parse_arguments([])


def test_empty_variables_of_a_script_mean_nothing() -> None:
    run = parse_arguments([*NEEDED, "--eval_data_path", "", "--llm_type", ""]).run
    assert run.eval_data_path == []
    assert not run.llm_type


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--eval_samples", "3", "--validation_split", "0"], "--eval_samples: found no --eval_data_path"),
        (["--eval_samples", "-1", "--eval_data_path", "e"], "--eval_samples: found -1, expected at least 0"),
        (["--eval_sample_tokens", "0", "--eval_data_path", "e"], "--eval_sample_tokens: found 0, expected at least 1"),
        (
            ["--eval_sample_tokens", "9", "--validation_split", "0"],
            "--eval_sample_tokens: found without --eval_data_path",
        ),
        (
            ["--eval_sample_tokens", "9", "--eval_data_path", "e", "--eval_samples", "0"],
            "--eval_sample_tokens: found without --eval_samples above 0",
        ),
    ],
)
def test_samples_that_could_not_be_taken_are_refused(extra: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments([*NEEDED, *extra])


def test_no_samples_may_always_be_asked_for() -> None:
    assert parse_arguments([*NEEDED, "--eval_samples", "0"]).run.eval_samples == 0
