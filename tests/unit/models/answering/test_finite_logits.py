"""Scores without a finite maximum end a generation, and no other scores do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from minicpmv.errors import NotFiniteError
from minicpmv.models.answering.finite_logits import FiniteLogits, StopAtNotFinite
from minicpmv.models.finiteness import find_not_finite

_NAN, _INF = float("nan"), float("inf")
_IDS = torch.zeros(2, 1, dtype=torch.long)


class _Model(nn.Linear):
    name_or_path = "the/place"
    dtype = torch.float16


@pytest.mark.parametrize("value", [_NAN, _INF, "nothing left"])
def test_row_at_fault_is_found_and_can_be_drawn_from(value: float | str) -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, -_INF]])  # a token that may not be taken is no fault
    scores[0] = torch.tensor([-_INF] * 3) if isinstance(value, str) else torch.tensor([0.0, value, 1.0])
    logits = FiniteLogits(_Model(2, 2), raises=False)
    changed = logits(_IDS, scores)
    assert logits.faulty_B is not None
    assert logits.faulty_B.tolist() == [True, False]
    assert torch.equal(changed[1], scores[1])
    assert changed[0].softmax(0).isfinite().all()
    logits(_IDS, torch.zeros(2, 3))
    assert logits.faulty_B.tolist() == [True, False], "what was found stays found"
    assert StopAtNotFinite(logits)(_IDS, None).tolist() == [True, True]
    with pytest.raises(NotFiniteError, match=r"the/place: .* too large for float16\n  fix: --dtype float32") as told:
        logits.check()
    assert told.value.rows == (0,)


def test_sound_scores_pass_unchanged() -> None:
    logits, scores = FiniteLogits(SimpleNamespace(), raises=True), torch.tensor([[-_INF, 3e38], [-3e38, 0.0]])
    assert torch.equal(logits(_IDS, scores), scores)
    assert StopAtNotFinite(logits)(_IDS, None).tolist() == [False, False]
    logits.check()


def test_raises_at_once_where_asked() -> None:
    model = _Model(2, 2)
    nn.init.constant_(model.bias, _INF)
    with pytest.raises(NotFiniteError, match="its weights are not finite: bias\n"):
        FiniteLogits(model, raises=True)(_IDS, torch.tensor([[0.0, 0.0], [0.0, _NAN]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [_NAN, _INF, -_INF])
def test_one_value_among_many_is_found(value: float, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    sound: Tensor = torch.full((7, 1003), largest, dtype=dtype)
    sound[::2] = -largest
    broken = sound.clone()
    broken[3, 1001] = value
    tensors = {"ids": torch.tensor([1, 2]), "sound": sound, "broken": broken, "empty": torch.empty(0)}
    assert find_not_finite((tensors | {"again": broken.t()}).items()) == ["broken", "again"]
    assert find_not_finite({}.items()) == []
