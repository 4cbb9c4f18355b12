"""Compares what two runs of the same training have shown: norms of parts, throughput, samples, metrics of answers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.precision import bound, chosen_precision
from tests.run.training import read_run, read_samples

__all__ = ["check_metrics", "check_norms_of_parts", "check_samples", "check_throughput"]

# Measured, at most: 1.8e-4 of a norm over ten steps. A process whose share is left out changes it by a tenth and more.
# In bfloat16 8e-3 over the first two steps. Later ones go their own way: a rounding more or less in the weights moves
# the norm of a part by a quarter within five steps, while the losses stay together.
_NORM = bound(fp32=1e-3, bf16=3e-2)
_STEPS_ALIKE = bound(fp32=1000, bf16=2)


def check_norms_of_parts(output: Path, reference: Path) -> None:
    """Each logged step has the norm of every part that learns; they make up the whole, and equal the reference's."""
    ours, theirs = ([entry for entry in read_run(run)["log"] if "loss" in entry] for run in (output, reference))
    for entry, expected in zip(ours, theirs, strict=True):
        norms = {name: norm for name, norm in entry.items() if name.startswith("grad_norm/")}
        if entry["step"] <= _STEPS_ALIKE:
            assert norms == pytest.approx({name: expected[name] for name in norms}, rel=_NORM)
        learning = [part for part in read_run(output)["trained"] if part["trainable"]]
        assert len(norms) == len(learning)
        assert math.hypot(*norms.values()) == pytest.approx(entry["grad_norm"], rel=1e-5)


def check_throughput(output: Path, reference: Path, *, processes: int) -> None:
    """Of the same step, records and tokens are counted over all processes, operations for each."""
    ours, theirs = (next(entry for entry in read_run(run)["log"] if "loss" in entry) for run in (output, reference))
    for name, divisor in (("samples_per_second", 1), ("tflops_per_second", processes)):
        ratio = theirs[name] / theirs["tokens_per_second"] / divisor
        # The resampler projects its queries once in a batch: four times here, once in the reference.
        assert ours[name] / ours["tokens_per_second"] == pytest.approx(ratio, rel=0.02)


def check_metrics(output: Path, reference: Path) -> None:
    """Before the first step answers are worth the same, however records and weights are divided.

    Not in bfloat16; see :func:`check_samples`.
    """
    ours, theirs = (next(entry for entry in read_run(run)["log"] if "eval_cer" in entry) for run in (output, reference))
    assert ours["step"] == 0
    assert ours["eval_cer"] > 0
    if chosen_precision() == "bf16":
        return
    assert {name: ours[name] for name in ("eval_cer", "eval_cider")} == pytest.approx(
        {name: theirs[name] for name in ("eval_cer", "eval_cider")}
    )


def check_samples(output: Path, reference: Path, *, steps: list[int]) -> None:
    """One process writes at these steps, two records each; the untrained model says the same however it is divided.

    Not in bfloat16: its words are nearly as likely as each other, and engines round differently.
    """
    ours, theirs = read_samples(output), read_samples(reference)
    assert [(sample["step"], sample["record"]) for sample in ours] == [
        (sample["step"], sample["record"]) for sample in theirs
    ]
    assert [sample["step"] for sample in ours] == [step for step in steps for _ in range(2)]
    assert ours[:2] == theirs[:2] or chosen_precision() == "bf16"
