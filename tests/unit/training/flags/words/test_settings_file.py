from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import MiniCPMVError
from minicpmv.training.flags.arguments import Request, parse_arguments
from minicpmv.training.flags.words.settings_file import with_settings_file

NEEDED = "model: m\ndata: d.json\noutput: o\n"


def read(folder: Path, text: str, *flags: str) -> Request:
    file = folder / "run.yaml"
    file.write_text(NEEDED + text, encoding="utf-8")
    return parse_arguments(with_settings_file([str(file), *flags]))


def test_line_means_what_it_means_behind_its_flag(tmp_path: Path) -> None:
    """YAML itself takes 1e-4 for a text, no for false and 0x10 for 16."""
    file = """
use-lora: yes
learning_rate: 1e-4
save_strategy: no
run_name: on
lora_layers_to_transform: [0, 2]
data_path: "x"
lr_scheduler_kwargs: {min_lr: 1e-5}
"""
    words = ["--use-lora", "yes", "--learning_rate", "1e-4", "--save_strategy", "no", "--run_name", "on"]
    words += ["--lora_layers_to_transform", "0", "2", "--lr_scheduler_kwargs", '{"min_lr": 1e-05}']
    file = file.replace('data_path: "x"\n', "")
    needed = ["--model", "m", "--data", "d.json", "--output", "o"]
    assert read(tmp_path, file).values == parse_arguments([*needed, *words]).values


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    request = read(tmp_path, "lora_r: 8\nuse_lora: true\n", "--lora-r", "4", "--output", "other")
    assert (request.run.lora_r, request.training["output_dir"]) == (4, "other")


def test_a_list_of_a_flag_is_the_only_one(tmp_path: Path) -> None:
    """The flag is meant to win, so nothing is said of it."""
    request = read(tmp_path, "eval_data_path: [a.json]\n", "--data", "other.json", "--eval-data=b.json")
    assert (request.run.data_path, request.run.eval_data_path, request.notices) == (["other.json"], ["b.json"], ())


def test_old_names_are_translated(tmp_path: Path) -> None:
    assert read(tmp_path, "warmup_ratio: 0.1\n").training["warmup_steps"] == 0.1


def test_several_files_of_data_are_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, "eval_data_path: [a.json, b=c.json]\n").run.eval_data_path == ["a.json", "b=c.json"]


def test_list_for_a_text_is_that_text_with_commas(tmp_path: Path) -> None:
    assert read(tmp_path, "eval_metrics: [anls, cer]\n").run.eval_metrics == "anls,cer"
    listed = "use_lora: true\nlora_target_modules:\n- q_proj\n- v_proj\n"
    assert read(tmp_path, listed).run.lora_target_modules == "q_proj,v_proj"


def test_mapping_is_what_its_object_in_json_is(tmp_path: Path) -> None:
    text = "deepspeed:\n  zero_optimization: {stage: 2}\n  train_micro_batch_size_per_gpu: auto\n"
    expected = '{"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}'
    assert read(tmp_path, text).training["deepspeed"] == expected


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("learning_rat: 1e-4", 4, "did you mean learning_rate?"),
        ("lora_r: many", 4, "lora_r: found 'many', expected a whole number\n  fix: lora_r: 64"),
        ("lora_r: 0", 4, "lora_r: found 0, expected"),
        ("\nuse_lora: maybe", 5, "use_lora: found 'maybe', expected true or false\n  fix: use_lora: true"),
        ("optim: adamw", 4, "optim: found 'adamw', expected one of"),
        ("lora_r: [1, 2]", 4, "lora_r: found a list, expected a whole number"),
        ("lora_r: {a: 1}", 4, "lora_r: found names and values, expected a whole number"),
        ("lora_r:", 4, "lora_r: found no value, expected a whole number\n  fix: lora_r: 64, or remove the line"),
        ("seed: 1\nseed: 1", 5, "seed: found again what line 4 says, expected each setting once"),
        ("model_name_or_path: n", 4, "model_name_or_path: found again what line 1 says"),
        ("eval_data_path: []", 4, "eval_data_path: found an empty list, expected at least one value"),
        ("run_name: !!python/name:os.system x", 4, "run_name: found the tag"),
        ("fsdp_config: {a: !!python/name:os.system x}", 4, "fsdp_config: found the tag"),
        ("run_name: [", 4, "found text that is not YAML"),
        ("run_name: a: b", 4, "found text that is not YAML"),
        ("? [a]\n: b", 4, "found a list as a name"),
    ],
)
def test_fault_is_named_by_line_and_key(text: str, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(MiniCPMVError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'run.yaml'}:{line}")
    assert said in str(caught.value)
    assert "\n  fix: " in str(caught.value)


def test_file_that_holds_no_settings_is_refused(tmp_path: Path) -> None:
    for text in ("- a\n", "just text\n"):
        (tmp_path / "run.yaml").write_text(text)
        with pytest.raises(MiniCPMVError, match="expected settings"):
            with_settings_file([str(tmp_path / "run.yaml")])
    with pytest.raises(MiniCPMVError, match="found no readable file"):
        with_settings_file([str(tmp_path / "gone.yaml")])


def test_command_line_without_a_file_is_left_alone() -> None:
    assert with_settings_file(["--model", "a.yaml"]) == ["--model", "a.yaml"]
    assert with_settings_file([]) == []
