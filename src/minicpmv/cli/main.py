"""Runs the ``minicpmv`` command: reads the subcommand's name and passes the rest to its module.

Nothing heavy is imported before a command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from minicpmv import __version__
from minicpmv.cli import (
    chat_command,
    check_command,
    compare_command,
    convert_command,
    demo_command,
    estimate_command,
    eval_command,
    explain_command,
    export_command,
    init_command,
    merge_command,
    pairs_command,
    predict_command,
    push_command,
    report_command,
    scripts_command,
    serve_command,
    show_command,
    train_command,
    ui_command,
    verify_command,
)
from minicpmv.cli.parser import CommandParser
from minicpmv.errors import MiniCPMVError
from minicpmv.machine.shortage import naming_shortage
from minicpmv.terminal.escapes import guard_output
from minicpmv.terminal.redaction import secrets_in
from minicpmv.terminal.streams import (
    EXIT_NOT_READ,
    complain,
    explain_os_error,
    finish_output,
    refuse_closed_output,
    silence_output,
)
from minicpmv.wording import suggest

__all__ = ["main"]

EXIT_WRONG_USE, EXIT_INTERRUPTED = 2, 130
_MORE_MEMORY = "end other programs that use the memory, or use a machine with more"

_COMMANDS = {
    module.NAME: module
    for module in (
        check_command,
        init_command,
        estimate_command,
        train_command,
        chat_command,
        ui_command,
        predict_command,
        eval_command,
        compare_command,
        pairs_command,
        report_command,
        serve_command,
        show_command,
        convert_command,
        merge_command,
        export_command,
        push_command,
        demo_command,
        scripts_command,
        verify_command,
        explain_command,
    )
}

_EXAMPLES = """examples:
  minicpmv demo --output output/demo
  minicpmv chat output/demo/model --image output/demo/images/heldout/digit_0004.png "What is this?"
"""


def _build_parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<10}{module.SUMMARY}" for name, module in _COMMANDS.items())
    parser = CommandParser(
        prog="minicpmv",
        usage="minicpmv [-h] [--version] COMMAND ...",
        description="Fine-tune MiniCPM-V vision-language models on your own images and conversations.\n\n"
        f"commands:\n{listing}\n\n`minicpmv COMMAND --help` explains one. "
        "MODEL, DATA and OUT may also be named (--model, --data, --output), and hyphens and underscores of options are "
        "the same.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"minicpmv-finetune {__version__}")
    parser.add_argument("command", metavar="COMMAND", type=_command, help=argparse.SUPPRESS)
    return parser


def _command(word: str) -> str:
    if word in _COMMANDS:
        return word
    advice = suggest(word, _COMMANDS, otherwise="choose one of them (`minicpmv --help`)")
    raise argparse.ArgumentTypeError(f"found {word!r}, expected one of {', '.join(_COMMANDS)}\n  fix: {advice}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: Arguments after ``minicpmv``; by default the process's own.

    Returns:
        0 when done, 2 when the input was wrong or something cannot be written, 130 when interrupted, 141 when the
        reader of the output is gone, otherwise the command's own code.

    Raises:
        SystemExit: Options ask for help, or are invalid.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with guard_output(given):
        try:
            code = _run(given)
        except SystemExit as end:  # from argparse, which has printed help or the error
            written = finish_output(0)
            if written:
                return written
            raise end
        return finish_output(code)


def _run(given: Sequence[str]) -> int:
    secrets = secrets_in(given)
    try:
        refuse_closed_output()
        command = _build_parser().parse_args(given[:1] or ["--help"]).command
        with naming_shortage(f"minicpmv {command}", "what it was at", fix=_MORE_MEMORY):
            return _COMMANDS[command].run(given[1:])
    except MiniCPMVError as error:
        complain(f"error: {error}", known=secrets)
        return EXIT_WRONG_USE
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, such as `| head`
        silence_output()
        return EXIT_NOT_READ
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        complain(f"error: {explained}", known=secrets)
        return EXIT_WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
