"""Defines the options that commands which read a data file share."""

from __future__ import annotations

import argparse

__all__ = ["add_image_root"]


def add_image_root(parser: argparse.ArgumentParser, *, default: str = "DATA's own") -> None:
    """Add ``--image-root``.

    Args:
        parser: Of the command.
        default: Folder that is taken without the option, in the words of its help.
    """
    parser.add_argument(
        "--image-root", metavar="DIR", help=f"folder where relative image paths start (default: {default})"
    )
