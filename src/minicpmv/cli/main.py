"""Entry point of the ``minicpmv`` command: reads the command's name and leaves the rest to that command's module.

Nothing heavy is imported before a command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
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
    merge_command,
    predict_command,
    report_command,
    serve_command,
    show_command,
    train_command,
    ui_command,
)
from minicpmv.errors import MiniCPMVError

__all__ = ["main"]

EXIT_WRONG_USE, EXIT_INTERRUPTED, EXIT_NOT_READ = 2, 130, 141

_COMMANDS = {
    module.NAME: module
    for module in (
        check_command,
        estimate_command,
        train_command,
        chat_command,
        ui_command,
        predict_command,
        eval_command,
        compare_command,
        report_command,
        serve_command,
        show_command,
        convert_command,
        merge_command,
        export_command,
        demo_command,
        explain_command,
    )
}

_EXAMPLES = """examples:
  minicpmv demo --output output/demo
  minicpmv chat output/demo/model --image output/demo/images/heldout/digit_0002.png "What is this?"
"""


def _build_parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<10}{module.SUMMARY}" for name, module in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="minicpmv",
        usage="minicpmv [-h] [--version] COMMAND ...",
        description="Fine-tune MiniCPM-V vision-language models on your own images and conversations.\n\n"
        f"commands:\n{listing}\n\n`minicpmv COMMAND --help` explains one.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minicpmv-finetune {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(_COMMANDS), help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: As typed after ``minicpmv``; the process's own if not given.

    Returns:
        0 when done, 2 when the input was wrong, 130 when interrupted, 141 when nobody reads the output any more, else
        what the command returned.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = _build_parser().parse_args(given[:1] or ["--help"]).command
    try:
        code = _COMMANDS[command].run(given[1:])
        sys.stdout.flush()
        return code
    except MiniCPMVError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while it ends
        return EXIT_NOT_READ


if __name__ == "__main__":
    sys.exit(main())
