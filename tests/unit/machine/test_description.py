"""What a run says of its hardware is what the machine is."""

from __future__ import annotations

from minicpmv.machine.description import describe_machine, name_machine
from tests.machines import CPU, GPU, OLD_GPU


def test_a_processor_is_named_by_its_cores() -> None:
    assert name_machine(CPU, device_type="cpu") == "8 cores"
    assert describe_machine(CPU, device_type="cpu") == {"cores": 8, "ram_gib": 32.0}


def test_a_card_is_named_with_memory_attention_and_driver() -> None:
    assert (
        name_machine(GPU, device_type="cuda")
        == "NVIDIA A100-SXM4-80GB, 80 GiB, variable-length attention, driver 580.65.06"
    )
    a100 = {"name": "NVIDIA A100-SXM4-80GB", "memory_gib": 80.0, "attention": "variable-length"}
    assert describe_machine(GPU, device_type="cuda") == {
        "cores": 8,
        "ram_gib": 32.0,
        "accelerators": [a100, a100],
        "driver": "580.65.06",
    }


def test_an_old_card_is_said_to_have_no_such_kernel() -> None:
    assert name_machine(OLD_GPU, device_type="cuda") == "Tesla T4, 16 GiB, sdpa attention, driver 580.65.06"


def test_cards_that_are_not_used_are_not_named() -> None:
    assert name_machine(GPU, device_type="cpu") == "8 cores"
    assert "accelerators" not in describe_machine(GPU, device_type="cpu")
