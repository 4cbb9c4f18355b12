from __future__ import annotations

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from minicpmv.errors import ConfigError, UsageError
from minicpmv.training.flags.trackers import settle_trackers


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("none", ["none"]),
        ("all", ["all"]),
        ("tensorboard", ["tensorboard"]),
        ("tensorboard, kubeflow", ["tensorboard", "kubeflow"]),
    ],
)
def test_what_is_installed_is_taken(asked: str, names: list[str]) -> None:
    settings = {"report_to": asked}
    settle_trackers(settings)
    assert settings == {"report_to": names}


@pytest.mark.parametrize("name", sorted({*INTEGRATION_TO_CALLBACK} - {"kubeflow"}))
def test_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"--report_to {name}: found no .*\n  fix: pip install "):
        settle_trackers({"report_to": name})


@pytest.mark.parametrize(
    ("asked", "fix"), [("wandbb", "did you mean wandb"), ("none,wandb", "correct the name"), ("", "correct the name")]
)
def test_unknown_tracker_is_refused(asked: str, fix: str) -> None:
    with pytest.raises(UsageError, match=fix):
        settle_trackers({"report_to": asked})
