"""A survey in words for a terminal, or as one JSON object for a program; ``docs/data.md`` lists the object's keys.

Nothing is judged or measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from minicpmv.data.checks.code_pages import code_pages
from minicpmv.data.sources.survey import Finding, Statistics
from minicpmv.wording import counted

__all__ = ["SCHEMA", "Group", "findings_as_json", "group_findings", "group_lines", "statistics_lines", "verdict"]

SCHEMA = 1
"""Of the JSON object: raised when a key changes its meaning or goes; new keys leave it as it is."""


@dataclass(frozen=True, slots=True)
class Group:
    """All findings of one code."""

    code: str
    title: str
    findings: tuple[Finding, ...]


def group_findings(findings: Iterable[Finding], severity: Literal["problem", "notice"]) -> list[Group]:
    """Sort findings of one severity by code; within a code they keep their order."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.problem.severity == severity:
            by_code.setdefault(finding.problem.code, []).append(finding)
    pages = code_pages()
    return [Group(code, pages[code].title if code in pages else "", tuple(by_code[code])) for code in sorted(by_code)]


def group_lines(groups: Sequence[Group], *, num_examples: int) -> Iterator[str]:
    """Word groups for a terminal: code, title and count, then the first examples."""
    for group in groups:
        yield f"{group.code} {group.title}: {len(group.findings):,}"
        for finding in group.findings[:num_examples]:
            problem = finding.problem
            yield f"  {problem.where}"
            yield f"    found {problem.found}, expected {problem.expected}"
            yield f"    fix: {problem.fix}"
        hidden = len(group.findings) - num_examples
        if hidden > 0:
            yield f"  ... and {hidden:,} more" if num_examples else "  (examples are turned off)"
        yield ""


def statistics_lines(statistics: Statistics, lengths: Mapping[str, Any] | None) -> Iterator[str]:
    """Word what the files hold."""
    have, lack = statistics.records_with_images, statistics.records_without_images
    rows = [
        ("records", f"{statistics.records:,} ({have:,} with images, {lack:,} without)"),
        ("turns", f"{statistics.turns:,}, {statistics.characters:,} characters"),
        ("images", f"{statistics.images:,} in {statistics.image_files:,} files"),
    ]
    if statistics.image_sizes:
        smallest, middle, largest = (f"{width} x {height}" for width, height in statistics.image_sizes)
        rows.append(("image sizes", f"{smallest} to {largest}, median {middle} pixels"))
    if statistics.films:
        rows.append(("films", f"{statistics.films:,} in {statistics.film_files:,} files"))
    if statistics.film_durations:
        shortest, middle, longest = (f"{seconds:,.1f}" for seconds in statistics.film_durations)
        rows.append(("film lengths", f"{shortest} to {longest}, median {middle} seconds"))
    if statistics.kinds["answer"]:
        rows.append(("judged", f"{counted(statistics.kinds['answer'], 'record')} with 'label'"))
    if (pairs := statistics.pairs) is not None:
        share = (
            "all are of equal length"
            if pairs.longer_share is None
            else f"the better answer is longer in {pairs.longer_share:.1%}"
        )
        unequal = "" if pairs.unequal in (0, pairs.pairs) else f" of {pairs.unequal:,} that differ in length"
        rows.append(("pairs", f"{pairs.pairs:,}; {share}{unequal}, in {pairs.unit}"))
    if lengths is not None:
        rows += _length_rows(lengths)
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {text}" for name, text in rows)


def _length_rows(lengths: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", f"{lengths['name']}, records of at most {lengths['model_max_length']:,} tokens"
    if lengths["tokens"]:
        yield "tokens", f"{_words(lengths['tokens'])} in a record; {lengths['total_tokens']:,} in all"
        yield "trained", f"{lengths['trained_share']:.1%} of all tokens"
    if lengths["slices_per_image"]:
        yield "slices", f"{_words(lengths['slices_per_image'])} for an image"
    if lengths["frames_per_film"]:
        yield "frames", f"{_words(lengths['frames_per_film'])} for a film"
        yield "", lengths["first_film"]
    if lengths["fewer_frames"]:
        yield "too long", f"{counted(lengths['fewer_frames'], 'record')} with fewer frames, or more in a block"
    yield "too long", f"{lengths['fewer_slices']:,} get fewer slices, {lengths['too_long']:,} do not fit"
    if lengths["packed"]:
        yield from _step_rows(lengths)


def _step_rows(lengths: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    packed, batch_size = lengths["packed"], lengths["batch_size"]
    steps, num_records = packed["steps_per_epoch"], lengths["records"] / packed["steps_per_epoch"]
    yield "packed", f"{packed['rows']:,} rows of up to {packed['pack_length']:,} tokens, {packed['fill']:.1%} full"
    yield (
        "",
        f"{counted(steps, 'step')} an epoch, of {counted(batch_size, 'row')} each: about {num_records:,.3g} records",
    )
    yield (
        "not packed",
        f"{counted(lengths['steps_per_epoch'], 'step')} an epoch, of {counted(batch_size, 'record')} each",
    )
    yield "", f"{lengths['padding_in_batches_of_4']:.1%} of padding in batches of 4 records"


def _words(spread: Mapping[str, float]) -> str:
    return f"{spread['min']:,} to {spread['max']:,}, median {spread['median']:,g}, 95 % up to {spread['p95']:,}"


def verdict(findings: Sequence[Finding], statistics: Statistics) -> str:
    """Say in one line how the check ended."""
    problems = [finding for finding in findings if finding.problem.severity == "problem"]
    notices = len(findings) - len(problems)
    aside = f"{counted(notices, 'notice')}, which stop{'s' * (notices == 1)} no run" if notices else "no notice"
    if not problems:
        return f"No problem in {counted(statistics.records, 'record')}; {aside}."
    num_whole = sum(finding.record is None for finding in problems)
    in_records = f"{_num_records(problems):,} of {counted(statistics.records, 'record')}"
    found = counted(len(problems), "problem")
    if not num_whole:
        found += f" in {in_records}"
    elif num_whole == len(problems):
        read = counted(statistics.records, "record") if statistics.records else "no record"
        found += f" of whole files, and {read} that could be read"
    else:
        found += f": {len(problems) - num_whole:,} in {in_records}, {num_whole:,} of whole files"
    return f"{found}; {aside}. `minicpmv explain {problems[0].problem.code}` explains a code."


def findings_as_json(findings: Sequence[Finding], severity: Literal["problem", "notice"], limit: int | None) -> Any:
    """Build the ``problems`` or ``notices`` of the JSON object, with at most ``limit`` examples for each code."""
    groups = group_findings(findings, severity)
    chosen = [finding for group in groups for finding in group.findings]
    return {
        "count": len(chosen),
        "records": _num_records(chosen),
        "codes": [
            {
                "code": group.code,
                "title": group.title,
                "count": len(group.findings),
                "examples": [_example(finding) for finding in group.findings[:limit]],
            }
            for group in groups
        ],
    }


def _num_records(findings: Iterable[Finding]) -> int:
    named = ((finding.record, finding.also) for finding in findings)
    return len({position for record, also in named if record is not None for position in (record.position, *also)})


def _example(finding: Finding) -> dict[str, Any]:
    record, problem = finding.record, asdict(finding.problem)
    del problem["code"], problem["severity"]
    record_id = record.id if record else None
    return {
        "file": finding.source,
        "line": record.line if record else None,
        "record": record.index if record else None,
        "id": record_id if isinstance(record_id, (str, int)) else None,
        **problem,
    }
