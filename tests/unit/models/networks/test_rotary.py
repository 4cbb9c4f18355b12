"""Rotary frequencies stay float32 under any cast; all else is cast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minicpmv.models.networks.rotary import ExactRotary


class _Angles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.tensor([1.0, 0.001953]), persistent=False)
        self.register_buffer("other", torch.ones(2))


class _Model(ExactRotary, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.angles, self.head = _Angles(), nn.Linear(2, 2)


@pytest.mark.parametrize("cast", [lambda model: model.to(torch.bfloat16), lambda model: model.half()])
def test_a_cast_leaves_the_frequencies_exact(cast: object) -> None:
    model = cast(_Model())  # pyright: ignore[reportCallIssue]
    assert model.angles.inv_freq.tolist() == torch.tensor([1.0, 0.001953]).tolist()
    assert model.angles.inv_freq.dtype == torch.float32
    assert model.angles.other.dtype == model.head.weight.dtype != torch.float32


class _RoundedWhileBuilt(nn.Module):
    """Stands for transformers' own loading before 5.23, under which ZeRO-3 rounds what a constructor makes."""

    @classmethod
    def from_pretrained(cls, *_: object, output_loading_info: bool = False) -> object:
        model = cls()
        for angles in model.modules():
            if isinstance(angles, _ConfiguredAngles):
                angles.inv_freq = angles.inv_freq.bfloat16()
        return (model, {}) if output_loading_info else model


class _ConfiguredAngles(_Angles):
    def __init__(self, config: str) -> None:
        super().__init__()
        self.config = config


class _Loaded(ExactRotary, _RoundedWhileBuilt):
    def __init__(self) -> None:
        super().__init__()
        self.angles = _ConfiguredAngles("of the model")


@pytest.mark.parametrize("asks", [False, True])
def test_frequencies_that_were_rounded_while_the_model_was_built_are_computed_again(asks: bool) -> None:
    loaded = _Loaded.from_pretrained("path", output_loading_info=asks)
    model = loaded[0] if asks else loaded
    assert model.angles.inv_freq.dtype == torch.float32
    assert model.angles.inv_freq.tolist() == torch.tensor([1.0, 0.001953]).tolist()
