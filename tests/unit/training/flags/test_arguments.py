from __future__ import annotations

import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.catalogue import all_settings, our_settings
from minicpmv.training.flags.words.legacy_flags import LEGACY_NAMES

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
    assert not parse_arguments([*NEEDED, "--q_lora", "false", "--use_lora", "false"]).run.use_lora
    with pytest.raises(UsageError, match=r"^--q_lora true --use_lora false: found both, expected one"):
        parse_arguments([*NEEDED, "--q_lora", "true", "--use_lora", "false"])


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("--lora-r 8", "lora_r", 8),
        ("--use-lora", "use_lora", True),
        ("--use_lora=no", "use_lora", False),
        ("--no_verify_saved", "verify_saved", False),
        ("--no-check-first", "check_first", False),
        ("--vision_cache", "vision_cache", "true"),
        ("--lora_layers_to_transform 0 2", "lora_layers_to_transform", [0, 2]),
        ("--model other", "model_name_or_path", "other"),
        ("--data a.json b.json:2", "data_path", ["a.json", "b.json:2"]),
        ("--data a.json --data-path b.json", "data_path", ["b.json"]),
    ],
)
def test_every_spelling_of_a_flag_is_read(written: str, name: str, value: object) -> None:
    run = parse_arguments([*NEEDED, "--use_lora", *written.split()]).run
    assert getattr(run, name) == value


def test_short_name_of_the_output_directory_is_read() -> None:
    assert parse_arguments(["--model=m", "--data=d", "--output=o"]).training == {"output_dir": "o"}


@pytest.mark.parametrize(
    "written",
    [
        "--max_steps -1 --warmup_steps 0.1 --eval_strategy no --lr_scheduler_type linear --optim adamw_torch",
        "--fsdp --deepspeed zero2 --tf32 true --disable_tqdm false --report_to none --debug underflow_overflow",
        "--lr_scheduler_kwargs {} --accelerator_config {} --log_level passive --label_names labels extra",
        "--include_num_input_tokens_seen true --optim_target_modules all-linear --resume_from_checkpoint true",
        "--no_dataloader_pin_memory --no-skip-memory-metrics --ddp_backend gloo --eval_steps 0.5 --seed 7",
    ],
)
def test_flags_of_transformers_mean_what_its_own_parser_reads(written: str) -> None:
    parser = HfArgumentParser(TrainingArguments)  # pyright: ignore[reportArgumentType] # its protocol wants a class variable
    theirs = vars(parser.parse_args(written.split()))
    ours = dict(parse_arguments([*NEEDED, *written.split()]).training)
    del ours["output_dir"]
    texts = {
        name: "true" if value is True and isinstance(ours[name], str) else value
        for name, value in theirs.items()
        if name in ours
    }
    texts |= {"debug": " ".join(each.value for each in theirs["debug"])} if "debug" in ours else {}
    assert ours == texts
    assert len(ours) == written.count("--")


def test_every_field_of_transformers_is_a_flag() -> None:
    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    assert names == all_settings().keys() - our_settings().keys()


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
        ("--learnin_rate 1e-4", r"--learnin_rate: no such flag, .*\n  fix: did you mean --learning_rate"),
        ("--tune-vison true", r"^--tune-vison: no such flag, .*\n  fix: did you mean --tune_vision"),
        ("--lr_scheduler_type cosin", "found 'cosin', expected one of linear, .*\n  fix: did you mean cosine"),
        ("--max_steps", "--max_steps: found no value, expected a whole number"),
        ("--use_lora perhaps", "--use_lora: found 'perhaps', expected true or false"),
        ("stray", "found 'stray', expected a flag"),
        ("--max_steps 3 4", "found '4', expected a flag"),
        ("--lora r", "--lora: no such flag"),  # no abbreviations: `--lora` could be any of nine
        ("--max_steps many", "--max_steps: found 'many', expected a whole number"),
        ("--use_lora --tune_llm true", "--tune_llm true --use_lora true: found both"),
        ("--lora_r 8", "--lora_r: found without --use_lora true"),
        ("--use_dora true --init_lora_weights pissa", "--init_lora_weights, --use_dora: found without --use_lora true"),
        ("--lora_lr 1e-4", "--lora_lr: found without --use_lora true"),
        ("--vision_lr 0", "--vision_lr: found 0, expected more than 0"),
        ("--embeddings_weight_decay -1", "--embeddings_weight_decay: found -1"),
        ("--use_lora --lora_r 0", "--lora_r: found 0"),
        ("--use_lora --lora_dropout 1", "--lora_dropout: found 1"),
        ("--use_lora --lora_layers_pattern layers", "--lora_layers_pattern: found without --lora_layers_to_transform"),
        ("--use_lora --init_lora_weights svd", "found 'svd', expected true, gaussian, pissa, pissa_niter_N or olora"),
        ("--q_lora --init_lora_weights pissa", "^--init_lora_weights pissa --q_lora true: found both"),
        ("--use_lora --lora_weight_path a --init_lora_weights olora", "^--init_lora_weights olora --lora_weight_path"),
        ("--use_lora --init_lora_weights pissa --lora_dropout 0.1", "^--lora_dropout 0.1 --init_lora_weights pissa"),
        ("--use_lora --lora_layer_replication [[0,2]]", "^--lora_layer_replication: found "),
        ("--max_slice_nums 0", "--max_slice_nums: found 0"),
        ("--packing false --pack_length 4096", "--pack_length: found 4096 without packing"),
        ("--dataloader_drop_last true --pack_length 4096", "--pack_length: found 4096 without packing"),
        ("--pack_length 1024", "found 1024, expected at least the 2048 tokens that one record may have"),
    ],
)
def test_fault_in_the_flags_is_explained(extra: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments([*NEEDED, *extra.split()])


def test_all_missing_flags_are_named_at_once() -> None:
    with pytest.raises(UsageError, match="found no --model_name_or_path, --data_path, --output_dir"):
        parse_arguments([])


_REQUIRED = [("model_name_or_path", "m"), ("data_path", "d"), ("output_dir", "o")]


@pytest.mark.parametrize("blank", ["", " ", "\t "])
@pytest.mark.parametrize("name", [name for name, _ in _REQUIRED])
def test_blank_name_is_refused_by_the_name_of_its_flag(name: str, blank: str) -> None:
    words = [f"--{each}={blank if each == name else value}" for each, value in _REQUIRED]
    with pytest.raises(UsageError) as told:
        parse_arguments(words)
    assert str(told.value).startswith(f"--{name}: found {blank!r}, expected a ")


_OF_TEXT = [name for name, setting in all_settings().items() if setting.kind.of == "text"]


@pytest.mark.parametrize("name", [name for name in _OF_TEXT if name not in LEGACY_NAMES])
def test_no_text_is_blank(name: str) -> None:
    """An empty one says of many that they are off; white space says nothing."""
    with pytest.raises(UsageError, match=rf"--{name}: found ' ', expected "):
        parse_arguments([*NEEDED, f"--{name}= "])


@pytest.mark.parametrize(
    ("words", "notices"),
    [
        (["--data", "h1.json", "h2.json"], ["--data_path: found it twice, the last counts: h1.json h2.json"]),
        (["--eval_data", "a", "--eval-data-path", "b"], ["--eval_data_path: found it twice, the last counts: b"]),
        (["--eval_data_path", "", "--eval_data_path", "b"], []),
        (["--learning_rate", "1", "--learning_rate", "2"], []),
    ],
)
def test_list_that_another_replaces_is_said(words: list[str], notices: list[str]) -> None:
    assert list(parse_arguments([*NEEDED, *words]).notices) == notices


def test_empty_variables_of_a_script_mean_nothing() -> None:
    run = parse_arguments([*NEEDED, "--eval_data_path", "", "--llm_type", ""]).run
    assert run.eval_data_path == []
    assert not run.llm_type


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--eval_samples", "3", "--validation_split", "0"], "--eval_samples: found no validation data"),
        (["--eval_samples", "-1", "--eval_data_path", "e"], "--eval_samples: found -1, expected at least 0"),
        (["--eval_sample_tokens", "0", "--eval_data_path", "e"], "--eval_sample_tokens: found 0, expected at least 1"),
        (
            ["--eval_sample_tokens", "9", "--validation_split", "0"],
            "--eval_sample_tokens: found no validation data",
        ),
        (
            ["--eval_sample_tokens", "9", "--eval_data_path", "e", "--eval_samples", "0"],
            "--eval_sample_tokens: found without samples, expected --eval_samples above 0",
        ),
    ],
)
def test_samples_that_could_not_be_taken_are_refused(extra: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arguments([*NEEDED, *extra])


def test_no_samples_may_always_be_asked_for() -> None:
    assert parse_arguments([*NEEDED, "--eval_samples", "0"]).run.eval_samples == 0
