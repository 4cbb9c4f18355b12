from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from minicpmv.data.samples.collation import PackedCollator
from minicpmv.models.networks.flops import Work
from minicpmv.models.networks.layout import lay_out
from minicpmv.training.inputs.record_ids import NumberedCollator, NumberedDataset, take_numbers
from minicpmv.training.monitoring.throughput import Throughput

_CPU = torch.device("cpu")
_EACH = Work(tokens=10**6)


def packed(*lengths: int) -> dict[str, Any]:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return lay_out({"input_ids": positions, "labels": positions, "position_ids": positions})


def test_rates_are_of_what_was_counted_since_the_last_time() -> None:
    throughput = Throughput(_EACH)
    throughput.start()
    throughput.count(packed(3, 5), num_records=2)
    throughput.count(packed(4), num_records=1)
    rates = throughput.read(_CPU)
    assert rates["tokens_per_second"] / rates["samples_per_second"] == pytest.approx(12 / 3)
    assert rates["tflops_per_second"] == pytest.approx(rates["tokens_per_second"] * 1e6 / 1e12)
    assert set(throughput.read(_CPU).values()) == {0}


def test_a_row_without_records_is_no_work() -> None:
    throughput = Throughput(_EACH)
    throughput.start()
    throughput.count(packed(1), num_records=0)
    assert set(throughput.read(_CPU).values()) == {0}


def test_nothing_is_told_before_the_clock_runs() -> None:
    assert Throughput(_EACH).read(_CPU) == {}


def test_time_of_a_pause_does_not_count_and_a_pause_within_it_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    throughput = Throughput(_EACH)
    throughput.start()
    with throughput.paused():
        clock[0] += 1000
        with throughput.paused():
            clock[0] += 100
    clock[0] += 4
    throughput.count(packed(100), num_records=1)
    assert throughput.read(_CPU)["samples_per_second"] == 1 / 4


def test_skipped_records_have_no_number() -> None:
    def item(length: int) -> dict[str, Tensor]:
        ids = torch.zeros(length, dtype=torch.int64)
        return {"input_ids": ids, "labels": ids, "tgt_sizes": torch.zeros(0, 2, dtype=torch.int64)}

    dataset = NumberedDataset([item(2), item(0), item(3)])
    batch = NumberedCollator(PackedCollator(0))([dataset[index] for index in range(3)])
    assert take_numbers(batch) == [0, 2]
    assert batch.keys() == {"input_ids", "labels", "layout"}
