"""Runs ``minicpmv pairs``: samples answers, judges them, and writes better ones with worse ones."""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpmv.cli.model_options import generation_settings, open_many
from minicpmv.cli.pairs_options import build_parser as _build_parser
from minicpmv.cli.pairs_options import check_usage, least_gap
from minicpmv.terminal.redaction import clean_settings
from minicpmv.wording import counted

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.data.records.answers import Draws
    from minicpmv.data.records.record import Record
    from minicpmv.data.records.sequences import LazySequence
    from minicpmv.data.sources.loading import Checked
    from minicpmv.evaluation.metrics.base import Metric
    from minicpmv.evaluation.pairing import Pair, Scored, Unpaired
    from minicpmv.inference.generation import GenerationSettings
    from minicpmv.inference.model_processes import Work

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "pairs"
SUMMARY = "sample answers, judge them, and pair better with worse ones for preference training"

_LEAST_LIKELY = 0.1
"""Probability of yes and no together, below which a judge is taken not to answer the question."""


def run(arguments: Sequence[str]) -> int:
    """Sample, judge, pair and write; say what was written."""
    parser = _build_parser()
    options = parser.parse_intermixed_args(arguments)
    check_usage(parser, options)
    from minicpmv.inference.answer_file import check_output, check_place, write_finished

    metric = None if options.judge is None else _find_metric(options.judge)
    output = Path(options.output)
    check_place(output)
    settings = generation_settings(options)
    draws, checked, identity = _read(options, settings)
    described = identity | {
        "judge": options.judge or options.judge_question,
        "judge_model": options.judge_model,
        "min_gap": least_gap(options),
        "pairs_per_question": options.pairs_per_question,
        "with_recorded": options.with_recorded,
        "keep_lengths": options.keep_lengths,
    }
    if check_output(output, described, overwrite=options.overwrite):
        print(f"{output} holds this run's pairs: nothing to do")
        return 0
    if metric is not None:
        _prepare(metric, draws)
    answers = [line["answer"] for line in _sample(options, settings, draws, identity)]
    scores = _judge(options, draws, answers, identity) if metric is None else _measure(metric, draws, answers)
    recorded = _recorded(metric, draws) if metric is not None and options.with_recorded else {}
    unpaired = _count_unpaired(options, metric)
    pairs, said = _pair(options, draws, answers, scores, recorded, unpaired)
    sign = 1 if metric is None or metric.higher_is_better else -1
    number = write_finished(output, described, (_line(options, checked, draws, pair, sign) for pair in pairs))
    print(f"wrote {counted(number, 'pair')} of {counted(len(draws.asked), 'question')} to {output}{said}")
    if unpaired.number:
        print(unpaired.describe() + ("" if number else f"\n  fix: {unpaired.advise()}"))
    return 0


def _find_metric(name: str) -> Metric:
    from minicpmv.errors import UsageError
    from minicpmv.evaluation.metrics.registry import find_metrics, split_names

    metrics = find_metrics(split_names(name), flag="--judge")
    if len(metrics) != 1 or not metrics[0].needs_answers:
        found = "a metric of losses" if len(metrics) == 1 else f"{len(metrics)} metrics"
        raise UsageError(f"--judge {name}: found {found}, expected one that scores answers\n  fix: --judge anls")
    return metrics[0]


def _read(options: argparse.Namespace, settings: GenerationSettings) -> tuple[Draws, Checked, dict[str, Any]]:
    """Check the data; return what is asked, the records as written, and everything that the answers depend on."""
    from minicpmv.data.records.answers import Answers, Draws
    from minicpmv.data.records.file_state import FileStates
    from minicpmv.data.records.reading import log_notice
    from minicpmv.data.sources.loading import Records, check_records
    from minicpmv.data.sources.source_digests import open_source
    from minicpmv.errors import DataError
    from minicpmv.inference.identity import describe_identity
    from minicpmv.inference.loading import compare_own_base, default_device, find_version

    raw, content = open_source(options.data)
    images = FileStates()
    version = find_version(options.model)
    if options.judge_model:
        find_version(options.judge_model)  # missing, it would be named once all answers are drawn
    checked = check_records(raw, image_root=options.image_root, version=version, states=images, for_training=False)
    if checked.problems:
        raise DataError([problem for _, problem in checked.problems])
    for notice in checked.notices:
        log_notice(notice)
    identity = describe_identity(
        model=options.model,
        data=options.data,
        content=content,
        images=images,
        settings=settings,
        turns="last",
        seed=options.seed,
        batch_size=options.batch_size,
        max_batch_tokens=None,
        device=default_device(options.device),
        dtype=options.dtype,
        other_base=compare_own_base(options.model, allow_other=options.allow_other_base),
    )
    asked = Answers(Records(raw, checked.sizes, checked.films, image_root=options.image_root))
    return Draws(asked, options.answers), checked, clean_settings(identity | {"answers": options.answers})


def _sample(
    options: argparse.Namespace, settings: GenerationSettings, draws: Draws, identity: dict[str, Any]
) -> list[dict[str, Any]]:
    from minicpmv.inference.predicting import Answering

    work = Answering(settings=settings, seed=options.seed)
    return _fill(options, "answers", draws, work, settings, identity)


def _judge(
    options: argparse.Namespace, draws: Draws, answers: Sequence[str], identity: dict[str, Any]
) -> list[float | None]:
    """Score answers by how many questions a model says yes to."""
    from minicpmv.evaluation.measuring.judging import JudgedAnswers, Judging
    from minicpmv.inference.generation import GenerationSettings

    judging = copy.copy(options)
    judging.model = options.judge_model or options.model
    judging.thinking = False
    settings = GenerationSettings(max_new_tokens=1, max_slice_nums=options.max_slice_nums)
    accepted = [0.0] * len(answers)
    for number, question in enumerate(options.judge_question):
        asked = JudgedAnswers(draws, answers, question)
        what = identity | {"judge": judging.model, "question": question}
        kind = f"judged{number + 1 if number else ''}"
        lines = _fill(judging, kind, asked, Judging(max_slice_nums=options.max_slice_nums), settings, what)
        unsure = sum(line["yes"] + line["no"] < _LEAST_LIKELY for line in lines)
        if unsure:
            print(
                f"{question!r}: yes and no together are less likely than {_LEAST_LIKELY:.0%} for "
                f"{unsure:,} of {counted(len(lines), 'answer')}: the judge may not answer such questions by yes or no",
                file=sys.stderr,
            )
        accepted = [score + (line["yes"] > line["no"]) for score, line in zip(accepted, lines, strict=True)]
    return list(accepted)


def _fill(
    options: argparse.Namespace,
    kind: str,
    asked: Draws | LazySequence[Any],
    work: Work[Any, Any],
    settings: GenerationSettings,
    identity: dict[str, Any],
) -> list[dict[str, Any]]:
    """Let a model answer what is left of a file next to the output; return all its lines."""
    from tqdm import tqdm

    from minicpmv.inference.answer_file import PartialAnswers, check_output
    from minicpmv.inference.questions import choose, plan_questions

    path, limit = Path(f"{options.output}.{kind}.jsonl"), settings.max_slice_nums
    if not check_output(path, identity, overwrite=options.overwrite):
        with open_many(options, num_batches=-(-len(asked) // options.batch_size)) as models:
            batches = plan_questions(models.processor, asked, settings=settings, batch_size=options.batch_size)
            with (
                PartialAnswers(path, identity, asked=asked, batches=batches) as file,  # pyright: ignore[reportArgumentType]
                tqdm(total=len(asked), unit=f" {kind}", disable=not sys.stderr.isatty()) as bar,
            ):
                bar.update(sum(map(len, batches[: file.num_done])))
                left = (choose(asked, each.tolist(), max_slice_nums=limit) for each in batches[file.num_done :])
                for found in models.map(work, left):
                    file.add(found)
                    bar.update(len(found))
                file.finish()
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _measure(metric: Metric, draws: Draws, answers: Sequence[str]) -> list[float | None]:
    """Score answers by a metric."""
    return [_score(metric, draws[index], answer) for index, answer in enumerate(answers)]


def _recorded(metric: Metric, draws: Draws) -> dict[int, Scored]:
    """Return the recorded answer of each question that has one, with its score; it is draw 0."""
    from minicpmv.evaluation.measuring.asking import sample_of
    from minicpmv.evaluation.pairing import Scored

    known = {index: sample_of(record).references[0] for index, record in enumerate(draws.asked) if _has_answer(record)}
    scores = {index: _score(metric, draws.asked[index], text) for index, text in known.items()}
    return {index: Scored(known[index], score) for index, score in scores.items() if score is not None}


def _score(metric: Metric, record: Record, answer: str) -> float | None:
    """Score an answer; lower is worse, whatever the metric's direction. None where the metric is undefined."""
    from minicpmv.evaluation.measuring.asking import sample_of
    from minicpmv.evaluation.scores import measure

    found = measure(metric, sample_of(record, answer=answer)) if _has_answer(record) else None
    sign = 1.0 if metric.higher_is_better else -1.0
    return None if found is None else sign * metric.score(found)


def _prepare(metric: Metric, draws: Draws) -> None:
    """Show the records to a metric that needs all of them first; refuse data that it cannot measure."""
    from minicpmv.errors import UsageError
    from minicpmv.evaluation.measuring.asking import sample_of

    known = [sample_of(record) for record in draws.asked if _has_answer(record)]
    if not known:
        raise UsageError(
            f"--judge {metric.name}: found no record with an answer, expected {metric.expects}\n"
            "  fix: add answers or 'references' to the records, or judge by a model (--judge-question)"
        )
    for sample in known if metric.sees_all_first else ():
        metric.prepare(sample)


def _has_answer(record: Record) -> bool:
    return record.turns[-1].role == "assistant"


def _count_unpaired(options: argparse.Namespace, metric: Metric | None) -> Unpaired:
    """Return empty counts of questions without a pair, with the scores that mean right and wrong."""
    from minicpmv.evaluation.pairing import Unpaired

    if metric is None:
        return Unpaired(best=len(options.judge_question), worst=0)
    if not metric.is_share:
        return Unpaired()
    return Unpaired(best=1, worst=0) if metric.higher_is_better else Unpaired(best=0, worst=-1)


def _pair(
    options: argparse.Namespace,
    draws: Draws,
    answers: Sequence[str],
    scores: Sequence[float | None],
    recorded: Mapping[int, Scored],
    unpaired: Unpaired,
) -> tuple[list[Pair], str]:
    """Return the pairs, and in words what was dropped; count questions without a pair in ``unpaired``."""
    from minicpmv.evaluation.pairing import Scored, balance_lengths, find_pairs

    found: list[Pair] = []
    for index in range(len(draws.asked)):
        scored: list[Scored] = []
        for draw in range(draws.number):
            place = index * draws.number + draw
            score = scores[place]
            if score is not None and answers[place].strip():
                scored.append(Scored(answers[place], score, draw + 1))
        right = recorded.get(index)
        if right is not None and all(answer.score < right.score for answer in scored):
            scored.append(right)
        paired = find_pairs(
            index, scored, min_gap=least_gap(options), most=options.pairs_per_question, seed=options.seed
        )
        found += paired
        if not paired:
            unpaired.add(scored)
    kept = found if options.keep_lengths else balance_lengths(found)
    said = "" if len(kept) == len(found) else f"; {counted(len(found) - len(kept), 'pair')} dropped to balance lengths"
    longer, shorter = sum(pair.longer > 0 for pair in kept), sum(pair.longer < 0 for pair in kept)
    return kept, f"{said} (the better answer is longer in {longer:,}, shorter in {shorter:,})"


def _line(options: argparse.Namespace, checked: Checked, draws: Draws, pair: Pair, sign: int) -> dict[str, Any]:
    """Return the record of a pair: the conversation with the better answer, and the worse one."""
    from minicpmv.data.sources.conversion import in_own_form

    place = draws.asked.fields(pair.index)["index"]
    made = in_own_form(checked.raw[place], checked.sizes[place], options.output, image_root=options.image_root)
    asked = draws.asked[pair.index].turns
    turns = made["conversations"][: len(asked) - (asked[-1].role == "assistant")]
    made["conversations"] = [*turns, {"role": "assistant", "content": pair.chosen.text}]
    made.pop("references", None)
    values = {"chosen": sign * pair.chosen.score, "rejected": sign * pair.rejected.score}
    scores = {"by": options.judge or "accepted", **values}
    return made | {"rejected": pair.rejected.text, "scores": scores}
