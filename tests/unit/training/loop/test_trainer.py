"""Which parameters decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from tests.experts import write_experts
from tests.tiny import FIXTURES


@pytest.mark.parametrize("release", ["v4_6", "v4_7", "experts"])
def test_vectors_of_linear_attention_do_not_decay_and_its_matrices_do(release: str, tmp_path: Path) -> None:
    """A decay or a step bias pulled to zero forgets at another rate than was trained."""
    model: Any = build_skeleton(write_experts(tmp_path / release) if release == "experts" else FIXTURES / release)
    trainer: Any = object.__new__(MiniCPMVTrainer)  # it is asked for names alone
    decaying = set(trainer.get_decay_parameter_names(model))
    mixers = {name: weight.dim() for name, weight in model.named_parameters() if ".linear_attn." in name}
    assert {name.rpartition(".")[2] for name in mixers} >= {"A_log", "dt_bias"}
    assert {name for name in mixers if name in decaying} == {name for name, rank in mixers.items() if rank > 1}
    others = {name for name, weight in model.named_parameters() if weight.dim() > 1 and "norm" not in name}
    assert others <= decaying, "a tied head has two names"
