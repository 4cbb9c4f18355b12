"""Options of every command that answers at an address."""

from __future__ import annotations

import argparse

from minicpmv.cli.model_options import positive_int

__all__ = ["add_server_options"]


def add_server_options(parser: argparse.ArgumentParser, *, port: int, asked: str) -> None:
    """Add where it listens, and how much of pictures it takes.

    Args:
        parser: The command's.
        port: Where it listens if none is given.
        asked: What pictures come with: a request, a question.
    """
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)")
    add("--port", type=int, default=port, metavar="N", help="default: %(default)s; 0 takes any free one")
    add(
        "--max-image-pixels",
        type=positive_int,
        default=50_000_000,
        metavar="N",
        help=f"width x height, summed over a {asked}'s images (default: 50000000)",
    )
