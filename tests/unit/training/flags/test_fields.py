"""Every setting of a run is declared whole: ours, and every field of the installed ``TrainingArguments``."""

from __future__ import annotations

import types
import typing
from dataclasses import fields

import pytest
from transformers import TrainingArguments

from minicpmv.errors import UsageError
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.catalogue import all_settings
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.fields import SEED, Range
from minicpmv.training.flags.resolution import build_training_arguments, resolve_settings
from minicpmv.training.flags.words.values import Place, check_range
from tests.machines import CPU

NEEDED = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o", "--use_lora", "true"]
BESIDE = {
    "answer_batch_size": ["--eval_data_path", "e.json"],
    "eval_samples": ["--eval_data_path", "e.json"],
    "eval_sample_tokens": ["--eval_data_path", "e.json"],
    "eval_max_new_tokens": ["--eval_data_path", "e.json", "--eval_metrics", "anls"],
    "eval_metrics_records": ["--eval_data_path", "e.json", "--eval_metrics", "anls"],
    "max_bad_share": ["--on_bad_record", "skip"],
    "dataloader_prefetch_factor": ["--dataloader_num_workers", "1"],
    "eval_steps": ["--eval_data_path", "e.json", "--eval_strategy", "steps"],
}


def numeric_flags() -> dict[str, type]:
    """Read from the annotations which flags hold whole numbers, and which any."""
    found: dict[str, type] = {}
    for owner in (RunArguments, TrainingArguments):
        hints = typing.get_type_hints(owner)
        for item in fields(owner):
            hint = hints[item.name]
            kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
            kinds |= set(typing.get_args(hint)) if typing.get_origin(hint) is typing.Union else set()
            if item.init and kinds & {int, float} and str not in kinds:
                found[item.name] = float if float in kinds else int
    return found


NUMERIC = numeric_flags()


def test_every_numeric_flag_has_a_range() -> None:
    assert {name for name, setting in all_settings().items() if setting.range is not None} == NUMERIC.keys()


def complete(name: str, value: str) -> TrainingArguments:
    given = [*NEEDED, f"--{name}={value}", *BESIDE.get(name, [])]
    return build_training_arguments(resolve_settings(parse_arguments(given), CPU).training)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "-0.5", "0", "0.5", "1", "2.5", "1e18", "1e39"])
def test_number_is_refused_in_words_or_can_be_meant(value: str) -> None:
    """Whatever is accepted is in the range, so a traceback cannot come from a number that no run works with."""
    whole = {"0.5": "5", "2.5": "25", "-0.5": "-2", "1e18": str(10**18), "1e39": str(10**39)}
    for name, kind in NUMERIC.items():
        allowed, text = all_settings()[name].range, whole.get(value, value) if kind is int else value
        assert allowed is not None, name
        try:
            complete(name, text)
        except UsageError as error:
            message = str(error)
            assert "\n  fix: " in message, name
            assert "found" in message or "expected" in message, name
        else:
            assert allowed.holds(float(text)), f"--{name} {text} was accepted, expected {allowed}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", "0"),
        ("per_device_eval_batch_size", "-2"),
        ("gradient_accumulation_steps", "0"),
        ("learning_rate", "-1"),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("num_train_epochs", "nan"),
        ("num_train_epochs", "-1"),
        ("max_steps", "-2"),
        ("seed", "-1"),
        ("seed", str(2**32)),
        ("dataloader_num_workers", "-1"),
        ("weight_decay", "-1"),
        ("adam_beta1", "1"),
        ("adam_beta2", "-0.1"),
        ("adam_epsilon", "0"),
        ("max_grad_norm", "-1"),
        ("warmup_steps", "-1"),
        ("warmup_steps", "1.5"),
        ("save_steps", "0"),
        ("save_steps", "2.5"),
        ("eval_steps", "-1"),
        ("logging_steps", "0"),
        ("save_total_limit", "-1"),
        ("lora_r", "0"),
        ("lora_r", "1000000000"),
        ("dataloader_prefetch_factor", "1000000000"),
        ("lora_alpha", "-1"),
        ("lora_dropout", "1"),
        ("model_max_length", str(10**30)),
    ],
)
def test_number_out_of_range_names_flag_value_and_range(name: str, value: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^--{name}: found .*, expected (at least|at most|a finite|more than|[\d,]+ to|a whole)"
    ):
        complete(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "0"),
        ("max_steps", "-1"),
        ("warmup_steps", "0.03"),
        ("warmup_steps", "10"),
        ("save_steps", "0.5"),
        ("seed", str(2**32 - 1)),
        ("max_grad_norm", "0"),
        ("save_total_limit", "0"),
        ("neftune_noise_alpha", "5"),
        ("num_train_epochs", "0.1"),
    ],
)
def test_number_at_the_edge_is_accepted(name: str, value: str) -> None:
    assert getattr(complete(name, value), name) == float(value)


@pytest.mark.parametrize("name", [name for name, each in all_settings().items() if each.range and each.range.is_step])
def test_whole_run_is_no_share(name: str) -> None:
    """1.0 is read as one step, where whoever gives 0.5 for half of the run means all of it."""
    with pytest.raises(UsageError, match=rf"^--{name}: found 1.0, expected a share below 1, or a number of steps"):
        complete(name, "1.0")


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("num_train_epochs", "-1", "--num_train_epochs 3"),
        ("learning_rate", "-1", "--learning_rate 1e-05"),
        ("adam_epsilon", "0", "--adam_epsilon 1e-08"),
        ("max_steps", "99999999999999999999", "lower it, or leave it out; -1 leaves it to --num_train_epochs"),
        ("gradient_accumulation_steps", "-3", "--gradient_accumulation_steps 2"),
    ],
)
def test_suggested_number_is_one_that_a_run_would_have(name: str, value: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        complete(name, value)
    assert str(caught.value).partition("\n  fix: ")[2].startswith(fix)


def test_most_is_written_in_digits() -> None:
    with pytest.raises(UsageError, match=r"expected at most 2,147,483,647\n"):
        complete("max_steps", "99999999999999999999")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("adam", "did you mean adamw_torch?"),
        ("adamw", "did you mean adamw_torch?"),
        ("adamw_torch_fuse", "did you mean adamw_torch_fused?"),
        ("addamw_torch", "did you mean adamw_torch?"),
        ("adalom", "choose one of these"),
    ],
)
def test_optimizer_that_is_suggested_or_listed_is_none_that_is_refused(text: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        complete("optim", text)
    found, _, fix = str(caught.value).partition("\n  fix: ")
    assert fix == advice
    assert not [name for name in ("lomo", "schedule_free", "layerwise", "xla", "anyprecision") if name in found]


def test_flag_that_nobody_knows_must_be_finite() -> None:
    place = Place.flag("of_a_plugin")
    for value in (-3.5, "nan", True):
        check_range(value, None, place)
    with pytest.raises(UsageError, match=r"^--of_a_plugin: found nan, expected a finite number"):
        check_range(float("nan"), None, place)


def test_range_is_worded_as_it_holds() -> None:
    assert str(Range(least=1)) == "at least 1"
    assert str(Range(most=1, without_most=True)) == "0 to below 1"
    assert str(SEED) == "0 to 4,294,967,295"
    assert str(Range(most=240, without_least=True)) == "more than 0 and at most 240"


@pytest.mark.parametrize(
    ("name", "value", "suggested"),
    [("video_fps", 0.0, "1"), ("video_fps", 999.0, "240"), ("max_frames", 0, "1"), ("max_frames", 9999, "2048")],
)
def test_the_number_that_is_suggested_is_the_nearest_that_makes_sense(name: str, value: float, suggested: str) -> None:
    with pytest.raises(UsageError, match=rf"\n  fix: --{name} {suggested}$"):
        check_range(value, all_settings()[name].range, Place.flag(name))
