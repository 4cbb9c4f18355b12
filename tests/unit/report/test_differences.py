from __future__ import annotations

from pathlib import Path

from minicpmv.report.differences import find_differences, given_settings
from minicpmv.report.run_directory import read_run
from tests.unit.report.runs import facts, write_run


def test_only_what_differs_is_listed(tmp_path: Path) -> None:
    other = {**facts()["training_arguments"], "learning_rate": 1e-4, "output_dir": "y"}
    data = [{"path": "/data/train.json", "sha256": "cd" * 32}]
    runs = [
        read_run(write_run(tmp_path / "a")),
        read_run(write_run(tmp_path / "b", training_arguments=other, data=data, versions={})),
    ]
    assert find_differences(runs) == {
        "data": ["/data/train.json (abababab)", "/data/train.json (cdcdcdcd)"],
        "version of torch": ["2.13.0", ""],
        "learning_rate": ["0.001", "0.0001"],
    }
    assert find_differences([runs[0], runs[0]]) == {}


def test_given_settings_are_those_of_the_command_line_with_their_settled_values(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, command="python -m minicpmv.training --lora-r=8 --learning_rate 1e-3"))
    assert given_settings(run) == {"learning_rate": "0.001", "lora_r": "8"}
    assert given_settings(read_run(write_run(tmp_path, command="an open ' quote"))) == {}
