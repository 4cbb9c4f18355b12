"""The norm of each part's gradient: of what learns, in the scale of the loss, and their squares make the whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from minicpmv.releases.table import VERSIONS
from minicpmv.training.monitoring.gradients import part_norms


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vpm, self.resampler, self.llm = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.config = SimpleNamespace(minicpmv_version=next(iter(VERSIONS.values())))


def test_the_squares_of_the_parts_add_up_to_that_of_the_whole() -> None:
    model = _Model()
    model.resampler.requires_grad_(False)
    for parameter in (*model.vpm.parameters(), *model.llm.parameters()):
        parameter.grad = torch.randn_like(parameter)
    norms = part_norms(model, device=torch.device("cpu"))
    assert norms.keys() == {"grad_norm/vision_tower", "grad_norm/language_model"}
    whole = nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])
    assert sum(norm**2 for norm in norms.values()) == pytest.approx(float(whole) ** 2, rel=1e-5)
    scaled = part_norms(model, device=torch.device("cpu"), scale=4.0)
    assert scaled == pytest.approx({name: norm / 4 for name, norm in norms.items()}, rel=1e-5)


def test_a_part_that_learns_and_got_no_gradient_has_the_norm_zero() -> None:
    assert set(part_norms(_Model(), device=torch.device("cpu")).values()) == {0.0}
