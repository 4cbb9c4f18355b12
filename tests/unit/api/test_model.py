"""Arguments of a model's methods: what cannot be, or cannot act, is refused by name before the model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minicpmv
from minicpmv.errors import ImageError, UsageError
from tests.tiny import FIXTURES, conversation, picture

_USER = {"role": "user", "content": "What is this?"}
_RECORD = {"id": "a", "conversations": conversation("What is this?", "x")}


@pytest.fixture(scope="module")
def model() -> minicpmv.Model:
    return minicpmv.load(FIXTURES / "v2_6", device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "int8", torch.int8])
def test_precision_that_is_none_is_refused_by_name(dtype: Any) -> None:
    with pytest.raises(
        UsageError, match=r"^dtype: found .*, expected one of torch\.float32, torch\.bfloat16, torch\.float16"
    ):
        minicpmv.load(FIXTURES / "v2_6", device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": 0.5}, "temperature: found without sample=True, expected both"),
        ({"top_p": 5}, "top_p: found 5, expected a number above 0 and at most 1"),
        ({"seed": 3}, "seed: found without sample=True"),
        ({"sample": True, "seed": "3"}, "seed: found '3', expected a whole number"),
        ({"sample": True, "temperature": 0}, "temperature: found 0, expected a number above 0"),
        ({"sample": "yes"}, "sample: found 'yes', expected True or False"),
        ({"max_new_tokens": "8"}, "max_new_tokens: found '8', expected a whole number of at least 1"),
        ({"max_new_tokens": -8}, "max_new_tokens: found -8"),
        ({"max_new_token": 8}, r"max_new_token: found as a setting, .*\n  fix: did you mean max_new_tokens\?"),
    ],
)
def test_setting_that_cannot_be_or_cannot_act_is_refused_by_name(
    model: minicpmv.Model, given: dict[str, Any], said: str
) -> None:
    for ask in (lambda: model.chat("Hello?", **given), lambda: model.predict([_RECORD], **given)):
        with pytest.raises(UsageError, match=said):
            ask()


def test_none_leaves_a_setting_at_its_default(model: minicpmv.Model) -> None:
    plain = model.chat("What is this?", max_new_tokens=2)
    assert model.chat("What is this?", None, max_new_tokens=2, temperature=None, sample=None, seed=None) == plain


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "messages: found None, expected a question, or a list of"),
        (3, "messages: found an int"),
        ([], "messages: found none"),
        (" ", "^messages: found no text and no picture"),
        (["Hello?"], r"messages\[0\]: found a str, expected a dict"),
        ([_USER, {"role": "assistant", "content": "A cat."}], r"messages\[1\].role: found 'assistant' in the last"),
    ],
)
def test_what_is_no_conversation_to_answer_is_refused(model: minicpmv.Model, messages: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        model.chat(messages)


def test_picture_that_is_none_is_an_error_that_callers_can_name(model: minicpmv.Model, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.png: found no such file"):
        model.chat("What is this?", tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"found an ndarray.*\n.*PIL.Image.fromarray"):
        model.chat("What is this?", np.asarray(picture()))


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("", "metrics: found '', expected names"),
        ([], r"metrics: found \[\]"),
        (None, "metrics: found None"),
        ([3], "metrics: found 3, expected a name or a metric"),
        ("exact_mach", "exact_mach"),
    ],
)
def test_metrics_that_measure_nothing_are_refused(model: minicpmv.Model, metrics: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        model.evaluate([_RECORD], metrics)


@pytest.mark.parametrize("number", [{"batch_size": 0}, {"max_length": "long"}, {"seed": 1.5}])
def test_number_of_an_evaluation_is_checked(model: minicpmv.Model, number: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(number))}: found"):
        model.evaluate([_RECORD], **number)


def test_answer_that_is_judged_bad_is_nothing_to_compare_with(model: minicpmv.Model) -> None:
    with pytest.raises(UsageError, match=r"label: found false, which calls the last answer a bad one"):
        model.evaluate([_RECORD | {"label": False}])
    assert len(model.predict([_RECORD | {"label": False}], max_new_tokens=1)) == 1
