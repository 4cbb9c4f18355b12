"""Where the weights of a run are read to, and that nothing of them stays behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.deepspeed.presets import resolve_deepspeed
from minicpmv.training.inputs.base_checkpoint import load_base
from tests.tiny import FIXTURES

GPU = torch.device("cuda", 1)


class _ReadHere(Exception):
    """Carries what reached ``from_pretrained``: torch here has no GPU to go on with."""


def _device_map(monkeypatch: pytest.MonkeyPatch, extra: str = "", device: torch.device = GPU, **args: Any) -> Any:
    """Return the ``device_map`` that reaches transformers."""

    def read(source: str, **options: Any) -> None:
        raise _ReadHere(options.get("device_map"))

    monkeypatch.setattr(MiniCPMVForConditionalGeneration, "from_pretrained", read)
    base = FIXTURES / "v2_6"
    run = parse_arguments(
        ["--model_name_or_path", str(base), "--data_path", "d.json", "--output_dir", "o", *extra.split()]
    ).run
    settings = {"bf16": True, "fp16": False, "deepspeed": None, "fsdp": False, "process_index": 0} | args
    with pytest.raises(_ReadHere) as caught:
        load_base(Path(base), run, SimpleNamespace(device=device, **settings))  # pyright: ignore[reportArgumentType]
    return caught.value.args[0]


@pytest.mark.parametrize("extra", ["", "--use_lora true", "--use_lora true --q_lora true"])
@pytest.mark.parametrize("engine", [None, "zero1", "zero2", "zero2-offload"])
def test_weights_are_read_to_the_device_that_computes_with_them(
    extra: str, engine: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepspeed = engine and resolve_deepspeed(engine, on_cpu=False).config
    assert _device_map(monkeypatch, extra, deepspeed=deepspeed) == {"": GPU}


@pytest.mark.parametrize("engine", ["zero3", "zero3-offload"])
def test_zero_3_reads_by_itself(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _device_map(monkeypatch, deepspeed=resolve_deepspeed(engine, on_cpu=False).config) is None


def test_on_a_cpu_nothing_is_said_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT would dispatch a model that was told so."""
    assert _device_map(monkeypatch, device=torch.device("cpu")) is None


def test_under_fsdp_the_first_process_alone_reads_and_keeps_the_gpu_for_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _device_map(monkeypatch, fsdp=True) is None
    assert _device_map(monkeypatch, fsdp=True, process_index=1) == {"": torch.device("meta")}


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_decompositions_of_the_base_stay_on_the_cpu(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = f"--use_lora true --init_lora_weights {start}"
    assert _device_map(monkeypatch, extra) is None
    assert _device_map(monkeypatch, extra, fsdp=True, process_index=1) is None
