"""Which row a dry run takes, and how it counts and writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from minicpmv.data.batches.grouping import BatchPlanner
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.training.inputs.planned_batches import count_steps
from minicpmv.training.start.dry_run import (
    DryRunChecks,
    _check_memory,
    _count_kept,
    _find_costliest,
    _SameRow,
)

_LENGTHS = np.asarray([10, 10, 10, 40, 12, 12], dtype=np.int32)


def _material() -> Any:
    return SimpleNamespace(lengths=SimpleNamespace(lengths=_LENGTHS))


def test_padding_counts_in_padded_batches() -> None:
    """Records 2 and 3 take twice 40 tokens, 50 of them real."""
    plan = BatchPlanner(6, batch_size=2, shuffle=False)
    row, share = _find_costliest(plan, _LENGTHS.astype(float), _material())
    assert row == [2, 3]
    assert share == pytest.approx((20 + 80 + 24) / 3 / 80)


def test_images_count_as_the_work_they_are() -> None:
    costs = _LENGTHS.astype(float) + np.asarray([0, 0, 0, 0, 100, 0.0])
    row, _ = _find_costliest(BatchPlanner(6, batch_size=1, shuffle=False), costs, _material())
    assert row == [4]


def test_packed_row_costs_what_its_records_cost() -> None:
    plan = RowPlanner(_LENGTHS, capacity=40, costs=_LENGTHS.astype(float), num_ranks=1, shuffle=False)
    row, share = _find_costliest(plan, _LENGTHS.astype(float), _material())
    assert _LENGTHS[row].sum() == max(_LENGTHS[each].sum() for each in plan.rows(0))
    assert 0 < share <= 1


def test_empty_rows_at_the_end_of_an_epoch_cost_nothing() -> None:
    plan = BatchPlanner(5, batch_size=1, num_ranks=4, shuffle=False)
    row, share = _find_costliest(plan, _LENGTHS[:5].astype(float), _material())
    assert row == [3]
    assert share == pytest.approx(_LENGTHS[:5].mean() / 40)


def test_same_row_again_and_again() -> None:
    rows = _SameRow([4, 2], 3).rows(7)
    assert list(rows) == [[4, 2]] * 3


def test_memory_of_a_gpu_is_said_with_what_its_tensors_do_not_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are those of torch.cuda, which no processor has; a card shares its memory with more than tensors."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 60 * gib)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 66 * gib)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 64 * gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (14 * gib, 80 * gib))
    checks = DryRunChecks(is_dry=True)
    checks._left[:] = ["memory"]
    _check_memory(checks, SimpleNamespace(device=torch.device("cuda", 0)))  # pyright: ignore[reportArgumentType]
    assert (
        "peak 60.00 GiB of tensors and 66.00 GiB reserved for them, plus 2.00 GiB for others (CUDA, NCCL, other "
        "programs), on each of 1 GPU with 80.0 GiB" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "steps", "save_steps": 500}, 1),
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}, 3),  # one more while it is written
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}, 5),
        ({"save_strategy": "steps", "save_steps": 0.5, "save_total_limit": 5}, 2),
        ({"save_strategy": "epoch", "save_total_limit": 9}, 3),
    ],
)
def test_checkpoints_that_exist_at_once(flags: dict[str, Any], kept: int) -> None:
    args = TrainingArguments(use_cpu=True, num_train_epochs=3, **flags)
    plan = BatchPlanner(6, batch_size=2)
    assert count_steps(plan, args) == 9
    assert _count_kept(args, 9, plan) == kept


def test_run_that_is_no_rehearsal_says_what_every_run_says(capsys: pytest.CaptureFixture[str]) -> None:
    checks = DryRunChecks(is_dry=False)
    checks.passed("flags", "never shown")
    checks.report("batches", "each step: 1 record")
    assert capsys.readouterr().out == "each step: 1 record\n"
