"""A tokenizer's pattern is accepted only if matching it cannot take for ever."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from minicpmv.errors import CheckpointError
from minicpmv.processing.tokens.split_patterns import check_patterns


def _tokenizer(pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated")])
    return tokenizer


def test_the_pattern_of_a_released_tokenizer_is_accepted() -> None:
    check_patterns(_tokenizer(r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s*[\r\n]+|\s+(?!\S)|\s+"), "there")


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (r"(a+)+b", "a group that is repeated"),
        (r"a*a*a*a*a*a*b", "more than 5 repetitions in a row"),
        (r"(a)\1", "nested classes, named groups or references"),
        ("(a)" * 9, "more than 8 groups"),
        ("a|" * 1001, "2,002 characters"),
    ],
)
def test_a_pattern_that_may_not_end_is_refused(pattern: str, fault: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"there: tokenizer.json: pre_tokenizer: found the pattern .* with {fault}"
    ):
        check_patterns(_tokenizer(pattern), "there")
