"""Defines the options that all servers share."""

from __future__ import annotations

import argparse

from minicpmv.cli.model_options import positive_int

__all__ = ["add_server_options"]


def add_server_options(parser: argparse.ArgumentParser, *, port: int, asked: str) -> None:
    """Add the options for the address and for the size of pictures.

    Args:
        parser: Parser of the command.
        port: Default port.
        asked: Word for what carries pictures: request or question.
    """
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)")
    add("--port", type=int, default=port, metavar="N", help="port (default: %(default)s; 0 takes any free one)")
    add(
        "--max-image-pixels",
        type=positive_int,
        default=50_000_000,
        metavar="N",
        help=f"width x height, summed over a {asked}'s images (default: 50000000)",
    )
