"""Recognises a page by the command that its head names, so that no other file is replaced by a page."""

from __future__ import annotations

from typing import BinaryIO

from minicpmv.files.places import Recognised

__all__ = ["page_of"]

_HEAD = 1024
"""Bytes in which the mark is: before anything that comes from a user."""


def page_of(command: str) -> Recognised:
    """Return what recognises the pages of a command.

    Args:
        command: Its name; the template says the same: ``<meta name="generator" content="minicpmv COMMAND">``.
    """
    mark = f'<meta name="generator" content="minicpmv {command}">'.encode()

    def is_one(file: BinaryIO) -> bool:
        head = file.read(_HEAD)
        return head.lstrip().startswith(b"<!doctype html>") and mark in head

    return Recognised(f"a page of `minicpmv {command}`", is_one)
