"""A run uploads its model once, at its end, and says before it begins what would keep it from that."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.training.finish import pushing
from minicpmv.training.finish.pushing import Upload, find_upload, upload_saved
from tests.tiny import FIXTURES

_ASKED = {"push_to_hub": True, "hub_model_id": "me/receipts"}


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "token-of-the-one")


@pytest.mark.usefixtures("online")
def test_a_repository_is_private_unless_asked_otherwise() -> None:
    found = find_upload(_ASKED, base="openbmb/MiniCPM-V-2_6", use_lora=True)
    assert found == Upload(name="me/receipts", base="openbmb/MiniCPM-V-2_6", is_private=True)
    shown = find_upload(_ASKED | {"hub_private_repo": False}, base="/models/here", use_lora=False)
    assert shown == Upload(name="me/receipts", base=None, is_private=False)
    assert find_upload({}, base="/models/here", use_lora=True) is None


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"hub_model_id": "me/receipts"}, r"^--hub_model_id: found without --push_to_hub true"),
        ({"hub_private_repo": False}, r"^--hub_private_repo: found without --push_to_hub true"),
        ({"push_to_hub": True}, r"found --hub_model_id '', expected the name of the repository"),
        (
            _ASKED | {"hub_model_id": "receipts"},
            r"found --hub_model_id 'receipts'.*\n  fix: --hub_model_id owner/name, or",
        ),
        (_ASKED | {"hub_strategy": "every_save"}, r"^--hub_strategy: found 'every_save', expected 'end'"),
        (_ASKED, r"found an adapter of '.*v2_6', a directory of this machine(.|\n)*--base owner/name"),
    ],
)
def test_what_could_not_be_uploaded_is_refused_before_the_run(training: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_upload(training, base=str(FIXTURES / "v2_6"), use_lora=True)


def test_without_network_or_token_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="found HF_HUB_OFFLINE set"):
        find_upload(_ASKED, base="m", use_lora=False)
    monkeypatch.setattr(pushing.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pushing.huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match="found no token, expected one that may write"):
        find_upload(_ASKED, base="m", use_lora=False)


def test_an_upload_that_fails_says_that_the_model_is_saved_and_the_command(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    upload = Upload(name="me/receipts", base=None, is_private=False)
    with pytest.raises(CheckpointError) as told:  # HF_HUB_OFFLINE is set
        upload_saved(upload, str(tmp_path))
    assert "found an upload that failed (push: found HF_HUB_OFFLINE set" in str(told.value)
    assert f"its model is saved in {tmp_path}\n" in str(told.value)
    assert str(told.value).endswith(f"minicpmv push {tmp_path} me/receipts --public")
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"
