"""Mixtures of losses by name and weight."""

from __future__ import annotations

import pytest

from minicpmv.errors import UsageError
from minicpmv.losses.mixture import PUBLISHED, parse_mixture


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("sigmoid", "sigmoid=1"),
        ("sigmoid=0.8, bco_pair=0.2, nll=1", "sigmoid=0.8,bco_pair=0.2,nll=1"),
        ("orpo", "orpo=0.1,nll=1"),
        ("orpo=1", "orpo=1"),
        ("mpo", "sigmoid=0.8,bco_pair_delta=0.2,nll=1"),
    ],
)
def test_reads(written: str, read: str) -> None:
    assert str(parse_mixture(written, flag="--preference_loss")) == read


def test_what_is_published_can_be_read() -> None:
    assert all(str(parse_mixture(name, flag="--f")) == written for name, written in PUBLISHED.items())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("sigmoyd", "did you mean sigmoid"),
        ("sigmoid=x", "found the weight 'x' of sigmoid, expected a number above 0"),
        ("sigmoid=0", "expected a number above 0"),
        ("sigmoid=inf", "expected a number above 0"),
        ("sigmoid,sigmoid", "found 'sigmoid' twice"),
        ("nll", "expected a loss that compares answers"),
        ("", "expected a loss that compares answers"),
        ("sigmoid,apo_zero_unpaired", "not both"),
    ],
)
def test_refuses(written: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        parse_mixture(written, flag="--preference_loss")


@pytest.mark.parametrize(("written", "needs"), [("sigmoid", True), ("simpo", False), ("cpo,hinge=1", True)])
def test_says_whether_there_must_be_a_reference(written: str, needs: bool) -> None:
    assert parse_mixture(written, flag="--f").needs_reference == needs
