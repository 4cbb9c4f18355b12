"""The released code loads our directories, optimum-intel exports them to OpenVINO from it, and both answer as we do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers.released import AUTO_MAPS, mend
from minicpmv.inference.loading import load_model
from tests.engines.conftest import Drive
from tests.engines.ours import ask, distance
from tests.tiny import save_picture

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        "MINICPMV_RELEASED_CODE" not in os.environ,
        reason="MINICPMV_RELEASED_CODE names no folder with the `.py` files of openbmb/MiniCPM-V-2_6",
    ),
]


def _with_code(tuned: Path, directory: Path) -> Path:
    """A copy of a tuned directory as it would be had its base held the code."""
    shutil.copytree(tuned, directory, ignore=shutil.ignore_patterns("checkpoint-*", "runs", "verification"))
    for file in Path(os.environ["MINICPMV_RELEASED_CODE"]).glob("*.py"):
        shutil.copy(file, directory)
    resampler = directory / "resampler.py"
    resampler.write_text(mend(resampler.name, resampler.read_text(encoding="utf-8")), encoding="utf-8")
    for name, names in AUTO_MAPS.items():
        content = json.loads((directory / name).read_text(encoding="utf-8"))
        (directory / name).write_text(json.dumps(content | {"auto_map": names}), encoding="utf-8")
    return directory


def test_the_tuned_demo_answers_alike(
    drive: Drive, demo: Path, heldout: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))  # where transformers copies the code
    asks = [
        *heldout,
        ("Which digit is it?", save_picture(tmp_path / "wide.png", 150, 80, seed=1)),  # slices of one length
        ("What is this?", save_picture(tmp_path / "tall.png", 70, 190, seed=2)),  # an overview shorter than its slices
    ]
    request = {
        "model": str(_with_code(demo / "full", tmp_path / "full")),
        "exported": str(tmp_path / "exported"),
        "max_new_tokens": 8,
        "asks": [{"question": question, "picture": picture} for question, picture in asks],
    }
    theirs: dict[str, Any] = drive("openvino", request)
    loaded = load_model(demo / "full", device="cpu")
    slot = loaded.processor.vocabulary["<unk>"]
    answers: set[tuple[int, ...]] = set()
    for index, one in enumerate(asks):
        ours = ask(loaded, *one, max_new_tokens=8)
        assert theirs[f"tokens_{index}"].tolist() == [slot if token == -1 else token for token in ours.tokens]
        for engine in ("", "openvino_"):
            assert theirs[f"{engine}answer_{index}"].tolist() == ours.answer
            assert distance(theirs[f"{engine}logits_{index}"], ours.logits) < 1e-5
            assert distance(theirs[f"{engine}image_{index}"], ours.image) < 1e-4
        answers.add(tuple(ours.answer))
    assert len(answers) >= 10  # every digit: it has learned
