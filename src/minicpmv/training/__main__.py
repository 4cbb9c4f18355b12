"""``python -m minicpmv.training FLAGS``: the run, or one process of it under torchrun."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from minicpmv.errors import MiniCPMVError, UsageError
from minicpmv.terminal.escapes import guard_output
from minicpmv.terminal.redaction import clean_command, secrets_in
from minicpmv.terminal.streams import complain, finish_output, refuse_closed_output
from minicpmv.training.distributed.console import is_first_process
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.help_page import help_page
from minicpmv.training.flags.words.settings_file import with_settings_file
from minicpmv.training.launching.cpu_process import prepare_for_cpu
from minicpmv.training.launching.following import follow_launcher, is_launched
from minicpmv.training.launching.launched import refuse_wrong_variables


def main(arguments: Sequence[str]) -> int:
    """Run the command line in this process; return the exit code."""
    try:
        flags = with_settings_file(arguments)
    except MiniCPMVError as error:
        complain(f"error: {error}", known=secrets_in(arguments))
        return 2
    with guard_output(flags):
        return _run(flags)


def _run(arguments: Sequence[str]) -> int:
    try:
        refuse_closed_output()
    except UsageError as error:
        complain(f"error: {error}")
        return 2
    sys.argv[1:] = clean_command(sys.argv[1:])  # trackers write down what the process was started with
    follow_launcher()
    prepare_for_cpu(arguments)
    try:
        if {"-h", "--help"} & set(arguments):
            print(help_page(), end="")
            return finish_output(0)
        refuse_wrong_variables(os.environ)
        if not is_launched(os.environ):  # otherwise the first process alone says what is wrong
            parse_arguments(arguments)  # before torch is imported; the run reads them again in each of its processes
    except UsageError as error:
        complain(f"error: {error}", known=secrets_in(arguments))
        return 2
    try:
        code = import_module("minicpmv.training.launching.starting").start_processes(arguments)
        if code is None:
            code = import_module("minicpmv.training.run").main(arguments)
            if code == 0:  # otherwise other ranks may be blocked on this process and must see it exit
                import_module("minicpmv.training.distributed.processes").leave()
        return finish_output(code)
    except KeyboardInterrupt:  # while that is imported; a run says itself where it stopped
        if is_first_process():
            complain("stopped by SIGINT before the run began")
        return 128 + signal.SIGINT


def _end(codes: list[int]) -> None:
    """End the process here, with the one code that ``main`` returned, before Python takes itself apart.

    A thread of gloo that lets go of a tensor while Python does that aborts the process (SIGABRT, "terminate called
    without an active exception"), and torchrun takes a finished run for a failed one. Seen with torch 2.13, in one run
    of six with two processes; leaving the group does not end those threads as long as DDP holds on to it.
    """
    if codes:
        with suppress(OSError, AttributeError):  # closed, or full, which has been said
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(codes[0])


if __name__ == "__main__":
    codes: list[int] = []
    atexit.register(_end, codes)  # before the imports of the run register theirs, so that it comes after them
    codes.append(main(sys.argv[1:]))
    sys.exit(codes[0])
