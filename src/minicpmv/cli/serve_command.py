"""Runs ``minicpmv serve``: answers over HTTP, as OpenAI's chat completions."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minicpmv.cli.model_options import add_model_options, answer_length, open_model, positive_int
from minicpmv.cli.parser import CommandParser
from minicpmv.cli.server_options import add_server_options
from minicpmv.errors import UsageError
from minicpmv.machine.installed import extra, install_command

if TYPE_CHECKING:  # for annotations only: importing it would load the web server before any option is read
    from minicpmv.serving.settings import ServerSettings

__all__ = ["NAME", "SUMMARY", "run"]

NAME = "serve"
SUMMARY = "answer over HTTP, as OpenAI's chat completions"

_KEY_VARIABLE = "MINICPMV_API_KEY"
_MODULES = ("httpx2", "prometheus_client", "starlette", "uvicorn")

_EXAMPLES = """examples:
  minicpmv serve output/lora
  minicpmv serve /models/MiniCPM-V-2_6 --adapter cats=output/cats --adapter dogs=output/dogs --port 8080
"""


def _build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"minicpmv {NAME}",
        description="Answer POST /v1/chat/completions with text, images and films, for OpenAI's clients. A request's "
        "`model` chooses the base or an adapter; waiting requests are batched. SIGTERM finishes running answers.",
        epilog=_EXAMPLES,
    )
    add_model_options(parser, max_new_tokens=1024, with_thoughts=2048)
    add = parser.add_argument
    add("--adapter", action="append", default=[], metavar="NAME=PATH", help="also serve an adapter; may be repeated")
    add("--served-model-name", metavar="NAME", help="name of MODEL in requests (default: MODEL as typed)")
    add_server_options(parser, port=8000, asked="request")
    add(
        "--api-key",
        metavar="KEY",
        help=f"key that clients must send (default: ${_KEY_VARIABLE}; none if neither is set)",
    )
    add("--max-batch-size", type=positive_int, default=8, metavar="N", help="requests answered together (default: 8)")
    add("--max-queue", type=positive_int, default=64, metavar="N", help="requests that may wait (default: 64)")
    add(
        "--batch-delay-ms",
        type=float,
        default=10.0,
        metavar="MS",
        help="time that a request to the idle model waits for others (default: 10)",
    )
    add("--max-length", type=positive_int, metavar="N", help="tokens of prompt and answer (default: the checkpoint's)")
    add(
        "--max-body-bytes",
        type=positive_int,
        default=32 * 2**20,
        metavar="N",
        help="largest request, and largest total of the files that it names (default: 33554432)",
    )
    add(
        "--max-video-frames",
        type=positive_int,
        default=128,
        metavar="N",
        help="frames shown, summed over a request's films (default: 128)",
    )
    add("--max-video-seconds", type=float, default=600.0, metavar="S", help="longest film (default: 600)")
    add("--request-timeout", type=float, default=300.0, metavar="S", help="seconds for one request (default: 300)")
    add(
        "--allowed-image-root",
        metavar="DIR",
        help="let requests name images and films in this folder (default: none)",
    )
    add("--allow-remote-images", action="store_true", help="fetch images and films from the public web")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Load the models and answer until the process is told to end.

    Raises:
        UsageError: The packages for serving are not installed.
        MiniCPMVError: A model cannot be loaded.
    """
    options = _build_parser().parse_args(arguments)
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"minicpmv serve: found no {', '.join(missing)}, expected the packages of a web server\n"
            f"  fix: {install_command(extra('serve'))}"
        )

    from minicpmv.serving.answers.served_models import compare_bases, name_models, serve_models
    from minicpmv.serving.http.address import is_loopback, listen, written
    from minicpmv.serving.requests.prompt import context_length
    from minicpmv.serving.server import serve

    settings = _settings(options)
    base, paths = name_models(options.model, options.adapter, options.served_model_name)
    compare_bases(base, paths, allow_other=options.allow_other_base)
    if settings.api_key is None and not is_loopback(options.host):
        print(f"notice: without --api-key, everyone who can reach {options.host} can use the model", file=sys.stderr)
    with listen(options.host, options.port) as listening:
        loaded = open_model(argparse.Namespace(**vars(options) | {"model": base}))
        context_length(loaded, settings)
        served = serve_models(loaded, paths)
        address = f"{written(options.host, listening)}/v1"
        names = ", ".join(served.adapters)
        serve(served, settings, listening, on_ready=lambda: print(f"Serving {names} at {address}", flush=True))
    return 0


def _settings(options: argparse.Namespace) -> ServerSettings:
    from minicpmv.serving.settings import ServerSettings

    for name in ("batch_delay_ms", "request_timeout", "max_video_seconds"):
        least = 0 if name == "batch_delay_ms" else 1
        if not least <= getattr(options, name) < float("inf"):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag}: found {getattr(options, name)}, expected at least {least}\n  fix: {flag} {max(least, 10)}"
            )
    api_key = options.api_key if options.api_key is not None else os.environ.get(_KEY_VARIABLE)
    if (api_key is not None and not api_key.isprintable()) or api_key == "":
        raise UsageError(
            f"--api-key: found {'nothing' if not api_key else 'characters that no header can hold'}, expected a key\n"
            f"  fix: set it, or leave --api-key and ${_KEY_VARIABLE} out"
        )
    root = options.allowed_image_root
    if root is not None and not Path(root).is_dir():
        raise UsageError(
            f"--allowed-image-root: found no folder {root!r}, expected one\n  fix: name a folder that exists"
        )
    return ServerSettings(
        host=options.host,
        api_key=api_key,
        max_batch_size=options.max_batch_size,
        max_queue=options.max_queue,
        batch_delay_seconds=options.batch_delay_ms / 1000,
        max_length=options.max_length,
        max_new_tokens=answer_length(options),
        max_slice_nums=options.max_slice_nums,
        enable_thinking=options.thinking,
        max_body_bytes=options.max_body_bytes,
        max_image_pixels=options.max_image_pixels,
        max_video_frames=options.max_video_frames,
        max_video_seconds=options.max_video_seconds,
        request_timeout_seconds=options.request_timeout,
        allowed_image_root=None if root is None else Path(root),
        allow_remote_images=options.allow_remote_images,
    )
