"""Ends a generation whose logits are not finite, instead of letting it take token 0 again and again.

From 2.5 on token 0 is "!", so such a model would answer ``!!!!!``; drawn at random, torch would fail without a reason,
and on a GPU take the process with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from minicpmv.errors import NotFiniteError
from minicpmv.models.finiteness import find_not_finite
from minicpmv.wording import name_few

__all__ = ["FiniteLogits", "StopAtNotFinite", "explain_not_finite"]

_SHOWN = 3


class FiniteLogits(LogitsProcessor):
    """Looks at the scores of every step before a token is chosen.

    A row is at fault if its largest score is not finite: one is NaN or infinite, or none is left to choose. Its scores
    become zeros, with which everything behind goes on: the row's tokens mean nothing from there on.

    Args:
        model: Whose scores they are.
        raises: Whether to raise at once, for which the host waits for the scores at each step. Otherwise faults gather
            in :attr:`faulty_B`, and whoever waits for the tokens anyway looks there.
    """

    def __init__(self, model: Any, *, raises: bool) -> None:
        self._model, self._raises = model, raises
        self.faulty_B: Tensor | None = None
        """Of each row, whether its scores were at fault at any step until now; None before the first one."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        faulty_B = ~scores.amax(dim=-1).isfinite()
        self.faulty_B = faulty_B if self.faulty_B is None else self.faulty_B | faulty_B
        if self._raises:
            self.check()
        return scores.masked_fill(faulty_B[:, None], 0.0)

    def check(self) -> None:
        """Raise if a row was at fault; the host waits for the device.

        Raises:
            NotFiniteError: The scores of a row were not finite.
        """
        if self.faulty_B is not None and self.faulty_B.any():
            raise explain_not_finite(self._model, rows=self.faulty_B.nonzero().flatten().tolist())


class StopAtNotFinite(StoppingCriteria):
    """Ends all rows when the scores of one were at fault, without a wait of its own."""

    def __init__(self, logits: FiniteLogits) -> None:
        self._logits = logits

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert self._logits.faulty_B is not None, "the scores are looked at before a token is chosen"
        return self._logits.faulty_B.any().expand(len(input_ids))


def explain_not_finite(model: Any, *, rows: Sequence[int] = ()) -> NotFiniteError:
    """Say why a model's logits are not finite, which takes one look at all of its weights.

    Args:
        model: Whose logits they are.
        rows: Of the batch, those at fault.
    """
    name = getattr(model, "name_or_path", "") or "the model"
    if hasattr(model, "peft_config"):
        name = f"adapter on {name}"
    broken = find_not_finite(model.named_parameters())
    found = f"{name}: found logits that are not finite (NaN or infinite), expected numbers to choose a token by"
    if broken:
        names = name_few(broken, most=_SHOWN)
        return NotFiniteError(
            f"{found}; its weights are not finite: {names}\n"
            "  fix: use an earlier checkpoint, or train again with a lower --learning_rate; if it was copied, copy it "
            "again",
            rows=rows,
        )
    dtype = str(model.dtype).removeprefix("torch.")
    fix = (
        "--dtype float32 or bfloat16 (in Python dtype=torch.float32), which hold larger numbers"
        if dtype == "float16"
        else "use an earlier checkpoint, or train again with a lower --learning_rate"
    )
    return NotFiniteError(
        f"{found}; its weights are finite, but numbers computed from them are too large for {dtype}\n  fix: {fix}",
        rows=rows,
    )
