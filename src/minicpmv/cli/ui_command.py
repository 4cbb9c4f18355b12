"""Runs ``minicpmv ui``: serves a page in the browser to talk to a model, or to two side by side."""

from __future__ import annotations

import argparse
import importlib.util
import os
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minicpmv.cli.data_options import add_image_root
from minicpmv.cli.model_options import add_model_options, answer_length, model_name, open_model, positive_int
from minicpmv.cli.parser import CommandParser
from minicpmv.cli.server_options import add_server_options
from minicpmv.errors import UsageError
from minicpmv.files.scratch import scratch_folder
from minicpmv.machine.installed import extra, install_command

if TYPE_CHECKING:  # for annotations only: importing it would load torch before any option is read
    from minicpmv.data.sources.loading import Records
    from minicpmv.inference.loading import LoadedModel
    from minicpmv.ui.settings import PageSettings

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "ui"
SUMMARY = "talk to a model in the browser, or to two side by side"

_PASSWORD_VARIABLE = "MINICPMV_UI_PASSWORD"
_OWN_BASE = ""  # as in ui.speakers, which is not imported for --help

_EXAMPLES = """examples:
  minicpmv ui output/lora --compare
  minicpmv ui output/lora --compare --data heldout.json
  minicpmv ui output/full --compare /models/MiniCPM-V-2_6 --port 7861
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Serve a page for the browser: a conversation with pictures, streamed answers, controls "
        "for sampling, and the conversation as a training record. It needs no internet. Ctrl-C ends it.",
        epilog=_EXAMPLES,
    )
    add_model_options(parser, max_new_tokens=1024, with_thoughts=2048)
    add = parser.add_argument
    add(
        "--compare",
        type=model_name,
        nargs="?",
        const=_OWN_BASE,
        metavar="OTHER",
        help="let another model answer side by side with MODEL; without OTHER, the base of MODEL, then an adapter",
    )
    add(
        "--data",
        metavar="FILE",
        help="file of records, as for training, to choose questions from; their answers are shown with the model's",
    )
    add_image_root(parser, default="FILE's own")
    add("--system", metavar="TEXT", help="instruction before the first question (2.5 and later)")
    add_server_options(parser, port=7860, asked="question")
    add(
        "--password",
        metavar="TEXT",
        help=f"password of the page (default: ${_PASSWORD_VARIABLE}); required if others can reach the address",
    )
    add("--open", action="store_true", help="open the page in this machine's browser")
    add(
        "--max-image-bytes",
        type=positive_int,
        default=32 * 2**20,
        metavar="N",
        help="largest image file (default: 33554432)",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Load the models and show the page until the process is told to end.

    Raises:
        UsageError: Gradio is not installed, or the options cannot work together.
    """
    options = _build_parser().parse_args(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise UsageError(
            "minicpmv ui: found no gradio, expected the package that makes the page\n"
            f"  fix: {install_command(extra('ui'))}"
        )

    from minicpmv.serving.http.address import is_loopback, listen, written

    password = _password(options)
    if password is None and not is_loopback(options.host):
        raise UsageError(
            f"--host: found {options.host} without a password, expected one, since others can reach the page\n"
            f"  fix: set {_PASSWORD_VARIABLE}, or listen at 127.0.0.1"
        )
    with (
        listen(options.host, options.port) as listening,
        scratch_folder("ui") as folder,
    ):
        # Read when gradio is imported: uploads are removed with the process, and gradio does not look for updates.
        os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}

        from minicpmv.ui.speakers import load_speakers

        records = _records(options)

        def load(path: str) -> LoadedModel:
            return open_model(argparse.Namespace(**vars(options) | {"model": path}))

        speakers = load_speakers(options.model, options.compare, load=load, allow_other_base=options.allow_other_base)

        # Imports gradio, which takes seconds, so this comes after everything that can fail with the models.
        from minicpmv.ui.server import serve
        from minicpmv.ui.session import Room

        room = Room(speakers)
        address = written(options.host, listening)

        def tell() -> None:
            print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)
            if options.open:
                webbrowser.open(address)

        examples = None if records is None else (records, options.data)
        serve(room, _settings(options, password), listening, on_ready=tell, examples=examples)
    return 0


def _records(options: argparse.Namespace) -> Records | None:
    """Check the data before a model is loaded."""
    if options.data is None:
        if options.image_root is not None:
            raise UsageError(
                "--image-root: found without --data, expected both\n  fix: add --data FILE, or remove --image-root"
            )
        return None
    from minicpmv.data.sources.loading import load_records
    from minicpmv.inference.loading import find_version

    version = find_version(options.model)
    records = load_records(options.data, image_root=options.image_root, version=version, for_training=False)
    if not records:
        raise UsageError(f"--data: found no record in {options.data}, expected at least one\n  fix: name another file")
    return records


def _password(options: argparse.Namespace) -> str | None:
    password = options.password if options.password is not None else os.environ.get(_PASSWORD_VARIABLE)
    if password == "":
        raise UsageError(
            "--password: found nothing, expected a password\n"
            f"  fix: set it, or leave --password and ${_PASSWORD_VARIABLE} out"
        )
    return password


def _settings(options: argparse.Namespace, password: str | None) -> PageSettings:
    from minicpmv.ui.settings import PageSettings

    return PageSettings(
        host=options.host,
        password=password,
        system=options.system,
        max_new_tokens=answer_length(options),
        max_slice_nums=options.max_slice_nums,
        enable_thinking=options.thinking,
        max_image_bytes=options.max_image_bytes,
        max_image_pixels=options.max_image_pixels,
    )
