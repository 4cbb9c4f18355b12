"""Resolves by which measure the best checkpoint is chosen."""

from __future__ import annotations

from typing import Any

from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.report.evaluations import OF_EVALUATION, key_of
from minicpmv.training.flags.arguments import RunArguments

__all__ = ["settle_best_model"]


def settle_best_model(run: RunArguments, settings: dict[str, Any]) -> None:
    """Make sure that the metric by which the best checkpoint is told is measured, and say which way is better.

    Of several evaluation sets, the loss on the first one decides if nothing else is asked for.

    Args:
        run: The flags.
        settings: Keyword arguments for ``TrainingArguments``.

    Raises:
        UsageError: Nobody measures it.
    """
    sets = list(run.eval_sources) or [""]
    measured = split_names(run.eval_metrics or "")
    of_sets = {
        key_of(name, metric).removeprefix("eval_"): metric for name in sets for metric in (*OF_EVALUATION, *measured)
    }
    written = settings.get("metric_for_best_model")
    if written is None and run.keep_best:
        written = settings["metric_for_best_model"] = key_of(sets[0], "loss")
    metric = of_sets.get((written or key_of(sets[0], "loss")).removeprefix("eval_"))
    if metric is None:
        known = ", ".join(key_of(name, each) for name in sets for each in ("loss", *measured))
        raise UsageError(
            f"--metric_for_best_model: found {written!r}, expected what is measured: {known}\n"
            f"  fix: correct the name, or add it to --eval_metrics"
        )
    if metric in measured:
        (found,) = find_metrics([metric], flag="--eval_metrics")
        settings.setdefault("greater_is_better", found.higher_is_better)
