"""What the scripts are told before they start processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minicpmv.devices import inspection
from minicpmv.machine.value import Machine
from minicpmv.training.launching import hardware
from minicpmv.training.launching.cpu_process import asks_for_cpu
from tests.machines import CPU, GPU, OLD_GPU, card, machine_with

_SLICE = machine_with(card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (8, 0)), num_cores=8)


@pytest.mark.parametrize(
    ("machine", "flags", "told"),
    [
        (CPU, [], "0 fp32 *"),
        (GPU, [], "2 bf16 *"),
        (OLD_GPU, [], "1 fp16 *"),
        (_SLICE, [], "1 bf16 *"),
        (GPU, ["--use_cpu", "true"], "0 fp32 *"),
        (replace(CPU, shown=("NVIDIA GPU",)), ["--use_cpu", "true"], "0 fp32 *"),
    ],
)
def test_scripts_are_told_in_three_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: Machine, flags: list[str], told: str
) -> None:
    monkeypatch.setattr(inspection, "inspect_machine", lambda: machine)
    assert hardware.main(flags) == 0
    count, precision, port = capsys.readouterr().out.split()
    assert f"{count} {precision} *" == told
    assert 0 < int(port) < 2**16


def test_old_driver_is_an_error_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = machine_with(shown=("NVIDIA GPU",) * 8, driver="550.54.15")
    monkeypatch.setattr(inspection, "inspect_machine", lambda: machine)
    assert hardware.main(["--fp16", "true"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: machine: found 8 NVIDIA GPUs (driver 550.54.15)")


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ("", False),
        ("--use_cpu", True),
        ("--use_cpu true", True),
        ("--use-cpu=True", True),
        ("--no_cuda --max_steps 3", True),
        ("--use_cpu false", False),
        ("--use_cpu=0", False),
        ("--use_cpu true --use_cpu false", False),
        ("--output_dir use_cpu", False),
    ],
)
def test_processor_that_is_asked_for_is_known_before_torch_is_loaded(flags: str, asked: bool) -> None:
    assert asks_for_cpu(flags.split()) == asked
