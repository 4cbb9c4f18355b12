"""Declares which optimizers of transformers no run can use, and why: they are neither listed nor suggested."""

from __future__ import annotations

__all__ = ["reason_against"]

_INSIDE_BACKWARD = "it updates weights inside the backward pass, before gradients are added up and clipped"
_NOT_AVERAGED = "its weights must be averaged before each saving, which transformers' Trainer does not do"

# Name, or how it ends -> why it is refused.
_REFUSED = {
    "layerwise": _INSIDE_BACKWARD,
    "lomo": _INSIDE_BACKWARD,
    "adamw_anyprecision": "its package, torchdistx, is no longer maintained",
    "adamw_torch_xla": "TPUs are not supported",
    "schedule_free_adamw": _NOT_AVERAGED,
    "schedule_free_radam": _NOT_AVERAGED,
    "schedule_free_sgd": _NOT_AVERAGED,
}


def reason_against(name: str) -> str | None:
    """Return why an optimizer is refused with any other setting; None if it is not.

    >>> reason_against("adamw_torch_xla"), reason_against("adamw_torch")
    ('TPUs are not supported', None)
    """
    return next((reason for end, reason in _REFUSED.items() if name.endswith(end)), None)
