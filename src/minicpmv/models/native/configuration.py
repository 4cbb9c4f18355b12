"""Configs of 4.6 and 4.7: transformers' own, which know their release and lose nothing that the file says.

Other engines read fields that transformers does not know, such as 4.7's ``mrope_mode``. So ``config.json`` is written
back word for word, with what was changed since it was read and nothing besides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from transformers import MiniCPMV4_6Config as ReleasedConfig4_6
from transformers import MiniCPMV4_7Config as ReleasedConfig4_7
from transformers import PreTrainedConfig

from minicpmv.models.configuration import CALL_ARGUMENTS
from minicpmv.releases.model_files import check_config, naming_faults
from minicpmv.releases.row import TokenRule
from minicpmv.releases.table import Version, detect_version

__all__ = ["MiniCPMV4_6Config", "MiniCPMV4_7Config"]

_OWN = ("_released", "_as_read")
_ABSENT = object()

_Base = PreTrainedConfig if TYPE_CHECKING else object


class _NativeConfig(_Base):
    """Gives a config of transformers what this package asks of one. Stands before it among the bases."""

    _released: dict[str, Any]
    """The file's fields."""
    _as_read: dict[str, Any]
    """The account that transformers gave of the config when it was made of them."""

    def __init__(self, **fields: Any) -> None:
        own = {key: fields.pop(key) for key in CALL_ARGUMENTS & fields.keys()}
        released = {key: value for key, value in fields.items() if not key.startswith("_")}
        released.setdefault("model_type", self.model_type)
        for key in ("dtype", "torch_dtype"):  # callers of from_pretrained may give torch's own object
            if released.get(key) is not None:
                released[key] = str(released[key]).removeprefix("torch.")
        check_config(released)
        # Copied: transformers completes what it is given, and the caller's dictionaries are not ours.
        released, given = copy.deepcopy(released), copy.deepcopy(released)
        with naming_faults("config.json", expected="settings that a model can be made of"):
            super().__init__(**given, **own)
        self._released = released
        self._as_read = super().to_dict()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make a config of a file's fields; options of ``from_pretrained`` that name a field replace it."""
        fields = {key: value for key, value in config_dict.items() if key not in CALL_ARGUMENTS}
        return super().from_dict(fields, **kwargs)

    @property
    def minicpmv_version(self) -> Version:
        """The release."""
        this: Any = self
        return _release_of(self.model_type, this.text_config.model_type)

    @property
    def token_rule(self) -> TokenRule:
        """How many image tokens a slice has."""
        this: Any = self
        return self.minicpmv_version.reading.token_rule(this.downsample_mode, 0)

    def to_dict(self) -> dict[str, Any]:
        """The file's fields, with what was changed since they were read."""
        now = super().to_dict()
        if not hasattr(self, "_as_read"):  # while it is made
            return now
        for name in _OWN:
            now.pop(name, None)
        return _with_changes(self._released, self._as_read, now)

    def to_diff_dict(self) -> dict[str, Any]:
        """Same as :meth:`to_dict`: a released file is complete, not a difference to some default."""
        return self.to_dict()


@cache
def _release_of(model_type: str, text_model_type: str) -> Version:
    """Look a release up once: every part of a network is found by its row, in every step."""
    return detect_version({"model_type": model_type, "text_config": {"model_type": text_model_type}})


def _with_changes(released: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's fields with what differs between two accounts of the config that was made of them."""
    fields = copy.deepcopy(dict(released))
    for key in dict.fromkeys((*before, *now)):
        was, value = before.get(key, _ABSENT), now.get(key, _ABSENT)
        # transformers tells every part the precision of the whole, and remembers where a config came from.
        if value == was or key.startswith("_") or (key == "dtype" and not {"dtype", "torch_dtype"} & fields.keys()):
            continue
        place = "torch_dtype" if key == "dtype" and "torch_dtype" in fields else key
        if value is _ABSENT:
            fields.pop(place, None)
        elif isinstance(value, Mapping) and isinstance(was, Mapping) and isinstance(fields.get(place), Mapping):
            fields[place] = _with_changes(fields[place], was, value)
        else:
            fields[place] = copy.deepcopy(value)
    return fields


class MiniCPMV4_6Config(_NativeConfig, ReleasedConfig4_6):
    """transformers' config of 4.6."""

    def __init__(self, **fields: Any) -> None:  # stated, or transformers would make another one
        super().__init__(**fields)


class MiniCPMV4_7Config(_NativeConfig, ReleasedConfig4_7):
    """transformers' config of 4.7."""

    def __init__(self, **fields: Any) -> None:  # stated, or transformers would make another one
        super().__init__(**fields)
