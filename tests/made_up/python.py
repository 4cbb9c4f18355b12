"""Runs ``-m MODULE WORDS`` in a process that knows the made-up release, as the command whose path comes first."""

from __future__ import annotations

import runpy
import sys

from minicpmv.registration import register as register_with_transformers
from minicpmv.releases.table import register
from tests.made_up.row import MADE_UP

if __name__ == "__main__":
    _, command, option, *words = sys.argv
    assert option == "-m", "what is started is a module"
    register(MADE_UP)
    register_with_transformers()
    sys.executable = command
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
