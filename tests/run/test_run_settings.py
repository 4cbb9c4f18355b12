"""Every run leaves the ``run.yaml`` that repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from minicpmv.errors import UsageError
from minicpmv.training.flags.words.settings_file import with_settings_file
from minicpmv.training.run import train
from tests.run.training import flags, losses, make_data, read_run, run_here, same_bytes
from tests.tiny import FIXTURES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def test_run_from_the_file_of_a_run_equals_it_bit_for_bit(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(data).parent)
    secret = "hf_" + "a1" * 10
    extra = ["--use_lora", "--lora_r", "4", "--lora_dropout", "0.05", "--seed", "7", "--logging_steps", "1"]
    extra += ["--eval_data_path", "held=train.json", "--hub_token", secret, "--overwrite_output_dir", "true"]
    first = run_here(flags("train.json:2", tmp_path / "first", *extra))
    written = (tmp_path / "first" / "run.yaml").read_text(encoding="utf-8")
    assert secret not in written
    assert "# hub_token is not written: it is a secret" in written
    settings = yaml.safe_load(written)
    assert list(settings)[:4] == ["model", "data", "eval_data", "output"]
    assert settings["model"] == str(FIXTURES / "v2_6")
    assert settings["data"] == [f"{data}:2"]
    assert settings["eval_data"] == [f"held={data}"]
    assert "overwrite_output_dir" not in settings
    monkeypatch.chdir(tmp_path)
    words = with_settings_file([str(tmp_path / "first" / "run.yaml"), "--output_dir", str(tmp_path / "second")])
    train(words)
    second = read_run(tmp_path / "second")
    assert losses(second) == losses(first)
    assert same_bytes(*(tmp_path / name / "adapter_model.safetensors" for name in ("first", "second")))
    again = yaml.safe_load((tmp_path / "second" / "run.yaml").read_text(encoding="utf-8"))
    assert again == settings | {"output": str(tmp_path / "second")}


def test_file_that_no_run_wrote_is_not_replaced(data: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("# mine\nmodel: m\n")
    with pytest.raises(UsageError, match=r"found a run.yaml there that no run wrote"):
        train(flags(data, tmp_path))
    assert (tmp_path / "run.yaml").read_text() == "# mine\nmodel: m\n"
