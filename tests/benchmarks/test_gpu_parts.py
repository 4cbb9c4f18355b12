"""The pieces of ``benchmarks.gpu`` that a whole run on a CPU does not show."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.cases import CommandFailed, Setting, bounded, run_python
from benchmarks.gpu.lines import Lines, read_lines
from benchmarks.gpu.running import Plan, run_stages
from benchmarks.gpu.stages import STAGES, Stage, linear_layers
from benchmarks.gpu.tracing import read_trace
from benchmarks.gpu.worker import run_stage
from minicpmv.models.native import linear_attention


def test_the_page_names_every_stage_with_its_time() -> None:
    page = (Path(__file__).parents[2] / "docs/gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)
    assert rows == [(name, f"{stage.seconds:.0f}") for name, stage in STAGES.items()]


def _event(kind: str, name: str, start: float, end: float, **arguments: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": end - start, "args": arguments}


def test_a_profile_is_added_up(tmp_path: Path) -> None:
    """Times are microseconds. Two streams overlap from 150 to 200; the copies are those that a host waits for."""
    events = [
        _event("cpu_op", "torch_attn::_varlen_attn", 0, 5),
        _event("cpu_op", "torch_attn::_varlen_attn", 5, 9),
        _event("cpu_op", "torch_attn::_varlen_attn_backward", 9, 12),
        _event("cpu_op", "aten::mm", 12, 14),
        _event("kernel", "gemm", 100, 200),
        _event("kernel", "gemm", 300, 350),
        _event("kernel", "norm", 150, 210),
        _event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 400, 410, bytes=1000),
        _event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 420, 440, bytes=5000),
        _event("cuda_runtime", "cudaStreamSynchronize", 500, 600),
        _event("cuda_runtime", "cudaLaunchKernel", 600, 601),
        {"ph": "M", "name": "process_name"},
    ]
    path = tmp_path / "trace.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump({"traceEvents": events}, file)
    found = read_trace(path)
    assert found["busy_seconds"] == pytest.approx((110 + 50 + 10 + 20) * 1e-6)
    assert found["attention"] == {"torch_attn::_varlen_attn": 2}
    assert found["top"] == [["gemm", 2, pytest.approx(150e-6)], ["norm", 1, pytest.approx(60e-6)]]
    assert found["copies"] == {"Memcpy HtoD (Pageable -> Device)": {"number": 2, "bytes": 6000, "largest": 5000}}
    assert found["waits"] == [["cudaStreamSynchronize", 1, pytest.approx(100e-6)]]


def test_lines_behind_a_torn_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "gpu.jsonl"
    Lines(path, {"device": "first"}).write({"stage": "facts", "number": 1.5})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"stage": "facts", "numb')
    Lines(path, {"device": "second"}).write({"stage": "facts", "number": 2.5})
    assert [(line["device"], line["number"]) for line in read_lines(path)] == [("first", 1.5), ("second", 2.5)]


@pytest.mark.parametrize(("value", "holds"), [(0.1, True), (0.3, False), (float("nan"), False), (float("inf"), False)])
def test_what_is_no_number_does_not_hold(value: float, holds: bool) -> None:
    assert bounded(value, most=0.2)["holds"] is holds


def test_a_command_that_takes_too_long_is_ended_and_what_it_said_is_kept() -> None:
    with pytest.raises(CommandFailed, match="still ran after 2 s") as caught:
        run_python(["-c", "import time; print('said', flush=True); time.sleep(60)"], seconds=2)
    assert caught.value.last_lines == ["said"]


class _Gone(Setting):
    """A device on which every call fails, as after an illegal access."""

    def wait(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_device_that_no_longer_answers_ends_the_process(tmp_path: Path) -> None:
    """So that another one goes on, instead of failing in every case that is left."""
    options: dict[str, Any] = {"is_small": True, "release": "2.6", "folder": tmp_path, "output": tmp_path / "x"}
    events: list[dict[str, Any]] = []
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run_stage("facts", _Gone(device=torch.device("cpu"), traces=None, **options), events.append, after=None)
    assert events[-1] == {"begins": {"stage": "facts", "case": "copies to the device"}}, "whoever goes on starts behind"

    events.clear()
    run_stage("facts", Setting(device=torch.device("cpu"), traces=None, **options), events.append, after="machine")
    assert next(event["begins"]["case"] for event in events if "begins" in event) == "matrix products"


@pytest.mark.slow
def test_a_stage_that_takes_too_long_is_ended_and_the_next_one_runs(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "gpu.jsonl", {})
    stages = {"kernels": Stage(0.5, "too long for this"), "facts": Stage(60, "what follows")}
    words = ["--small", "--release", "2.6", "--output", str(tmp_path / "gpu.jsonl")]
    run_stages(Plan(stages, 10, True, words), lines)
    of_kernels = [line for line in lines.written if line["stage"] == "kernels"]
    assert of_kernels[-1]["failed"] == "the time of its stage was over"
    assert {line["case"] for line in lines.written if line["stage"] == "facts"} > {"machine", "matrix products"}


@pytest.mark.parametrize("is_told", [True, False])
def test_a_sample_that_reads_the_one_before_it_does_not_hold(
    is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_told:
        monkeypatch.setattr(linear_attention, "_carry", lambda given, lengths: linear_attention._run_rule(given))
    options: dict[str, Any] = {"is_small": True, "release": "2.6", "folder": tmp_path, "output": tmp_path / "x"}
    for case in linear_layers.cases(Setting(device=torch.device("cpu"), traces=None, **options)):
        (found,) = case.measure()
        assert found["holds"] is is_told, found
