"""The numbers that a run's flags can hold: one row for each numeric flag, of transformers and of ours.

Whether numbers go together is for the modules that use them; here each is looked at alone, before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minicpmv.errors import UsageError

__all__ = ["RANGES", "Range", "check_ranges", "refuse_whole_shares"]

_MOST_COUNTED = 2**31 - 1
"""More than any run counts; what is above does not fit the integers that it is stored in."""
_MOST_RANK = 65_536
"""Wider than any layer; matrices of more would fill any memory before a word is said."""
_MOST = 3e38
"""More than any rate, decay or norm, and about what float32 can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers between two ends."""

    least: float = 0
    most: float = _MOST
    without_least: bool = False
    without_most: bool = False
    is_step: bool = False
    """Whether a number below 1 is a share, and one from 1 on counts, and so is whole."""
    instead: str = ""
    """What a user who gave a number below it may have wanted."""

    def holds(self, value: float) -> bool:
        """Whether a number is in the range; what is no number (NaN) is in none."""
        above = value > self.least if self.without_least else value >= self.least
        below = value < self.most if self.without_most else value <= self.most
        return above and below and not (self.is_step and value > 1 and value != math.floor(value))

    def __str__(self) -> str:
        least = f"more than {self.least:g}" if self.without_least else f"at least {self.least:g}"
        if self.is_step:
            return f"a whole number of at least 1, or a share of the run {'above' if self.without_least else 'from'} 0"
        if self.most < _MOST_COUNTED:
            return f"{self.least:g} to {'below ' if self.without_most else ''}{self.most:g}"
        return least if self.most in (_MOST, _MOST_COUNTED) else f"{self.least:g} to {self.most:,.0f}"


_COUNT = Range(least=1, most=_MOST_COUNTED)
_COUNT_OR_NONE = Range(least=0, most=_MOST_COUNTED)
_SEED = Range(least=0, most=2**32 - 1)
_SHARE = Range(most=1)
_PART = Range(most=1, without_most=True)
_POSITIVE = Range(without_least=True)
_OWN_RATE = Range(without_least=True, instead="freeze the part instead")
_AMOUNT = Range()
_EVERY = Range(most=_MOST_COUNTED, without_least=True, is_step=True)

RANGES: Mapping[str, Range] = {
    # transformers'
    "adam_beta1": _PART,
    "adam_beta2": _PART,
    "adam_epsilon": _POSITIVE,
    "data_seed": _SEED,
    "dataloader_num_workers": Range(least=0, most=_MOST_COUNTED, instead="0 reads in the run's own process"),
    "dataloader_prefetch_factor": Range(least=1, most=1024),
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "eval_delay": Range(most=_MOST_COUNTED),
    "eval_steps": _EVERY,
    "gradient_accumulation_steps": _COUNT,
    "label_smoothing_factor": _SHARE,
    "learning_rate": _AMOUNT,
    "local_rank": Range(least=-1, most=_MOST_COUNTED),
    "logging_steps": _EVERY,
    "max_grad_norm": Range(instead="0 turns clipping off"),
    "max_steps": Range(least=-1, most=_MOST_COUNTED, instead="-1 leaves it to --num_train_epochs"),
    "neftune_noise_alpha": _AMOUNT,
    "num_train_epochs": Range(most=_MOST_COUNTED),
    "per_device_eval_batch_size": _COUNT,
    "per_device_train_batch_size": _COUNT,
    "save_steps": _EVERY,
    "save_total_limit": Range(least=0, most=_MOST_COUNTED, instead="0 keeps all checkpoints"),
    "seed": _SEED,
    "torch_empty_cache_steps": _COUNT,
    "warmup_steps": Range(most=_MOST_COUNTED, is_step=True),
    "weight_decay": _AMOUNT,
    # ours
    "embeddings_lr": _OWN_RATE,
    "embeddings_weight_decay": _AMOUNT,
    "answer_batch_size": _COUNT,
    "eval_max_new_tokens": _COUNT,
    "eval_metrics_records": _COUNT,
    "eval_sample_tokens": _COUNT,
    "early_stopping": _COUNT_OR_NONE,
    "eval_samples": _COUNT_OR_NONE,
    "measure": _COUNT_OR_NONE,
    "lora_alpha": _COUNT_OR_NONE,
    "lora_dropout": _PART,
    "lora_lr": _OWN_RATE,
    "lora_r": Range(least=1, most=_MOST_RANK),
    "lora_weight_decay": _AMOUNT,
    "max_bad_share": _SHARE,
    "max_slice_nums": _COUNT,
    "model_max_length": _COUNT,
    "num_processes": Range(least=1, most=_MOST_COUNTED),
    "pack_length": _COUNT,
    "resampler_lr": _OWN_RATE,
    "resampler_weight_decay": _AMOUNT,
    "vision_cache_gb": _POSITIVE,
    "vision_lr": _OWN_RATE,
    "vision_weight_decay": _AMOUNT,
}
"""By the flag's name. A flag without a row, of a later transformers or of a plugin, must be finite."""

_FINITE = Range(least=-_MOST)


def check_ranges(given: Mapping[str, Any]) -> None:
    """Refuse numbers that no run can work with.

    Args:
        given: The flags that were given, by name; those that hold no number are passed over.

    Raises:
        UsageError: A number is not finite, or out of its range.
    """
    for name, value in given.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        allowed = RANGES.get(name, _FINITE)
        if not allowed.holds(value):
            expected = str(allowed)
            if not math.isfinite(value):
                expected = f"a finite number, {allowed}"
            elif value > allowed.most and allowed.most in (_MOST, _MOST_COUNTED):
                expected = f"at most {allowed.most:g}"
            instead = f"; {allowed.instead}" if allowed.instead else ""
            found = f"{value:g}" if isinstance(value, float) else str(value)
            raise UsageError(f"--{name}: found {found}, expected {expected}\n  fix: correct it{instead}")


def refuse_whole_shares(words: Sequence[str]) -> None:
    """Refuse 1.0 where 1 is a number of steps and 0.5 is half of the run: one of the two was meant.

    Args:
        words: The command line, flags in today's spelling.

    Raises:
        UsageError: A flag holds it.
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        allowed = RANGES.get(flag.removeprefix("--").replace("-", "_"))
        if word.startswith("--") and allowed is not None and allowed.is_step and not value.strip("+ ").isdigit():
            try:
                is_whole = float(value) == 1
            except ValueError:
                continue
            if is_whole:
                raise UsageError(
                    f"{flag}: found {value}, expected a share below 1, or a number of steps in digits alone\n"
                    "  fix: 1 is one step; a whole run has no share"
                )
