"""A model whose logits are not finite is an error wherever it is asked, and never answers ``!!!!!``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from minicpmv.errors import NotFiniteError
from minicpmv.inference.loading import load_model
from tests.broken_models import EMBEDDINGS, HEAD, make_broken
from tests.processes import started, wait_for
from tests.run.forked import minicpmv
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES, conversation, write_data

_WORD = "zebra"
"""Its token has an embedding that is no number in one of the models."""


@pytest.fixture(scope="module")
def nan_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_broken(tmp_path_factory.mktemp("nan") / "model", tensor=HEAD, value=float("nan"))


def _token_of_the_word() -> int:
    tokenizer = AutoTokenizer.from_pretrained(FIXTURES / "v2_6")
    rare = set(tokenizer.encode(_WORD, add_special_tokens=False))
    common = set(tokenizer.encode("Say it.", add_special_tokens=False))
    return min(rare - common)


@pytest.fixture(scope="module")
def half_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that only cannot answer a question with the word in it."""
    folder = tmp_path_factory.mktemp("half") / "model"
    return make_broken(folder, tensor=EMBEDDINGS, value=float("nan"), row=_token_of_the_word())


@pytest.mark.parametrize("how", [[], ["--sample"]])
def test_chat_names_the_weights(how: list[str], nan_model: Path) -> None:
    done = minicpmv("chat", nan_model, "Hi!", *how)
    assert done.returncode == 2
    assert "!" not in done.stdout
    assert f"{nan_model}: found logits that are not finite" in done.stderr
    assert f"its weights are not finite: {HEAD}\n  fix: " in done.stderr


def test_numbers_too_large_for_the_precision_are_told_from_broken_weights(tmp_path: Path) -> None:
    model = make_broken(tmp_path / "model", tensor=HEAD, value=3e38)
    done = minicpmv("chat", model, "Hi!")
    assert done.returncode == 2
    assert "its weights are finite, but numbers computed from them are too large for float32\n  fix: " in done.stderr


@pytest.mark.parametrize("how", [{"sampling": True}, {"sampling": False}, {"stream": True}])
def test_official_chat_raises(how: dict[str, Any], nan_model: Path) -> None:
    model, said = load_model(nan_model).model, []
    with pytest.raises(NotFiniteError, match="its weights are not finite"):
        said.extend(model.chat(msgs=conversation("Hi!"), max_new_tokens=4, **how))
    assert said == []


def test_predict_keeps_what_was_answered_and_names_the_record(half_broken: Path, tmp_path: Path) -> None:
    """The longest record comes first, and the one at fault last."""
    questions = ["Say it. " * 9, "Say it. " * 6, _WORD]
    data = write_data(tmp_path / "data.json", [{"id": q, "conversations": conversation(q)} for q in questions])
    output = tmp_path / "answers.jsonl"
    arguments = [half_broken, data, "--output", output, "--batch-size", "1", "--max-new-tokens", "4"]
    done = minicpmv("predict", *arguments)
    assert done.returncode == 2
    assert f"record 2 (id '{_WORD}'): {half_broken}: found logits that are not finite" in done.stderr
    assert not output.exists(), "it would look complete"
    (kept,) = (path for path in tmp_path.iterdir() if path.name.startswith("answers.jsonl"))
    assert re.findall(r'{"index": (\d)', kept.read_text()) == ["0", "1"]


@pytest.mark.parametrize("metrics", ["exact_match", "perplexity"])
def test_eval_does_not_measure_it(metrics: str, nan_model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.json", [{"id": "a", "conversations": conversation("Say it.", "No.")}])
    done = minicpmv("eval", nan_model, data, "--metrics", metrics, "--max-new-tokens", "4")
    assert done.returncode == 2
    assert "record 0 (id 'a')" in done.stderr
    assert f"its weights are not finite: {HEAD}" in done.stderr
    assert done.stdout == ""


@pytest.fixture(scope="module")
def client(half_broken: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [prepared_python(), "-m", "minicpmv", "serve", half_broken, "--served-model-name", "m", "--port", "0"]
    with log.open("w") as written, started(command, stdout=written, stderr=written) as process:
        address = wait_for(r"^Serving m at (\S+)$", log, process)[1]
        with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as client:
            yield client
    assert f"its weights are not finite: {EMBEDDINGS}" in log.read_text(), "the log says which"


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"stream": True}])
def test_server_refuses_the_request_and_answers_the_next(options: dict[str, float], client: openai.OpenAI) -> None:
    ask: Any = client.chat.completions.create
    with pytest.raises(openai.InternalServerError) as told:
        ask(model="m", messages=conversation(f"{_WORD}?"), max_tokens=4, **options)
    assert told.value.code == "not_finite"
    assert "found logits of 'm' that are not finite" in told.value.message
    assert ask(model="m", messages=conversation("Say it."), max_tokens=4).choices[0].message.content
