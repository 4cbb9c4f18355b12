"""Words everything that a page shows of one run, except its curves."""

from __future__ import annotations

import itertools
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from minicpmv.data.records.answers import LAST, Share
from minicpmv.evaluation.scores import shown_by_name
from minicpmv.pages.word_differences import Stretch, compare_words
from minicpmv.report.answers.distributions import Confusion, ScoreHistogram, count_confusion, count_scores
from minicpmv.report.answers.films import Films, Strip
from minicpmv.report.answers.images import Picture, Pictures
from minicpmv.report.answers.pairs import AnswerSet, Kind, Pair, badness_of, change_of
from minicpmv.report.differences import given_settings, list_settings
from minicpmv.report.evaluations import Measured, measured_keys
from minicpmv.report.run_directory import Run, is_number
from minicpmv.wording import counted, format_seconds

__all__ = ["MAX_CHARACTERS", "Answers", "Number", "RunView", "ShownPair", "view_run"]

_STATUS = {
    "finished": "finished",
    "stopped": "stopped by {stopped_by} after step {step:,}; can be resumed",
    "running": "not finished: still running, or killed",
    "killed": "killed after step {step:,}; {rest}",
    "ended": "not finished: ended after step {step:,}, and its console said why; {rest}",
    "not finite": "ended at step {step:,}, whose numbers are not finite; that step was not saved",
    "unchanged": "nothing was trained: no weight has changed; nothing was saved",
    "saved": "saved, but not verified: the run was stopped",
    "not verified": "saved, but verification failed",
}


_LONG_CHARACTERS = 60
"""Fewest characters of an answer that is a text."""
MAX_CHARACTERS = 1500
"""Most characters of one text on the page; its file has all of it."""
_OF_EVERY_ANSWER = ("loss", "perplexity")
"""Metrics that are measured on all answers of a record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """Holds a number at the head of the page."""

    name: str
    value: str
    before: str = ""
    """Its first value; empty if there is only one."""
    share: str = ""
    """Share of the answers that it covers, if not all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownPair:
    """Holds a record's answers with its images."""

    pair: Pair
    pictures: Sequence[Picture]
    num_hidden: int
    """Images beyond."""
    strips: Sequence[Strip]
    """Frames of its films."""
    badness: float
    """How bad the last answer is, for an order of the page: the higher, the worse."""
    change: float
    """How much its score differs from that of the first."""
    said: Sequence[Sequence[Stretch]]
    """The first and the last answer; marked is what the expected answer has not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Holds one set of answers."""

    found: AnswerSet
    shown: Sequence[ShownPair]
    labels: Mapping[Kind, str]
    is_long: bool
    """Whether answers are texts, which need the width of the page."""
    confusions: Sequence[Confusion]
    histograms: Sequence[ScoreHistogram]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """Holds one run of a page."""

    run: Run
    name: str
    status: str
    is_finished: bool
    facts: Mapping[str, str]
    numbers: Sequence[Number]
    answers: Sequence[Answers]
    sources: Sequence[Mapping[str, str]]
    statistics: Mapping[str, str]
    histogram: Sequence[tuple[str, int, float]]
    """Bins of record lengths: range, number of records, share of the largest bin."""
    skipped: Mapping[str, int]
    """Number of skipped records by code."""
    parts: Sequence[Mapping[str, Any]]
    given: Mapping[str, str]
    settings: Mapping[str, str]
    commands: Sequence[str]
    versions: Mapping[str, str]


def view_run(run: Run, answers: Sequence[AnswerSet], *, name: str) -> RunView:
    """Word the facts of a run."""
    facts, status = run.facts, run.status
    rest = "no checkpoint was saved" if run.checkpoint is None else f"can be resumed from {run.checkpoint.name}"
    words = {"stopped_by": facts.get("stopped_by", "a signal"), "step": run.last_step, "rest": rest}
    folder = Path(str(facts.get("working_directory") or "."))
    pictures, films = Pictures(folder), Films(folder)
    return RunView(
        run=run,
        name=name,
        status=_STATUS[status].format(**words) if status in _STATUS else status,
        is_finished=status == "finished",
        facts=_facts(run),
        numbers=[*_numbers_of_answers(answers), *_numbers_of_log(run)],
        answers=[_view_answers(each, pictures, films) for each in answers],
        sources=_sources(facts),
        statistics=_statistics(facts),
        histogram=_histogram(facts),
        skipped=dict(Counter(str(entry.get("code")) for entry in run.skipped)),
        parts=[part for part in facts.get("trained") or [] if isinstance(part, dict)],
        given=given_settings(run),
        settings=list_settings(run),
        commands=_commands(facts),
        versions={name: str(version) for name, version in (facts.get("versions") or {}).items()},
    )


def _facts(run: Run) -> dict[str, str]:
    facts = run.facts
    base, metrics, arguments = (facts.get(key) or {} for key in ("base_model", "metrics", "arguments"))
    of_all = f" of {run.max_steps:,}" if run.max_steps else ""
    words = {
        "Started from": base.get("path", ""),
        "Release": base.get("model", ""),
        "Method": "" if not arguments else "LoRA" if arguments.get("use_lora") else "full fine-tuning",
        "Objective": facts.get("own_objective", ""),
        "Steps": f"{run.last_step:,}{of_all}" if run.log else "none logged",
        "Started": str(facts.get("started", "")).replace("T", " ").replace("+00:00", " UTC"),
        "Time": "" if metrics.get("train_runtime") is None else format_seconds(metrics["train_runtime"]),
        "Computed on": _device(facts),
        "Saved model": _verification(run.verification),
    }
    return {name: value for name, value in words.items() if value}


def _device(facts: Mapping[str, Any]) -> str:
    device, processes = facts.get("device"), facts.get("processes")
    number = "" if processes is None else f", {counted(processes, 'process', 'processes')}"
    return f"{device}{number}" if device else ""


def _verification(verification: Mapping[str, Any]) -> str:
    tensors = verification.get("tensors") or {}
    if not verification:
        return ""
    identical = f", {tensors.get('identical'):,} tensors identical" if tensors.get("identical") else ""
    return f"{verification.get('verdict', 'unknown')}{identical}"


def _numbers_of_answers(answers: Sequence[AnswerSet]) -> list[Number]:
    return [
        Number(name=value.metric.replace("_", " "), share=each.share, before=value.before, value=value.after)
        for each in answers
        for value in each.values
    ]


def _numbers_of_log(run: Run) -> list[Number]:
    """Return the first and the last value of each number that measures the model, metrics before losses.

    The last is that of the saved model, which with ``--keep_best`` is not the last in the log.
    """
    saved = run.facts.get("metrics") or {}
    found: list[Number] = []
    for each in sorted(measured_keys(run.log), key=lambda each: each.metric == "loss"):
        values = [entry[each.key] for entry in run.log if is_number(entry.get(each.key))]
        if values:
            last = saved[each.key] if is_number(saved.get(each.key)) else values[-1]
            before = shown_by_name(each.metric, values[0]) if len(values) > 1 else ""
            share = "" if each.metric in _OF_EVERY_ANSWER else _share_of_set(run, each.set_name)
            found.append(
                Number(name=_name_of(each), before=before, value=shown_by_name(each.metric, last), share=share)
            )
    return [*found, *_training_loss(run)]


def _share_of_set(run: Run, set_name: str) -> str:
    """Return how many answers ``--eval_metrics`` measured."""
    counted = (run.facts.get("eval_metrics_answers") or {}).get(set_name)
    return str(Share(**counted, which=LAST)) if counted else ""


def _name_of(measured: Measured) -> str:
    of_set = f" of {measured.set_name}" if measured.set_name else ""
    if measured.metric == "loss":
        return f"validation loss{of_set}"
    # "at evaluation" distinguishes it from the records asked before and after, which may have the same metric.
    return f"{measured.metric.replace('_', ' ')}{of_set}, at evaluation"


def _training_loss(run: Run) -> list[Number]:
    """Return means over whole epochs: single steps depend more on their records than on the model."""
    epochs = [entry["epoch_loss"] for entry in run.log if is_number(entry.get("epoch_loss"))]
    if epochs:
        name = "training loss, mean of first and last epoch" if len(epochs) > 1 else "training loss, mean of the epoch"
        before = f"{epochs[0]:.3g}" if len(epochs) > 1 else ""
        return [Number(name=name, before=before, value=f"{epochs[-1]:.3g}")]
    logged = [entry["loss"] for entry in run.log if is_number(entry.get("loss"))]
    if not logged:
        return []
    return [Number(name="training loss, mean until now", value=f"{sum(logged) / len(logged):.3g}")]


def _view_answers(found: AnswerSet, pictures: Pictures, films: Films) -> Answers:
    shown = [
        ShownPair(
            pair=pair,
            pictures=pictures.of(pair.images),
            num_hidden=pictures.num_hidden(pair.images),
            strips=films.of(pair.films),
            badness=badness_of(pair.scores[-1], best=found.best),
            change=abs(change_of(pair.scores)),
            said=[_mark(text, pair.expected) for _, text in (pair.answers[0], pair.answers[-1])],
        )
        for pair in found.pairs
    ]
    labels: dict[Kind, str] = {"better": "better", "worse": "worse", "right": "right as before", "wrong": "unchanged"}
    if found.is_binary:
        labels |= {"better": "became right", "worse": "became wrong", "wrong": "wrong as before"}
    lengths = [len(text) for pair in found.pairs for text in (*pair.expected[:1], pair.answers[-1][1])]
    return Answers(
        found=found,
        shown=shown,
        labels=labels,
        is_long=bool(lengths) and median(lengths) > _LONG_CHARACTERS,
        confusions=count_confusion(found.all_pairs),
        histograms=count_scores(found.all_pairs),
    )


def _mark(text: str, expected: Sequence[str]) -> Sequence[Stretch]:
    """Mark the words of an answer that its expected one has not, where there is one and both are texts."""
    if len(expected) != 1 or not text or not _LONG_CHARACTERS < len(expected[0]) <= MAX_CHARACTERS >= len(text):
        return [Stretch(text, is_changed=False)]
    return compare_words(expected[0], text)[1]


def _sources(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "use": use,
            "path": str(source.get("path", "")),
            "weight": f"{source.get('weight', 1):g}",
            "sha256": str(source.get("sha256", "")),
        }
        for use, key in (("training", "data"), ("validation", "eval_data"))
        for source in facts.get(key) or []
    ]


def _statistics(facts: Mapping[str, Any]) -> dict[str, str]:
    counted, plan = facts.get("data_statistics") or {}, facts.get("plan") or {}
    words: dict[str, str] = {}
    if counted:
        words["Records"] = f"{counted['records']:,} for training, {counted['validation_records']:,} for validation"
    if "tokens" in counted:
        tokens, spread = counted["tokens"], counted["record_lengths"]
        words |= {
            "With images": f"{counted['records_with_images']:,} of {counted['records']:,}",
            "Tokens": f"{tokens:,} in an epoch",
            "Of them trained": _share(counted["trained_tokens"], tokens),
            "Of them images": _share(counted["image_tokens"], tokens),
            "Length of a record": f"{spread['min']:,} to {spread['max']:,} tokens, median {spread['median']:,g}, "
            f"95 % up to {spread['p95']:,}",
            "Fewer slices to fit": f"{counted['records_with_fewer_slices']:,}",
            "Answers cut to fit": f"{counted['records_with_cut_answers']:,}",
        }
    if plan:
        tokens_per_step = plan.get("tokens_per_step")
        of_tokens = f", {tokens_per_step:,.0f} tokens" if tokens_per_step else ""
        words["Each step"] = f"{plan['records_per_step']:,.4g} records{of_tokens}, on average"
        words["Steps of an epoch"] = f"{plan['steps_per_epoch']:,}"
    return words


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else "0"


def _histogram(facts: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    histogram = (facts.get("data_statistics") or {}).get("length_histogram") or {}
    counts, edges = histogram.get("counts") or [], histogram.get("edges") or []
    if len(counts) < 2:  # all records are equally long
        return []
    spans = itertools.pairwise(edges)
    return [
        (f"{math.ceil(low):,} to {math.ceil(high) - 1:,} tokens", count, count / max(counts))
        for (low, high), count in zip(spans, counts, strict=False)
    ]


def _commands(facts: Mapping[str, Any]) -> list[str]:
    """Return the commands that start the run again, in the same folder and with as many processes."""
    command, processes = str(facts.get("command") or ""), facts.get("processes") or 1
    if not command:
        return []
    if (processes > 1 or facts.get("device") not in (None, "cpu")) and "--num_processes" not in command:
        command = f"{command} --num_processes {processes}"
    folder = facts.get("working_directory")
    return [*([f"cd {shlex.quote(str(folder))}"] if folder else []), command]
