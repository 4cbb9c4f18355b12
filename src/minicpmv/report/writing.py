"""Writes the page of a run, or of several overlaid, and for one run also its loss curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from minicpmv.errors import UsageError
from minicpmv.files.atomic_files import replacing
from minicpmv.files.places import check_file
from minicpmv.pages.marks import page_of
from minicpmv.report.answers.pairs import AnswerSet, compare_files, compare_samples
from minicpmv.report.loss_picture import draw_loss
from minicpmv.report.page import render_page
from minicpmv.report.run_directory import AFTER, BEFORE, Run, read_run
from minicpmv.terminal.streams import advise

__all__ = ["NUM_EXAMPLES", "Report", "Written", "compose", "write_report"]

PAGE = "report.html"
PAGE_OF_SEVERAL = "runs.html"
PICTURE = "loss.png"
NUM_EXAMPLES = 24
"""Most answers of each kind that a page shows unless more are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Holds a report that is not written yet."""

    runs: Sequence[Run]
    page: str
    """HTML."""
    picture: bytes | None
    """PNG of the loss of a single run; None if there is no loss to draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Names the written files."""

    page: Path
    picture: Path | None
    """The picture; None if there was no loss to draw, or the page is elsewhere."""
    faults: tuple[str, ...]
    """Files of the runs' directories that could not be read, in words."""


def write_report(
    directories: Sequence[str],
    *,
    output: str | None = None,
    before: str | None = None,
    after: str | None = None,
    num_examples: int = NUM_EXAMPLES,
) -> Written:
    """Write the report.

    Args:
        directories: Directories of one or more runs.
        output: The page; by default ``report.html`` in the run's directory, together with ``loss.png``; of several
            runs ``runs.html`` next to the first.
        before: Answers before training, for one run; by default ``before.jsonl`` in its directory, if it exists.
        after: Answers after training, likewise.
        num_examples: Most answers of each kind to show.

    Raises:
        UsageError: A directory is not a run's, a file cannot be read or written, or a file of the page's name is no
            page of this kind; a run's own ``report.html`` is always replaced.
    """
    page = _default_page(directories) if output is None else Path(output)
    if Path(directories[0]).is_dir():  # otherwise the reader refuses it
        is_the_runs_own = output is None and len(directories) == 1
        check_file(page, asked_by="--output", replaces="any" if is_the_runs_own else page_of("report"))
    report = compose(directories, before=before, after=after, num_examples=num_examples)
    _write(page, report.page.encode())
    picture = None
    if output is None and len(report.runs) == 1:
        picture = _write_picture(report.runs[0].directory / PICTURE, report.picture)
    faults = tuple(f"{run.name}: {fault}" for run in report.runs for fault in run.faults)
    return Written(page=page, picture=picture, faults=faults)


def _default_page(directories: Sequence[str]) -> Path:
    first = Path(directories[0])
    return first / PAGE if len(directories) == 1 else first.absolute().parent / PAGE_OF_SEVERAL


def compose(
    directories: Sequence[str],
    *,
    before: str | None = None,
    after: str | None = None,
    num_examples: int = NUM_EXAMPLES,
    version: str | None = None,
) -> Report:
    """Make a report of what the directories hold now; as for ``write_report``.

    Args:
        directories: Directories of one or more runs.
        before: Answers before training.
        after: Answers after training.
        num_examples: Most answers of each kind to show.
        version: As for ``render_page``.
    """
    runs = [read_run(directory) for directory in directories]
    files = [(before, after)] if before and after else [_answer_files(run) for run in runs]
    answers = [_answers(run, given, num_examples) for run, given in zip(runs, files, strict=True)]
    drawn = draw_loss(runs[0]) if len(runs) == 1 else None
    return Report(runs=runs, page=render_page(runs, answers, picture=drawn, version=version), picture=drawn)


def _answer_files(run: Run) -> tuple[str, str] | None:
    """Find the answers in a run's directory; those of an earlier run in the same place do not count."""
    before, after = run.directory / BEFORE, run.directory / AFTER
    if not (before.is_file() and after.is_file()):
        return None
    started = run.facts.get("started")
    if isinstance(started, str) and after.stat().st_mtime < datetime.fromisoformat(started).timestamp():
        return None
    return str(before), str(after)


def _answers(run: Run, files: tuple[str, str] | None, most: int) -> list[AnswerSet]:
    found = [compare_files(*files, most=most) if files else None, compare_samples(run, most=most)]
    return [each for each in found if each is not None]


def _write_picture(path: Path, drawn: bytes | None) -> Path | None:
    if drawn is None:
        path.unlink(missing_ok=True)  # from an earlier run
        return None
    _write(path, drawn)
    return path


def _write(path: Path, content: bytes) -> None:
    def refused(error: OSError) -> UsageError:
        fix = advise(error, otherwise="name another file with --output")
        return UsageError(f"{path}: found {error.strerror}, expected to write it\n  fix: {fix}")

    with replacing(path, refused=refused) as file:
        file.write(content)
