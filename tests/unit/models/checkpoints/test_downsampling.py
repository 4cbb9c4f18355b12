from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpmv.errors import UsageError
from minicpmv.models.checkpoints.downsampling import mode_in, mode_options, refuse_unknown_mode, state_downsample_mode
from minicpmv.releases.table import VERSIONS


def write(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(fields), encoding="utf-8")


def test_a_mode_is_stated_in_both_files_and_nothing_else_changes(tmp_path: Path) -> None:
    write(tmp_path / "config.json", model_type="minicpmv4_6", downsample_mode="16x", more=1)
    write(tmp_path / "preprocessor_config.json", patch_size=14)
    state_downsample_mode(tmp_path, "4x")
    read = {name: json.loads((tmp_path / name).read_text()) for name in ("config.json", "preprocessor_config.json")}
    assert read["config.json"] == {"model_type": "minicpmv4_6", "downsample_mode": "4x", "more": 1}
    assert read["preprocessor_config.json"] == {"patch_size": 14, "downsample_mode": "4x"}


def test_without_a_mode_no_file_is_touched(tmp_path: Path) -> None:
    write(tmp_path / "config.json", model_type="minicpmv")
    before = (tmp_path / "config.json").read_bytes()
    state_downsample_mode(tmp_path, None)
    assert (tmp_path / "config.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_a_silent_config_means_the_releases_own_mode() -> None:
    assert mode_in({}, VERSIONS["4.6"]) == "16x"
    assert mode_in({"downsample_mode": "4x"}, VERSIONS["4.7"]) == "4x"
    assert mode_in({}, VERSIONS["2.6"]) is None
    assert (mode_options(None), mode_options("4x")) == ({}, {"downsample_mode": "4x"})


def test_a_mode_that_a_release_lacks_is_refused_by_name() -> None:
    refuse_unknown_mode("4x", VERSIONS["4.7"], asked_by="--downsample_mode")
    refuse_unknown_mode(None, VERSIONS["2.6"], asked_by="--downsample_mode")
    with pytest.raises(
        UsageError, match=r"--downsample_mode: found '8x', expected 16x or 4x for openbmb/MiniCPM-V-4\.6"
    ):
        refuse_unknown_mode("8x", VERSIONS["4.6"], asked_by="--downsample_mode")
    with pytest.raises(UsageError, match=r"--downsample_mode: found '4x', expected nothing: openbmb/MiniCPM-V-2_6"):
        refuse_unknown_mode("4x", VERSIONS["2.6"], asked_by="--downsample_mode")
