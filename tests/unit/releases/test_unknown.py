"""A checkpoint of an unknown release: the message says what was found and which row is near."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import CheckpointError
from minicpmv.inference.loading import load_model
from minicpmv.releases.model_files import read_config
from minicpmv.releases.table import VERSIONS, detect_version
from minicpmv.releases.unknown import find_nearest


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model_type": "minicpmv", "version": 4.4}, "4.5"),
        ({"model_type": "minicpmv", "version": "2.8"}, "2.6"),
        ({"model_type": "minicpmo", "version": "5.0"}, "o-4.5"),
        ({"model_type": "minicpmo5"}, "o-4.5"),
        ({"model_type": "minicpmv4_8"}, "4.7-A3B"),
        ({"model_type": "minicpmv3"}, "2.6"),
        ({"model_type": "minicpm"}, "o-4.5"),
        ({"model_type": "qwen3_vl", "version": 4.5}, None),
        ({}, None),
    ],
)
def test_the_nearest_row_is_of_the_family_and_next_in_number(fields: dict[str, Any], name: str | None) -> None:
    nearest = find_nearest(fields, VERSIONS.values())
    assert (None if nearest is None else nearest.name) == name


def test_the_message_says_what_was_found_what_is_near_and_what_a_row_needs(tmp_path: Path) -> None:
    fields = {"model_type": "minicpmo", "version": "5.0", "architectures": ["MiniCPMO"], "hidden_size": 4096}
    fields |= {"talker_config": {"a": 1}}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(CheckpointError) as refused:
        detect_version(read_config(tmp_path))
    told = str(refused.value).splitlines()
    assert told[0] == "config.json: found version '5.0', expected one of o-2.6, o-4.5"
    assert told[2] == (
        "  found: model_type 'minicpmo', version '5.0', architectures ['MiniCPMO'], hidden_size 4096, "
        "objects ['talker_config']"
    )
    assert told[3].startswith("  nearest: openbmb/MiniCPM-o-4_5, row 'o-4.5' (without its field vision_config); its ")
    assert "docs/new_release.md" in told[4]


def test_every_way_to_name_a_model_says_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "minicpmv4_8"}', encoding="utf-8")
    for look in (load_model, read_config):
        with pytest.raises(CheckpointError, match=r"nearest: openbmb/MiniCPM-V-4\.7-35B-A3B, row"):
            look(tmp_path)


def test_another_model_is_told_nothing_of_rows(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(CheckpointError) as refused:
        read_config(tmp_path)
    assert "nearest" not in str(refused.value)
