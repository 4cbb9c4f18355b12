"""Options that commands with a model share."""

from __future__ import annotations

import argparse

import pytest

from minicpmv.cli.model_options import add_model_options, answer_length


@pytest.mark.parametrize(
    ("typed", "length"),
    [([], 64), (["--thinking"], 2048), (["--max-new-tokens", "5"], 5), (["--thinking", "--max-new-tokens", "5"], 5)],
)
def test_answers_may_be_longer_where_thoughts_count(typed: list[str], length: int) -> None:
    parser = argparse.ArgumentParser()
    add_model_options(parser, max_new_tokens=64, with_thoughts=2048)
    assert answer_length(parser.parse_args(["model", *typed])) == length
