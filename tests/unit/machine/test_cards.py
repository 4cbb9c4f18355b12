"""Real cards, and what their makers say that they can do, beside what is chosen for them."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from minicpmv.machine.cards import CARDS
from minicpmv.machine.kernels import attention_kernel
from minicpmv.machine.precision import precision, precision_of
from minicpmv.machine.support import support_of
from minicpmv.machine.value import Accelerator, TorchBuild
from tests.machines import CPU, GPU, OLD_GPU, card, machine_with


class Row(NamedTuple):
    """A card as torch shows it; then, from its maker's words alone, what is right for it."""

    shown: Accelerator
    precision: str
    kernel: str
    support: str
    listed: str | None = None
    """Its name in ``minicpmv estimate``."""


def other(kind: str, name: str, gib: float | None = None) -> Accelerator:
    return Accelerator(name=name, kind=kind, memory_bytes=None if gib is None else round(gib * 2**30))  # pyright: ignore[reportArgumentType]


# FlashAttention-2, which torch's variable-length kernel is, asks for "Ampere, Ada, or Hopper GPUs":
# https://github.com/Dao-AILab/flash-attention#nvidia-cuda-support. Memory is what torch shows on such a card.
ROWS = [
    # https://www.nvidia.com/en-us/data-center/v100/: tensor cores for FP16 alone; Volta
    Row(card("Tesla V100-SXM2-16GB", (7, 0), 15.8), "fp16", "sdpa", "refused", "v100"),
    # https://www.nvidia.com/en-us/data-center/tesla-t4/: FP16/FP32 mixed precision, INT8, INT4, no BF16; Turing
    Row(card("Tesla T4", (7, 5), 14.6), "fp16", "sdpa", "used", "t4"),
    # https://images.nvidia.com/.../NVIDIA-Turing-Architecture-Whitepaper.pdf: tensor cores for FP16, INT8, INT4
    Row(card("NVIDIA GeForce RTX 2080 Ti", (7, 5), 10.8), "fp16", "sdpa", "used"),
    # NVIDIA Ampere GA102 whitepaper, table 3: BF16 on third-generation tensor cores
    Row(card("NVIDIA GeForce RTX 3090", (8, 6), 23.7), "bf16", "variable-length", "used", "3090"),
    # NVIDIA Ada GPU Architecture whitepaper, table 2: BF16
    Row(card("NVIDIA GeForce RTX 4090", (8, 9), 23.6), "bf16", "variable-length", "used", "4090"),
    # https://www.nvidia.com/en-us/data-center/l4/: BFLOAT16 Tensor Core 242 teraFLOPS with sparsity
    Row(card("NVIDIA L4", (8, 9), 22.2), "bf16", "variable-length", "used", "l4"),
    # https://www.nvidia.com/en-us/data-center/a100/: BFLOAT16 Tensor Core 312 TFLOPS
    Row(card("NVIDIA A100-SXM4-40GB", (8, 0), 39.4), "bf16", "variable-length", "used", "a100"),
    Row(card("NVIDIA A100-SXM4-80GB", (8, 0), 79.3), "bf16", "variable-length", "used", "a100-80g"),
    # https://docs.nvidia.com/datacenter/tesla/mig-user-guide/: a slice computes as its card does, on less of it
    Row(card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (8, 0), 19.5), "bf16", "variable-length", "used"),
    # https://www.nvidia.com/en-us/data-center/h100/: BFLOAT16 Tensor Core 1,979 teraFLOPS with sparsity
    Row(card("NVIDIA H100 80GB HBM3", (9, 0), 79.2), "bf16", "variable-length", "used", "h100"),
    # https://www.nvidia.com/en-us/data-center/h200/: the same, 141 GB
    Row(card("NVIDIA H200", (9, 0), 139.8), "bf16", "variable-length", "used", "h200"),
    # https://www.nvidia.com/en-us/geforce/graphics-cards/50-series/rtx-5090/: Blackwell, compute capability 12.0
    Row(card("NVIDIA GeForce RTX 5090", (12, 0), 31.4), "bf16", "variable-length", "used"),
    # https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html: peak bfloat16 1,307 TFLOPs, 192 GB
    Row(other("rocm", "AMD Instinct MI300X", 191.7), "bf16", "probe", "untested"),
    # https://developer.apple.com/metal/pytorch/: what is missing there falls back to the processor, or fails
    Row(other("mps", "mps"), "fp32", "sdpa", "refused"),
    # https://github.com/Ascend/pytorch: torch_npu, an addition to torch with operators of its own
    Row(other("npu", "Ascend910B"), "fp32", "sdpa", "refused"),
]

# What PyPI's torch 2.13 says of itself: RELEASE.md of pytorch, CUDA 13.0.
_RELEASED = TorchBuild(
    version="2.13.0",
    platform="CUDA",
    platform_version="13.0",
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.shown.name)
def test_card_gets_what_its_maker_says_it_can_do(row: Row) -> None:
    assert precision_of(row.shown).value == row.precision
    assert attention_kernel(row.shown).value == row.kernel
    assert support_of(row.shown, _RELEASED).value == row.support
    assert row.shown.is_slice == ("MIG" in row.shown.name)


@pytest.mark.parametrize("row", [row for row in ROWS if row.listed], ids=lambda row: row.listed)
def test_card_of_an_estimate_is_the_real_one(row: Row) -> None:
    listed = CARDS[row.listed or ""].as_accelerator()
    assert listed.capability == row.shown.capability
    assert listed.memory_bytes is not None
    assert row.shown.memory_bytes is not None
    assert listed.memory_bytes == pytest.approx(row.shown.memory_bytes, rel=0.01)
    assert precision_of(listed).value == row.precision


def test_every_listed_card_has_the_precision_that_its_year_had() -> None:
    assert {name for name, each in CARDS.items() if precision_of(each.as_accelerator()).value != "bf16"} == {
        "t4",
        "v100",
        "v100-32g",
    }


def test_run_on_several_cards_has_the_precision_that_each_of_them_has() -> None:
    assert precision(CPU).value == "fp32"
    assert precision(GPU).value == "bf16"
    mixed = machine_with(*GPU.accelerators, *OLD_GPU.accelerators)
    assert precision(mixed).value == "fp16"
    assert precision(mixed).reason.startswith("Tesla T4, of compute capability 7.5, has no bfloat16")


@pytest.mark.parametrize(
    ("capability", "architectures", "is_used"),
    [
        ((7, 0), ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"), True),  # cu126: Volta
        ((6, 1), ("sm_50", "sm_60", "sm_70"), True),  # the same generation, older
        ((8, 9), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),  # newer than the card
        ((10, 3), ("sm_90", "sm_100"), True),  # B300 on code for B200
        ((12, 0), ("sm_90", "compute_90"), True),  # the driver compiles it
        ((12, 0), ("sm_90",), False),
        ((10, 0), ("sm_90a", "sm_100a"), True),
        ((10, 3), ("sm_100a",), False),  # for that chip alone
        ((9, 0), (), True),  # torch does not say
        ((9, 0), ("gfx942",), True),  # nor in words that we know
    ],
)
def test_card_is_used_where_torch_has_kernels_for_it(
    capability: tuple[int, int], architectures: tuple[str, ...], is_used: bool
) -> None:
    torch = TorchBuild(version="2.13.0", platform="CUDA", platform_version="13.0", architectures=architectures)
    assert (support_of(card("a card", capability), torch).value == "used") == is_used
