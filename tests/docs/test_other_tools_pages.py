"""The pages for users of other tools name flags that exist here, and settings files that are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.catalogue import OTHER_NAMES, all_settings
from tests.docs.repository import DOCUMENTS, ROOT, code_blocks

PAGES = [ROOT / "docs" / f"from_{name}.md" for name in ("official", "ms_swift", "llama_factory")]

_OFFICIAL = r"""
--remove_unused_columns false --label_names labels --prediction_loss_only false --bf16 false --bf16_full_eval false
--do_train --do_eval --tune_vision true --tune_llm false --use_lora true
--lora_target_modules llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)
--model_max_length 2048 --max_slice_nums 9 --max_steps 10000 --eval_steps 1000 --output_dir output/o
--logging_dir output/o --logging_strategy steps --per_device_train_batch_size 2 --per_device_eval_batch_size 1
--gradient_accumulation_steps 1 --evaluation_strategy steps --save_strategy steps --save_steps 1000
--save_total_limit 10 --learning_rate 1e-6 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01
--lr_scheduler_type cosine --logging_steps 1 --gradient_checkpointing true --deepspeed ds_config_zero2.json
--report_to tensorboard
"""


def _rows(page: Path) -> list[list[str]]:
    """Return the cells of the tables that compare flags, one list for each row."""
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    return [row for row in rows if len(row) == 4 and "---" not in row[0]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_on_the_page_are_flags_of_training(page: Path) -> None:
    known = {*all_settings(), *OTHER_NAMES}
    column = 0 if page.stem == "from_official" else 2
    named = {flag for row in _rows(page) for flag in re.findall(r"--(\w+)", row[column])}
    renamed = {"evaluation_strategy", "warmup_ratio", "lora_layer_replication"}  # read under another name, or refused
    assert len(named) > 20
    assert named - known - renamed == set()


def test_every_flag_of_the_official_scripts_is_read() -> None:
    """Renamed ones too, with the official values; float16 alone needs a GPU."""
    official = _OFFICIAL.split()
    request = parse_arguments(
        ["--model_name_or_path", "M", "--llm_type", "qwen2", "--data_path", "D", "--eval_data_path", "E", *official]
    )
    assert request.training["eval_strategy"] == "steps"
    named = {flag for row in _rows(PAGES[0]) for flag in re.findall(r"--(\w+)", row[0])}
    assert {word[2:] for word in official if word.startswith("--")} - named == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_of_settings_files_are_flags(document: Path) -> None:
    known = {*all_settings(), *OTHER_NAMES}
    for block in code_blocks(document, "yaml"):
        keys = re.findall(r"^([\w-]+):", block, re.MULTILINE)
        if keys[0] == "model":  # others are files of a scheduler
            assert set(keys) - known == set(), block
