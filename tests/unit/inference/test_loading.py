"""On what, and in which precision, a model is opened."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minicpmv.errors import CheckpointError, MachineError
from minicpmv.inference import loading
from minicpmv.inference.loading import default_device, load_model
from minicpmv.machine.value import Accelerator, Machine
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.machines import CPU, GPU, machine_with
from tests.tiny import FIXTURES


@pytest.mark.parametrize(
    ("release", "capability", "dtype"),
    [
        ("v2_6", (8, 0), None),
        ("v2_6", (7, 5), torch.float16),
        ("v4", (7, 0), torch.float16),
        ("v2_5", (7, 5), None),  # it was saved in float16
    ],
)
def test_weights_are_never_in_a_precision_that_the_card_emulates(
    monkeypatch: pytest.MonkeyPatch, release: str, capability: tuple[int, int], dtype: torch.dtype | None
) -> None:
    shown = SimpleNamespace(name="a card", major=capability[0], minor=capability[1], total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: shown)
    assert loading._choose_dtype(str(FIXTURES / release), torch.device("cuda")) == dtype
    assert loading._choose_dtype(str(FIXTURES / release), torch.device("cpu")) == torch.float32
    assert loading._choose_dtype(str(FIXTURES / release), torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("release", "is_said"), [("v2_6", True), ("v4_5", False)])
def test_model_that_is_known_to_overflow_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, release: str, is_said: bool
) -> None:
    shown = SimpleNamespace(name="Tesla T4", major=7, minor=5, total_memory=2**34)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: shown)
    with caplog.at_level(logging.WARNING):
        loading._choose_dtype(str(FIXTURES / release), torch.device("cuda"))
    said = (
        "because Tesla T4, of compute capability 7.5, has no bfloat16, which begins with 8.0; openbmb/MiniCPM-V-2_6 is"
    )
    assert [said in each.message for each in caplog.records] == ([True] if is_said else [])


def test_first_gpu_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, device in ((CPU, "cpu"), (GPU, "cuda")):
        monkeypatch.setattr(loading, "inspect_machine", lambda machine=machine: machine)
        assert default_device() == torch.device(device)
        assert default_device("cpu") == torch.device("cpu")
    assert default_device(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert default_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ("gpu", "found 'gpu', expected cpu, cuda or cuda:N"),
        ("", "found '', expected cpu"),
        ("cuda:2", "found 'cuda:2' on a machine with 2 devices of that kind"),
        ("mps", "found 'mps' on a machine with no device of that kind"),
    ],
)
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, device: str, found: str) -> None:
    monkeypatch.setattr(loading, "inspect_machine", lambda: GPU)
    with pytest.raises(MachineError) as refused:
        default_device(device)
    assert found in str(refused.value)


@pytest.mark.parametrize(
    "machine", [replace(CPU, shown=("NVIDIA GPU",)), machine_with(Accelerator(name="mps", kind="mps"))]
)
def test_what_cannot_be_used_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(loading, "inspect_machine", lambda: machine)
    with pytest.raises(MachineError, match="--device cpu"):
        default_device()
    if machine.accelerators:
        assert default_device("mps") == torch.device("mps"), "who wants to try it can"
    else:
        with pytest.raises(MachineError, match="cannot use"):
            default_device("cuda")


@pytest.mark.parametrize(("device", "placement"), [("meta", {"": torch.device("meta")}), ("cpu", None)])
def test_weights_are_read_to_the_device_without_a_stay_in_memory(
    device: str, placement: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = MiniCPMVForConditionalGeneration.from_pretrained, []

    def note(*args: Any, **options: Any) -> Any:
        asked.append(options.get("device_map"))
        return read(*args, **options)

    monkeypatch.setattr(MiniCPMVForConditionalGeneration, "from_pretrained", note)
    loaded = load_model(FIXTURES / "v2_6", device=device, dtype=torch.float32)
    assert asked == [placement]
    assert {parameter.device.type for parameter in loaded.model.parameters()} == {device}


def test_a_stopped_run_is_told_by_its_newest_checkpoint(tmp_path: Path) -> None:
    for number in (2, 10):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "adapter_config.json").write_text("{}")
    (tmp_path / "checkpoint-last").mkdir()
    said = rf"found a run that has not saved its model yet, .*\n  fix: name .*, {tmp_path}/checkpoint-10, or finish"
    with pytest.raises(CheckpointError, match=said):
        load_model(str(tmp_path))
