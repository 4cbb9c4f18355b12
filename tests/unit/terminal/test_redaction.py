"""Secrets are hidden by the names they stand under, by their place and by their shape; nothing else is."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields

import pytest
from transformers import TrainingArguments

from minicpmv.terminal.redaction import (
    HIDDEN,
    clean_command,
    clean_command_line,
    clean_settings,
    clean_text,
    is_secret_name,
    secrets_in,
)
from minicpmv.training.flags.declarations import RunArguments

SECRET = "s3cr3t-Value"


@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", SECRET],
        ["--hub-token", SECRET],
        [f"--hub_token={SECRET}"],
        ["--wandb_api_key", SECRET],
        ["--apikey", SECRET],
        ["--db-password", SECRET],
        ["--clientSecret", SECRET],
        ["--aws_credentials", SECRET],
        ["--auth", SECRET],
        ["--api_keys", "one-two-three", SECRET],
        ["--run_name", f"https://user:{SECRET}@host/path"],
        ["--run_name", f"https://{SECRET}@host"],
        ["--model", f"https://host/a?rev=1&access_token={SECRET}"],
        ["--data", f"https://host/a?X-Amz-Signature={SECRET}&x=1"],
        ["--deepspeed", json.dumps({"comet": {"api_key": SECRET}})],
        ["--kwargs", json.dumps([{"password": {"of": ["me", SECRET]}}])],
        [f"--kwargs={json.dumps({'url': f'https://a:{SECRET}@b'})}"],
        ["--kwargs", f"{{'api_key': '{SECRET}'}}"],
        ["--optim_args", f"lr=1,token={SECRET}"],
        ["--header", f"Authorization: Bearer {SECRET}"],
        ["--note", f"python -m x --hub_token {SECRET}"],
    ],
)
def test_secret_of_a_command_is_hidden(words: list[str]) -> None:
    cleaned = clean_command(words)
    assert SECRET not in " ".join(cleaned)
    assert len(cleaned) == len(words)
    assert HIDDEN in " ".join(cleaned)
    assert SECRET not in clean_command_line(shlex.join(["python", *words]))


@pytest.mark.parametrize(
    "shape",
    [
        "hf_" + "aB3" * 11,
        "sk-proj-" + "aB3" * 8,
        "ghp_" + "aB3" * 12,
        "github_pat_" + "aB3" * 12,
        "glpat-" + "aB3" * 7,
        "AKIA" + "A1B2" * 4,
        "AIza" + "aB3-_" * 7,
        "xoxb-" + "123-abc-" * 3,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
    ],
)
def test_token_of_a_known_shape_is_hidden_anywhere(shape: str) -> None:
    assert clean_text(f"found '{shape}', expected a folder") == f"found '{HIDDEN}', expected a folder"
    assert clean_text(f"d_{shape}/train.json") == f"d_{HIDDEN}/train.json"


@pytest.mark.parametrize(
    "words",
    [
        ["--batch_tokens", "4096", "--max-new-tokens", "64"],
        ["--include_num_input_tokens_seen", "non_padding"],
        ["--average_tokens_across_devices", "false", "--use_auth_token", "true"],
        ["--learning_rate", "-1e-4", "--data_path", "a.json", "b.json:0.5"],
        ["--tokenizer_name", "x", "--author", "me", "--keyboard", "qwerty", "--compass", "north"],
        ["--lr_scheduler_kwargs", '{"num_cycles":  2}'],
        ["--lora_target_modules", r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj)"],
        ["--run_name", "https://host/path?x=1#part"],
        ["key", "token"],
    ],
)
def test_what_is_no_secret_stays_to_the_letter(words: list[str]) -> None:
    assert clean_command(words) == words


def test_settings_are_cleaned_at_every_depth_and_keep_their_other_values() -> None:
    settings = {"a": [1, None, True, {"hub_token": SECRET, "seed": 1}], "token_ids": [1, 2], "trained_tokens": 5}
    assert clean_settings(settings) == {
        "a": [1, None, True, {"hub_token": HIDDEN, "seed": 1}],
        "token_ids": [1, 2],
        "trained_tokens": 5,
    }


def test_variable_of_the_environment_is_hidden_where_it_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "completely-plain-words")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "something-else")
    assert clean_text("a completely-plain-words b something-else") == f"a {HIDDEN} b something-else"


def test_what_a_command_line_calls_secret_is_found() -> None:
    words = ["model", "--api-key", SECRET, "data.json", "--hub_token=another-one", "--batch_tokens", "4096"]
    assert secrets_in(words) == {SECRET, "another-one"}
    assert clean_text(f"found {SECRET}", known=secrets_in(words)) == f"found {HIDDEN}"


def test_flags_of_a_run_that_hold_secrets_are_known_by_their_names() -> None:
    """A flag of a later transformers that holds one should be looked at, and added here."""
    names = [item.name for owner in (RunArguments, TrainingArguments) for item in fields(owner)]
    # Those that end in `tokens` count them.
    assert [name for name in names if is_secret_name(name) and not name.endswith("tokens")] == ["hub_token"]
