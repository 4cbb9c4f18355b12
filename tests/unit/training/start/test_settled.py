"""What a run is, is settled before data are read: what its flags, its base and its directories allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpmv.errors import MiniCPMVError
from minicpmv.releases.table import VERSIONS
from minicpmv.training.start.settled import settle
from tests.run.training import flags

NO_DATA = "there/is/no.json"


def test_switches_are_resolved_and_no_record_is_read(tmp_path: Path) -> None:
    settled = settle(flags(NO_DATA, tmp_path / "output", "--use_lora", "true"))
    assert settled.base.version is VERSIONS["2.6"]
    assert settled.run is settled.request.run
    assert settled.run.tune_llm is False, "LoRA trains beside it"
    assert settled.settings["output_dir"] == settled.output_dir == str(tmp_path / "output")
    assert (settled.compilation, settled.upload) == (None, None)


@pytest.mark.parametrize("flag", ["--output_dir", "--logging_dir"])
def test_a_place_that_cannot_be_written_is_named_by_its_flag(flag: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MiniCPMVError, match=rf"^{flag} .*file"):
        settle(flags(NO_DATA, tmp_path / "output", flag, str(tmp_path / "file" / "below")))


def test_a_folder_with_the_name_of_a_file_of_the_run_is_found_before_the_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "output" / "run.json").mkdir(parents=True)
    with pytest.raises(MiniCPMVError, match=r"run\.json'?, expected a free name"):
        settle(flags(NO_DATA, tmp_path / "output"))
