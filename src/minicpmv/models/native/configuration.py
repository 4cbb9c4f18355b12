"""Configs of 4.6 and 4.7: transformers' own, which keep every field of the file and know their release."""

from __future__ import annotations

from typing import Any

from transformers import MiniCPMV4_6Config as ReleasedConfig4_6
from transformers import MiniCPMV4_7Config as ReleasedConfig4_7

from minicpmv.releases.row import TokenRule
from minicpmv.releases.table import Version, detect_version

__all__ = ["MiniCPMV4_6Config", "MiniCPMV4_7Config"]


class _KnowsItsRelease:
    """Gives a config of transformers what this package asks of one."""

    @property
    def minicpmv_version(self) -> Version:
        """The release."""
        this: Any = self
        text = {"model_type": this.text_config.model_type}
        return detect_version({"model_type": this.model_type, "text_config": text})

    @property
    def token_rule(self) -> TokenRule:
        """How many image tokens a slice has."""
        this: Any = self
        return self.minicpmv_version.reading.token_rule(this.downsample_mode, 0)


class MiniCPMV4_6Config(_KnowsItsRelease, ReleasedConfig4_6):
    """transformers' config of 4.6."""


class MiniCPMV4_7Config(_KnowsItsRelease, ReleasedConfig4_7):
    """transformers' config of 4.7."""
