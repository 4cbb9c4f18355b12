"""Where a run's numbers are sent: transformers' trackers. One that is missing is named before anything is read."""

from __future__ import annotations

import difflib
import importlib.util
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from minicpmv.errors import ConfigError, UsageError

__all__ = ["settle_trackers"]

# Name -> its package as imported and as pip knows it, where they differ from the name.
_PACKAGES = {
    "azure_ml": ("azureml", "azureml-core"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "flyte": ("flytekit", "flytekit"),
}
_WITHOUT_PACKAGE = {"kubeflow"}  # transformers writes to an address that its operator sets


def settle_trackers(settings: dict[str, Any]) -> None:
    """Read ``report_to``, names separated by commas, into the list that transformers takes.

    Args:
        settings: Keyword arguments for ``TrainingArguments``.

    Raises:
        UsageError: There is no such tracker.
        ConfigError: Its package is not installed.
    """
    names = [name.strip() for name in settings["report_to"].split(",")]
    settings["report_to"] = names
    if names in (["none"], ["all"]):
        return
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
            raise UsageError(
                f"--report_to: found {name!r}, expected some of {known}, or all or none by itself\n"
                f"  fix: {f'did you mean {near[0]}?' if near else 'correct the name'}"
            )
    packages = [_PACKAGES.get(name, (name, name)) for name in names if name not in _WITHOUT_PACKAGE]
    missing = [pip for module, pip in packages if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"--report_to {','.join(names)}: found no {' and no '.join(missing)}, expected the package behind it\n"
            f"  fix: pip install {' '.join(missing)}, or --report_to none"
        )
