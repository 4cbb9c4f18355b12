from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import TrainingArguments

from minicpmv.models.adapters.base_identity import BaseIdentity
from minicpmv.training.checkpoints.fingerprint import (
    find_changes,
    find_extension,
    find_other_base,
    find_other_lengths,
    take_fingerprint,
)
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.catalogue import all_settings
from minicpmv.training.flags.fields import Resume
from minicpmv.training.flags.resolution import resolve_settings
from tests.machines import CPU

_DATA = [{"path": "a.json", "sha256": "1" * 64}]
_BASE = BaseIdentity("/models/2_6", "MiniCPM-V-2.6", "a" * 64, "b" * 64, "c" * 64)


def fingerprint(
    extra: str = "",
    data: list[dict[str, Any]] = _DATA,
    *,
    output: Path = Path("o"),
    base: BaseIdentity = _BASE,
    lengths: NDArray[np.int32] | None = None,
) -> dict[str, Any]:
    needed = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", str(output), "--report_to", "none"]
    request = parse_arguments([*needed, *extra.split()])
    settings = resolve_settings(request, CPU)
    args = TrainingArguments(**settings.training)
    return take_fingerprint(settings.run, args, base, data, lengths, compilation=settings.compilation)


@pytest.mark.parametrize(
    ("extra", "change"),
    [
        ("--seed 7", "--seed: 42 then, 7 now"),
        ("--learning_rate 1e-4", "--learning_rate: 1e-05 then, 0.0001 now"),
        ("--lr_scheduler_type linear", "--lr_scheduler_type: cosine then, linear now"),
        ("--packing false", "--packing: true then, false now"),
        ("--tune_vision false", "--tune_vision: null then, false now"),
        ("--vision_lr 1e-6", "--vision_lr: null then, 1e-06 now"),
        ("--bf16 true", "--bf16: false then, true now"),
        ("--max_slice_nums 4", "--max_slice_nums: null then, 4 now"),
        ("--gradient_accumulation_steps 3", "--gradient_accumulation_steps: 2 then, 3 now"),
        ("--torch_compile true", "--torch_compile: null then, {} now"),
        ("--full_determinism true", "--full_determinism: false then, true now"),
        ("--dataloader_in_order false --dataloader_num_workers 1", "--dataloader_in_order: true then, false now"),
    ],
)
def test_what_decides_the_numbers_is_compared(extra: str, change: str) -> None:
    assert find_changes(fingerprint(), fingerprint(extra)) == [change]


@pytest.mark.parametrize(
    "extra",
    [
        "--logging_steps 1 --save_steps 3 --save_total_limit 1 --report_to none --eval_steps 7",
        "--dataloader_num_workers 2 --resume_from_checkpoint true --run_name again",
        "--activation_checkpointing true",
        "--seed 42 --learning_rate 1e-5",  # written out, and what they would be anyway
    ],
)
def test_what_changes_no_number_is_free(extra: str) -> None:
    assert find_changes(fingerprint(), fingerprint(extra, output=Path("elsewhere"))) == []


def test_files_count_by_what_they_hold_and_by_their_weight() -> None:
    moved = [{"path": "elsewhere.json", "sha256": "1" * 64}]
    assert find_changes(fingerprint(), fingerprint(data=moved)) == []
    for data in ([{"path": "a.json", "sha256": "2" * 64}], [*_DATA, *_DATA], [_DATA[0] | {"weight": 2.0}]):
        (change,) = find_changes(fingerprint(), fingerprint(data=data))
        assert change.startswith("--data_path: ")


def test_a_longer_run_is_an_extension_and_no_change() -> None:
    before, now = fingerprint("--num_train_epochs 3"), fingerprint("--num_train_epochs 5")
    assert find_changes(before, now) == []
    assert find_extension(before, now) == [
        "--num_train_epochs: 3.0 then, 5.0 now; from here on the schedule is the new run's"
    ]


def test_what_only_one_of_the_two_knows_is_a_change() -> None:
    before = fingerprint()
    del before["seed"]
    assert find_changes(before, fingerprint()) == ["--seed: null then, 42 now"]
    assert find_changes(fingerprint(), before) == ["--seed: 42 then, null now"]


def test_settings_count_as_they_are_declared() -> None:
    declared = {resume: {n for n, s in all_settings().items() if s.resume == resume} for resume in get_args(Resume)}
    by_content = {"base_model", "data", "record_lengths", "torch_compile"}
    assert fingerprint().keys() == declared["same"] | declared["length"] | by_content


def test_base_counts_by_its_weights_wherever_it_lies() -> None:
    assert find_other_base(fingerprint(), fingerprint(base=replace(_BASE, path="/elsewhere"))) is None
    fine_tuned = replace(_BASE, path="/models/tuned", weights="c" * 64)
    assert find_other_base(fingerprint(), fingerprint(base=fine_tuned)) == (
        f"--model_name_or_path: {_BASE} then, /models/tuned (MiniCPM-V-2.6, weights cccccccccccc) now, "
        "whose weights are others",
        True,
    )
    larger = replace(fine_tuned, shapes="d" * 64)
    told = find_other_base(fingerprint(), fingerprint(base=larger))
    assert told is not None
    assert told[1] is False
    assert find_changes(fingerprint(), fingerprint(base=larger)) == [], "it is told by itself"


def test_lengths_of_records_count_where_both_know_them() -> None:
    before, other = (fingerprint(lengths=np.array(lengths, np.int32)) for lengths in ([5, 6], [5, 7]))
    assert find_other_lengths(before, fingerprint(lengths=np.array([5, 6], np.int32))) is None
    assert "other batches" in str(find_other_lengths(before, other))
    assert find_other_lengths(before, fingerprint()) is None, "as with --check_first false"
    assert find_changes(before, other) == [], "it is told by itself"
