"""How films were shown goes with what is saved, and damaged statements are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpmv.errors import CheckpointError
from minicpmv.models.adapters.base_identity import BASE_FILE, BaseIdentity, film_settings_of_adapter, write_base
from minicpmv.models.checkpoints.film_settings import film_options, film_settings_of, state_film_settings
from minicpmv.processing.image_processor import MiniCPMVImageProcessor


def test_only_what_was_chosen_is_stated(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"max_slice_nums": 9}')
    state_film_settings(tmp_path, film_settings_of(MiniCPMVImageProcessor()))
    assert json.loads(file.read_text()) == {"max_slice_nums": 9}
    state_film_settings(tmp_path, film_settings_of(MiniCPMVImageProcessor(max_frames=5, video_fps=None)))
    assert json.loads(file.read_text()) == {"max_slice_nums": 9, "max_frames": 5}
    state_film_settings(tmp_path / "no such folder", {"max_frames": 5})
    assert film_options(video_fps=2.0, max_frames=None) == {"video_fps": 2.0}


@pytest.mark.parametrize("stated", ["[]", '{"frames": 3}', "{"])
def test_an_adapter_states_them_beside_its_base(tmp_path: Path, stated: str) -> None:
    base = BaseIdentity("base", "openbmb/MiniCPM-V-2_6", "a", "b", "c", film_settings='{"max_frames": 5}')
    write_base(tmp_path, base)
    assert film_settings_of_adapter(tmp_path) == {"max_frames": 5}
    assert film_settings_of_adapter(None) == {}
    fields = json.loads((tmp_path / BASE_FILE).read_text())
    (tmp_path / BASE_FILE).write_text(json.dumps(fields | {"film_settings": stated}))
    with pytest.raises(CheckpointError, match=r"film_settings: found .*, expected what a run wrote"):
        film_settings_of_adapter(tmp_path)
    write_base(tmp_path, BaseIdentity("base", "openbmb/MiniCPM-V-2_6", "a", "b", "c"))
    assert "film_settings" not in json.loads((tmp_path / BASE_FILE).read_text())
    assert film_settings_of_adapter(tmp_path) == {}
