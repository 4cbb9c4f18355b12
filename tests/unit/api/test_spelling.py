from __future__ import annotations

import pytest

from minicpmv.api.spelling import of_answering, of_training
from minicpmv.errors import DataError, Problem, UsageError


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("--lora_r: found 'many', expected a whole number", "lora_r: found 'many', expected a whole number"),
        ("--use_lora true --tune_llm true: found both", "use_lora=True tune_llm=True: found both"),
        ("  fix: --deepspeed zero3, or a lower --pack_length", "  fix: --deepspeed zero3, or a lower --pack_length"),
        ("--objective dpo has losses", "objective='dpo' has losses"),
        ("--output_dir '/a b': found no directory", "output='/a b': found no directory"),
        ("--model_name_or_path (full)", "model (full)"),
        ("--validation_split 0.1 would use a tenth.", "validation_split=0.1 would use a tenth."),
        ("--validation_split 0.", "validation_split=0."),
        ("--num_processes 1, or fewer", "num_processes=1, or fewer"),
        ("--keep_best true needs both", "keep_best=True needs both"),
        ("transformers' own --lora_r 8, the user's 'a'", "transformers' own lora_r=8, the user's 'a'"),
        ("--keep_best needs both", "keep_best needs both"),
        ("--video_fps 2/3", "video_fps 2/3"),
        ("`minicpmv estimate --use_lora true` says it", "`minicpmv estimate --use_lora true` says it"),
        ("git lfs pull --include a.json", "git lfs pull --include a.json"),
        (
            "found no file 'x/--lora_r 8.json' and 'a --lora_r 8'",
            "found no file 'x/--lora_r 8.json' and 'a --lora_r 8'",
        ),
    ],
)
def test_settings_of_a_run_are_spelled_as_python_does(written: str, spelled: str) -> None:
    with pytest.raises(UsageError) as caught, of_training():
        raise UsageError(written)
    assert str(caught.value) == spelled.replace("--deepspeed zero3", "deepspeed='zero3'").replace("--pack", "pack")


def test_problems_of_data_are_spelled_alike() -> None:
    problem = Problem("D1", "a.json", "'--lora_r 8'", "--objective sft", "set --model_max_length to 9 or more")
    with pytest.raises(DataError) as caught, of_training():
        raise DataError([problem])
    assert caught.value.problems[0].expected == "objective='sft'"
    assert caught.value.problems[0].found == "'--lora_r 8'"
    assert str(caught.value) == str(caught.value.problems[0])


def test_settings_of_a_model_are_spelled_with_underscores() -> None:
    with pytest.raises(UsageError) as caught, of_answering():
        raise UsageError("cut images into fewer tiles (--max-slice-nums 1 is the least), or --device cpu; --metrics x")
    assert (
        str(caught.value) == "cut images into fewer tiles (max_slice_nums=1 is the least), or device='cpu'; --metrics x"
    )
