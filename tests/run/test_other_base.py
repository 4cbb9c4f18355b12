"""An adapter and a checkpoint know the weights that they were trained from; others of the same shape are refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from minicpmv.cli.main import main
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.inference.loading import load_model
from minicpmv.models.adapters.base_identity import BASE_FILE, OtherBaseWarning
from minicpmv.training.run import main as train
from tests.run.training import flags, make_data, read_run
from tests.tiny import FIXTURES, save_picture

_LORA = ("--use_lora", "--lora_r", "4", "--lora_modules_to_save", "none")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter, its base, and another base of the same shape."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("base", "other"):
        shutil.copytree(FIXTURES / "v2_6", folder / name)
    file = folder / "other" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: -value if "llm" in name and "proj" in name else value for name, value in tensors.items()}, file)
    save_picture(folder / "a.png", 60, 60, seed=1)
    data = make_data(folder)
    assert train(_flags(folder, folder / "lora", *_LORA, data=data)) == 0
    return folder


def _flags(folder: Path, output: Path, *extra: str, data: str | None = None) -> list[str]:
    arguments = flags(data or str(folder / "train.json"), output, *extra, steps=1)
    return [*arguments, "--model_name_or_path", str(folder / "base")]


def _copy(place: Path, tmp_path: Path, base: Path | None = None) -> Path:
    """Copy the adapter, and let it name another base."""
    lora = tmp_path / "lora"
    shutil.copytree(place / "lora", lora)
    if base is not None:
        config = lora / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    return lora


def _commands(lora: Path, folder: Path, out: Path) -> dict[str, list[str]]:
    question = ["--image", str(folder / "a.png"), "What?", "--max-new-tokens", "2"]
    return {
        "chat": ["chat", str(lora), *question],
        "predict": ["predict", str(lora), str(folder / "train.json"), "--output", str(out), "--max-new-tokens", "2"],
        "eval": ["eval", str(lora), str(folder / "train.json"), "--max-new-tokens", "2"],
        "merge": ["merge", str(lora), str(out)],
        "export": ["export", str(lora), "--output", str(out), "--no-logits"],
        "serve": ["serve", str(lora), "--port", "0"],
        "ui": ["ui", str(lora), "--port", "0", "--compare"],
    }


def test_every_adapter_of_a_run_states_its_base(place: Path) -> None:
    (checkpoint,) = list_checkpoints(place / "lora")
    stated = json.loads((place / "lora" / BASE_FILE).read_text())
    assert stated == json.loads((checkpoint / BASE_FILE).read_text())
    assert stated["path"] == str(place / "base")
    assert stated["model"] == "openbmb/MiniCPM-V-2_6"
    assert read_run(place / "lora")["base_model"]["weights"] == stated["weights"]


@pytest.mark.parametrize("command", ["chat", "predict", "eval", "merge", "export", "serve", "ui"])
def test_other_base_is_refused_by_both_names(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = _copy(place, tmp_path, place / "other")
    assert main(_commands(lora, place, tmp_path / "out")[command]) == 2
    told = capsys.readouterr().err
    stated = json.loads((place / "lora" / BASE_FILE).read_text())
    assert f"{lora}: found an adapter of {place}/base (openbmb/MiniCPM-V-2_6, weights {stated['weights'][:12]})" in told
    assert f"expected one of {place}/other (openbmb/MiniCPM-V-2_6, weights " in told
    assert "--allow-other-base" in told
    assert not (tmp_path / "out").exists() or command == "export"


@pytest.mark.parametrize(
    ("file", "changes"),
    [("config.json", {"rope_theta": 5e5}), ("preprocessor_config.json", {"scale_resolution": 112})],
)
def test_same_weights_with_other_settings_are_another_base(
    file: str, changes: dict[str, Any], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(place / "base", tmp_path / "changed") / file
    changed.write_text(json.dumps(json.loads(changed.read_text()) | changes))
    lora = _copy(place, tmp_path, tmp_path / "changed")
    assert main(_commands(lora, place, tmp_path / "out")["chat"]) == 2
    told = capsys.readouterr().err
    assert f"expected one of {tmp_path}/changed (openbmb/MiniCPM-V-2_6, weights " in told
    assert "which has the same weights and other settings in config.json or preprocessor_config.json" in told
    resumed = [*_flags(place, lora, *_LORA), "--resume_from_checkpoint", "true", "--max_steps", "2"]
    assert train([*resumed, "--model_name_or_path", str(tmp_path / "changed")]) == 2
    assert "and other settings in config.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "ui"])
def test_bases_are_compared_before_anything_is_loaded(
    command: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"minicpmv.cli.{command}_command.open_model", lambda _: pytest.fail("loaded"))
    lora, other = str(place / "lora"), str(place / "other")
    others = ["--adapter", f"cats={lora}"] if command == "serve" else ["--compare", lora]
    if command == "ui":  # names the base that it is put on
        lora = str(_copy(place, place / "of-other", place / "other"))
        others = ["--compare", lora]
    assert main([command, other, "--port", "0", *others]) == 2
    assert f"{lora}: found an adapter of {place}/base" in capsys.readouterr().err


def test_evaluation_on_an_allowed_base_says_so(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = _copy(place, tmp_path, place / "other")
    command = [*_commands(lora, place, tmp_path / "out")["eval"], "--allow-other-base", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["other_base"]
    assert found.startswith(f"trained on {place}/base")
    assert f"put on {place}/other" in found
    lora = _copy(place, tmp_path / "right")
    assert main([*_commands(lora, place, tmp_path / "out")["eval"], "--json"]) == 0
    assert "other_base" not in json.loads(capsys.readouterr().out)


def test_peft_warns_of_another_base(place: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    lora = _copy(place, tmp_path, place / "other")
    with pytest.warns(OtherBaseWarning) as warned:
        AutoPeftModelForCausalLM.from_pretrained(str(lora))
    (told,) = [str(each.message) for each in warned if each.category is OtherBaseWarning]
    assert told.startswith(f"{lora}: trained on {place}/base (openbmb/MiniCPM-V-2_6, weights ")
    assert f", put on {place}/other (openbmb/MiniCPM-V-2_6, weights " in told
    base = AutoModelForCausalLM.from_pretrained(str(place / "other"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtherBaseWarning)
        with pytest.raises(OtherBaseWarning, match="put on"):
            PeftModel.from_pretrained(base, str(lora))
    recwarn.clear()
    AutoPeftModelForCausalLM.from_pretrained(str(place / "lora"))
    load_model(lora, allow_other_base=True)
    assert not [each for each in recwarn if each.category is OtherBaseWarning], "its own base; and our own notice"


def test_base_that_has_moved_is_the_same(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "base", tmp_path / "moved")
    lora = _copy(place, tmp_path, tmp_path / "moved")
    assert main(_commands(lora, place, tmp_path / "out")["chat"]) == 0
    assert "notice" not in capsys.readouterr().err


def test_allowed_base_is_named_and_recorded(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = _copy(place, tmp_path, place / "other")
    commands = _commands(lora, place, tmp_path / "out")
    assert main([*commands["chat"], "--allow-other-base"]) == 0
    allowed = f"{lora}: trained on {place}/base (openbmb/MiniCPM-V-2_6, weights "
    assert caplog.text.count(allowed) == 1
    assert main([*commands["predict"], "--allow-other-base"]) == 0
    made = json.loads((tmp_path / "out.run.json").read_text())["run"]["other_base"]
    assert made.startswith(f"trained on {place}/base")
    assert f"put on {place}/other" in made
    merged = tmp_path / "merged"
    assert main(["merge", str(lora), str(merged), "--allow-other-base", "--no-verify"]) == 0
    assert json.loads((merged / "merge.json").read_text())["other_base"] == made
    assert main(["merge", str(lora), str(tmp_path / "right"), "--base", str(place / "base"), "--no-verify"]) == 0
    assert json.loads((tmp_path / "right" / "merge.json").read_text())["other_base"] is None


def test_adapter_that_does_not_say_is_used_with_a_notice(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora = _copy(place, tmp_path)
    (lora / BASE_FILE).unlink()
    assert main(_commands(lora, place, tmp_path / "out")["chat"]) == 0
    assert f"{lora}: it does not say which weights it was trained on (base_model.json)" in caplog.text


@pytest.mark.parametrize("content", ["", "{}", '{"path": 1}', "[]", "\udcff"])
def test_damaged_statement_is_named(
    content: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = _copy(place, tmp_path)
    (lora / BASE_FILE).write_bytes(content.encode(errors="surrogateescape"))
    assert main(_commands(lora, place, tmp_path / "out")["chat"]) == 2
    assert f"{lora / BASE_FILE}: found nothing that can be read" in capsys.readouterr().err


def test_resume_with_another_base_is_refused_and_can_be_allowed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = _copy(place, tmp_path)
    resumed = [*_flags(place, lora, *_LORA), "--resume_from_checkpoint", "true", "--max_steps", "2"]
    other = [*resumed, "--model_name_or_path", str(place / "other")]
    assert train(other) == 2
    told = capsys.readouterr().err
    assert "checkpoint-1: found another base model, expected the one that it was trained from" in told
    assert f"{place}/base (openbmb/MiniCPM-V-2_6, weights " in told
    assert f"then, {place}/other (openbmb/MiniCPM-V-2_6, weights " in told
    assert train([*other, "--allow_other_base", "true"]) == 0
    (overridden,) = read_run(lora)["overridden"]
    assert f"{place}/other" in overridden
    assert json.loads((lora / BASE_FILE).read_text())["path"] == str(place / "other")


def test_resume_with_a_base_of_another_shape_is_refused_whatever_is_allowed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = _copy(place, tmp_path)
    resumed = [*_flags(place, lora, *_LORA), "--resume_from_checkpoint", "true", "--max_steps", "2"]
    assert train([*resumed, "--model_name_or_path", str(FIXTURES / "v4"), "--allow_other_base", "true"]) == 2
    told = capsys.readouterr().err
    assert "found a base model of another shape" in told
    assert "(openbmb/MiniCPM-V-4, weights " in told
    assert "--allow_other_base" not in told


def test_full_training_is_not_resumed_from_another_base(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _flags(place, tmp_path / "full")
    assert train(arguments) == 0
    resumed = [*arguments, "--resume_from_checkpoint", "true", "--max_steps", "2"]
    assert train([*resumed, "--model_name_or_path", str(place / "other")]) == 2
    assert "found another base model" in capsys.readouterr().err


def test_adapter_to_start_from_is_compared(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start: Any = [*_flags(place, tmp_path / "new", *_LORA), "--lora_weight_path", str(place / "lora")]
    assert train(start) == 0
    assert read_run(tmp_path / "new")["overridden"] == []
    other = [*start, "--model_name_or_path", str(place / "other"), "--overwrite_output_dir", "true"]
    assert train(other) == 2
    assert "--allow_other_base true uses it all the same" in capsys.readouterr().err
    assert train([*other, "--allow_other_base", "true"]) == 0
    (overridden,) = read_run(tmp_path / "new")["overridden"]
    assert overridden.startswith(f"--lora_weight_path {place}/lora: trained on {place}/base")
