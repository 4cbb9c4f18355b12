"""Does one thing after the other on the watched device: ``python -m tests.gpu_walk.probe_device``, beside the fake one.

Prints for each probe of ``PROBES`` what the device wrote down, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from tests.gpu_walk.device import WatchedDevice

__all__ = ["PROBES"]

_GPU = "cuda:0"


def _numbers() -> torch.Tensor:
    return torch.arange(6, device=_GPU)


def _learning() -> torch.Tensor:
    return torch.ones(6, device=_GPU, requires_grad=True)


# What is done -> the operation, where to, and whether the host waits.
PROBES: dict[str, tuple[Callable[[], object], list[tuple[str, str, bool]]]] = {
    "computing": (lambda: (_learning() * 2).sum().backward(), []),
    "a slice": (lambda: _numbers()[2:4], []),
    "places on the device": (lambda: _numbers()[_numbers()[:2]], []),
    "a number filled in": (lambda: _numbers().fill_(3), []),
    "item": (lambda: _numbers().sum().item(), [("item", "host", True)]),
    "int": (lambda: int(_numbers()[0]), [("item", "host", True)]),
    "a condition": (lambda: bool((_numbers() > 3).any()), [("item", "host", True)]),
    "tolist is one copy": (lambda: _numbers().view(2, 3).tolist(), [("tolist", "host", True)]),
    "equal": (lambda: torch.equal(_numbers(), _numbers()), [("equal", "host", True)]),
    "cpu": (lambda: _numbers().cpu(), [("copy", "host", True)]),
    "nonzero": (lambda: _numbers().nonzero(), [("nonzero", "host", True)]),
    "where": (lambda: torch.where(_numbers() > 3), [("nonzero", "host", True)]),
    "unique": (lambda: _numbers().unique(), [("_unique2", "host", True)]),
    "a mask as an index": (lambda: _numbers()[_numbers() > 3], [("index by a mask", "host", True)]),
    "the gradient of a mask": (
        lambda: _learning()[_numbers() > 3].sum().backward(),
        [("index by a mask", "host", True)] * 2,
    ),
    "masked_select": (lambda: _learning().masked_select(_numbers() > 3), [("masked_select", "host", True)]),
    "the gradient of masked_scatter": (
        lambda: torch.zeros(6, device=_GPU).masked_scatter(_numbers() > 3, _learning()).sum().backward(),
        [("masked_scatter_backward", "host", True)],
    ),
    "repeats of unknown number": (
        lambda: _numbers().repeat_interleave(_numbers()),
        [("repeat_interleave", "host", True)],
    ),
    "repeats of known number": (lambda: _numbers().repeat_interleave(_numbers(), output_size=15), []),
    "Python's numbers": (lambda: torch.tensor([1, 2], device=_GPU), [("copy", "device", True)]),
    "to the device": (lambda: torch.zeros(3).to(_GPU), [("copy", "device", True)]),
    "into a tensor there": (lambda: _learning().detach().copy_(torch.zeros(6)), [("copy", "device", True)]),
    "a little, without a wait": (lambda: torch.zeros(3).to(_GPU, non_blocking=True), [("copy", "device", False)]),
    "much, of pageable memory": (lambda: torch.zeros(10**5).to(_GPU, non_blocking=True), [("copy", "device", True)]),
    "much, of pinned memory": (
        lambda: torch.zeros(10**5).pin_memory().to(_GPU, non_blocking=True),
        [("copy", "device", False)],
    ),
    "pinned, but not told to go on": (lambda: torch.zeros(3).pin_memory().to(_GPU), [("copy", "device", True)]),
    "nothing": (lambda: torch.zeros(0).to(_GPU), []),
    "places on the host": (lambda: _numbers()[torch.tensor([1, 2])], [("index", "device", True)]),
    "back without a wait": (lambda: _numbers().to("cpu", non_blocking=True), [("copy", "host", False)]),
}


def _attend() -> dict[str, dict[str, int]]:
    query = torch.ones(1, 2, 3, 8, device=_GPU, requires_grad=True)
    scaled_dot_product_attention(query, query, query).sum().backward()
    return {}


def _mixed() -> str:
    try:
        nn.functional.linear(torch.ones(3, device=_GPU), torch.ones(3, 3))
    except RuntimeError as error:
        return str(error)
    return ""


def _main() -> None:
    device = WatchedDevice()
    for name, (probe, _) in PROBES.items():
        device.watch(nn.Module())
        with device:
            probe()
        found = [(each.what, each.to, each.waits) for each in device.crossings for _ in range(each.times)]
        print(json.dumps({"probe": name, "found": found}))
    device.watch(nn.Module())
    with device:
        mixed = _mixed()
        _attend()
    print(json.dumps({"mixed": mixed, "sdpa": device.sdpa}))


if __name__ == "__main__":
    _main()
