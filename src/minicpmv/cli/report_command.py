"""Runs ``minicpmv report``: writes a page with the results of a run, or of several overlaid."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from minicpmv.cli.model_options import positive_int
from minicpmv.cli.output_file import check_output
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import UsageError
from minicpmv.pages.marks import page_of

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "report"
SUMMARY = "write a page with the results of a run, or of several"

_PORT = 8067
_SECONDS_BETWEEN_LOOKS = 0.5
_EXAMPLES = """examples:
  minicpmv report output/lora
  minicpmv report output/lora output/full --output both.html
  minicpmv report output/lora --follow            while it trains
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Write one HTML page with the curves of a run, its answers before and after, its data, what was "
        "trained, its settings and how to reproduce it; with several runs, their curves overlaid and what is "
        "different between them. A run need not be finished. The page is self-contained and needs no network.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="directory of a run: its --output_dir")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="page to write (default: report.html in RUN, with loss.png; of several, runs.html next to the first); "
        "replaces an earlier page, and no other file",
    )
    parser.add_argument(
        "--before",
        metavar="FILE",
        help="answers of the model before training, from `minicpmv eval --output` or `minicpmv predict` "
        "(default: before.jsonl in RUN, if it exists)",
    )
    parser.add_argument(
        "--after",
        metavar="FILE",
        help="answers of the trained model to the same records (default: after.jsonl in RUN, if it exists)",
    )
    parser.add_argument(
        "--examples",
        type=positive_int,
        default=24,
        metavar="N",
        help="most answers to show of each kind: better, worse, right, wrong (default: %(default)s)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="serve the page at 127.0.0.1 instead, where it renews itself while the run goes on; Ctrl-C "
        "ends it, or that the run was killed",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"port of --follow (default: {_PORT}; 0 takes any free one)"
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Read the runs, write the page, say where it is.

    Raises:
        UsageError: One file of answers was given without the other, or with several runs; or an option of a page that
            is written with one of a page that is served.
    """
    options = _build_parser().parse_args(arguments)
    given = [name for name in ("before", "after") if getattr(options, name)]
    if len(given) == 1:
        other = "after" if given == ["before"] else "before"
        raise UsageError(f"--{given[0]}: found without --{other}, expected both\n  fix: add --{other}")
    if given and len(options.runs) > 1:
        raise UsageError(
            f"--before, --after: found with {len(options.runs)} runs, expected one\n"
            "  fix: put each run's answers into its directory, as before.jsonl and after.jsonl"
        )
    places = [os.path.realpath(run) for run in options.runs]
    if len(set(places)) < len(places):
        raise UsageError(f"{' '.join(options.runs)}: found a run twice, expected each once\n  fix: name another run")
    if options.follow and options.output:
        raise UsageError("--output: found with --follow, which writes no file, expected one of them\n  fix: remove one")
    if options.port is not None and not options.follow:
        raise UsageError("--port: found without --follow, expected both\n  fix: add --follow, or remove --port")
    if options.follow:
        return _follow(options)
    if options.output:
        check_output(options.output, options.before, options.after, replaces=page_of(NAME))
    from minicpmv.report.writing import write_report

    written = write_report(
        options.runs,
        output=options.output,
        before=options.before,
        after=options.after,
        num_examples=options.examples,
    )
    for fault in written.faults:
        print(f"notice: {fault}", file=sys.stderr)
    print(written.page if written.picture is None else f"{written.page}\n{written.picture}")
    return 0


def _follow(options: argparse.Namespace) -> int:
    from minicpmv.report.following import LivePage, describe_end, follow, goes_on, has_begun

    for run in options.runs:
        if not has_begun(run):
            print(f"{run}: waiting for a run to begin there. Ctrl-C ends it.", flush=True)
        while not has_begun(run):
            if os.path.isdir(run) and (end := describe_end(run)) is not None:
                print(end, flush=True)
                return 0
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    live = LivePage(options.runs, before=options.before, after=options.after, num_examples=options.examples)
    port = _PORT if options.port is None else options.port
    ends: dict[str, str] = {}

    def is_over() -> bool:
        for run in options.runs:
            if run not in ends and (end := describe_end(run)) is not None:
                ends[run] = end
                print(end, flush=True)
        return bool(ends) and not any(map(goes_on, options.runs))

    def tell(address: str) -> None:
        print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)

    follow(live, port=port, on_ready=tell, is_over=is_over)
    return 0
