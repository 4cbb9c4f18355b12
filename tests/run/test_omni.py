"""MiniCPM-o through the commands: vision and language are trained, hearing and speech come out as they went in."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minicpmv.cli.main import main
from minicpmv.files.checkpoint_folders import list_checkpoints
from tests.omni import SPEECH, assets_of, carried_in, write_omni
from tests.precision import precision_flags
from tests.run import forked
from tests.run.prepared import prepared_python
from tests.run.training import PLAIN, make_data, read_run
from tests.tiny import conversation, save_picture, write_data

_FEW_STEPS = (
    f"{PLAIN} "
    "--max_steps 4 --logging_steps 1 --learning_rate 1e-3 --warmup_steps 0 --report_to none --data_cache false "
    "--report false --use_cpu true --model_max_length 1024 --packing false --save_strategy no"
)
_BOTH = pytest.mark.parametrize("name", ["o-2.6", "o-4.5"])
_NEWER = pytest.mark.parametrize("name", [pytest.param("o-2.6", marks=pytest.mark.slow), "o-4.5"])


@pytest.fixture(scope="module", autouse=True)
def python() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", prepared_python())
        yield


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("omni")
    return {name: write_omni(folder / name, name) for name in ("o-2.6", "o-4.5")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def words(base: Path, data: str, output: Path, *flags: str) -> list[str]:
    start = ["--model_name_or_path", str(base), "--data_path", data, "--output_dir", str(output)]
    return ["train", *start, *_FEW_STEPS.split(), *precision_flags(flags), *flags]


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def answer(model: Path, shown: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["chat", str(model), "--image", shown, "What's this?", "--max-new-tokens", "8"]) == 0
    return capsys.readouterr().out


@_BOTH
def test_all_of_it_trains_and_speech_is_carried_over(
    name: str, bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, output = bases[name], tmp_path / "output"
    checkpoints = ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "5"]
    assert main(words(base, data, output, *checkpoints, "--verify_saved", "true")) == 0
    told = capsys.readouterr().out
    assert "11 tensors carried over, identical byte for byte" in told
    verification = json.loads((output / "verification.json").read_text(encoding="utf-8"))
    assert verification["verdict"] == "verified"
    assert verification["carried"] == {"tensors": 11, "different": [], "missing": []}
    for saved in (output, output / "checkpoint-2", output / "checkpoint-4"):
        assert carried_in(saved) == carried_in(base), saved
        assert assets_of(saved) == assets_of(base), saved
        assert config_of(saved) == config_of(base), saved
    assert (output / "assets/token2wav/flow.pt").samefile(base / "assets/token2wav/flow.pt")
    trained, before = read_weights(output), read_weights(base)
    assert trained.keys() == before.keys()
    assert not torch.equal(trained["llm.lm_head.weight"], before["llm.lm_head.weight"])
    assert not any(part["part"].startswith(SPEECH) for part in read_run(output)["trained"])
    shown = save_picture(tmp_path / "wide.png", 150, 80)
    assert answer(output, shown, capsys).strip()


@_NEWER
def test_films_are_trained_on_and_talked_about(
    name: str, bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        save_picture(tmp_path / "film" / f"{number}.png", 90, 50, seed=number)
    save_picture(tmp_path / "p.png", 90, 50)
    record = {"image": "p.png", "video": "film", "conversations": conversation("<image> and <video>\nWhat?", "A cat.")}
    data = write_data(tmp_path / "train.json", [{"id": str(number)} | record for number in range(2)])
    assert main(words(bases[name], data, tmp_path / "output", "--validation_split", "0")) == 0
    told = capsys.readouterr().out
    assert f"chat {tmp_path / 'output'} --image {tmp_path / 'p.png'} --video {tmp_path / 'film'} " in told
    losses = [entry["loss"] for entry in read_run(tmp_path / "output")["log"] if "loss" in entry]
    assert losses[-1] < losses[0]
    command = ["chat", str(tmp_path / "output"), "--video", str(tmp_path / "film"), "What?", "--max-new-tokens", "4"]
    assert main(command) == 0
    assert "3 frames of 3 s, at 0, 1, 2 s" in capsys.readouterr().err


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    read = {key: each for file in set(index["weight_map"].values()) for key, each in load_file(folder / file).items()}
    assert read.keys() == index["weight_map"].keys()
    return read


@pytest.mark.long
@_NEWER
def test_an_adapter_and_what_it_is_merged_into_answer_alike(
    name: str, bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, merged = bases[name], tmp_path / "adapter", tmp_path / "merged"
    assert main(words(base, data, adapter, "--use_lora", "true", "--lora_r", "4", "--verify_saved", "true")) == 0
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
        assert not any(speech in key for key in tensors.keys() for speech in SPEECH)  # noqa: SIM118
    assert not (adapter / "assets").exists()
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert "llm.model.embed_tokens" in config["modules_to_save"], "tts.model.embed_tokens ends like the last piece"
    assert not any(re.fullmatch(config["target_modules"], key.removesuffix(".weight")) for key in carried_in(base))
    assert main(["merge", str(adapter), str(merged), "--dtype", "bfloat16", "--max-shard-size", "200KB"]) == 0
    assert "11 carried over byte for byte" in capsys.readouterr().out
    assert carried_in(merged) == carried_in(base)
    assert assets_of(merged) == assets_of(base)
    assert config_of(merged) == config_of(base) | {"torch_dtype": "bfloat16"}
    assert json.loads((merged / "merge.json").read_text(encoding="utf-8"))["num_carried"] == 11
    exact = tmp_path / "exact"
    assert main(["merge", str(adapter), str(exact)]) == 0
    shown = save_picture(tmp_path / "wide.png", 150, 80)
    assert answer(exact, shown, capsys) == answer(adapter, shown, capsys)


def test_a_killed_run_goes_on_and_carries_on(bases: dict[str, Path], data: str, tmp_path: Path) -> None:
    base, output = bases["o-4.5"], tmp_path / "output"
    checkpoints = ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "2", "--verify_saved", "true"]
    arguments = words(base, data, output, *checkpoints, "--max_steps", "6")[1:]
    log = tmp_path / "log"
    process = forked.start(arguments, log=log)
    deadline = time.monotonic() + 90
    while not list_checkpoints(output):
        assert process.is_alive(), log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    assert forked.exit_code(process) == -signal.SIGKILL
    assert not (output / "verification.json").exists()
    assert main(["train", *arguments, "--resume_from_checkpoint", "true"]) == 0
    for saved in (output, *list_checkpoints(output)):
        assert carried_in(saved) == carried_in(base)
        assert assets_of(saved) == assets_of(base)


@pytest.mark.parametrize(
    "engine", [pytest.param(("--fsdp", "true"), marks=pytest.mark.slow), ("--deepspeed", "zero3")], ids=" ".join
)
def test_where_weights_are_sharded_the_first_process_carries(
    engine: tuple[str, str], bases: dict[str, Path], data: str, tmp_path: Path
) -> None:
    base, output = bases["o-4.5"], tmp_path / "output"
    checkpoints = ["--save_strategy", "steps", "--save_steps", "1", "--max_steps", "1", "--verify_saved", "true"]
    done = forked.run_command(words(base, data, output, *checkpoints, *engine)[1:], module=forked.TRAINING, processes=2)
    assert done.returncode == 0, done.stderr
    assert "11 tensors carried over, identical byte for byte" in done.stdout
    for saved in (output, output / "checkpoint-1"):
        assert carried_in(saved) == carried_in(base)
        assert assets_of(saved) == assets_of(base)


def test_a_base_without_a_file_of_its_speech_is_refused_before_training(
    bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(bases["o-4.5"], tmp_path / "base")
    (base / "model-00003-of-00003.safetensors").unlink()
    assert main(words(base, data, tmp_path / "output")) == 2
    told = capsys.readouterr()
    assert "expected also model-00003-of-00003.safetensors" in told.err
    assert "loss" not in told.out


def test_a_base_whose_index_names_speech_that_is_in_no_file_is_refused(
    bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(bases["o-4.5"], tmp_path / "base")
    file = base / "model-00003-of-00003.safetensors"
    left = load_file(file)
    del left["tts.count"]
    save_file(left, file, metadata={"format": "pt"})
    assert main(words(base, data, tmp_path / "output")) == 2
    assert "found tts.count in no weight file" in capsys.readouterr().err


def test_speech_that_another_tool_lost_is_told_before_training(
    bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(bases["o-4.5"], tmp_path / "base")
    shutil.rmtree(base / "assets")
    kept = {key: each for key, each in read_weights(base).items() if not key.startswith("tts.")}
    for file in base.glob("model*"):
        file.unlink()
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    assert main(words(base, data, tmp_path / "output", "--verify_saved", "false")) == 0
    assert (
        "found no tensors of tts.*, no folder assets/: what is saved will have none either" in capsys.readouterr().out
    )
    assert carried_in(tmp_path / "output") == carried_in(base)


def test_a_base_that_changes_during_a_run_is_not_mixed_in(
    bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes that are copied are compared with those that the run began with."""
    base = shutil.copytree(bases["o-4.5"], tmp_path / "base")
    file = base / "model-00003-of-00003.safetensors"

    def change(*_: Any, **__: Any) -> None:
        with file.open("r+b") as opened:
            opened.seek(-1, os.SEEK_END)
            last = opened.read(1)
            opened.seek(-1, os.SEEK_END)
            opened.write(bytes([last[0] ^ 1]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minicpmv.training.finish.saving._refuse_too_large", change)
        assert main(words(base, data, tmp_path / "output", "--verify_saved", "false")) == 2
    assert "than when the run began" in capsys.readouterr().err
    assert not (tmp_path / "output" / "model.safetensors.index.json").exists()


def test_a_link_in_assets_that_leads_out_is_refused_before_training(
    bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(bases["o-4.5"], tmp_path / "base")
    (tmp_path / "secret").write_text("not the model's")
    (base / "assets" / "Vocos.pt").unlink()
    (base / "assets" / "Vocos.pt").symlink_to(tmp_path / "secret")
    assert main(words(base, data, tmp_path / "output")) == 2
    assert "assets/Vocos.pt: found a link that leads out of it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"audio": "a.wav", "conversations": conversation("What is said?", "Yes.")}, "'audio'"),
        ({"audios": ["a.wav"], "conversations": conversation("<audio>What is said?", "Yes.")}, "'audios'"),
        ({"conversations": conversation("<audio>\nWhat is said?", "Yes.")}, "'<audio>'"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "input_audio", "input_audio": {"data": ""}}],
                    },
                    {"role": "assistant", "content": "Yes."},
                ]
            },
            "a part of type 'input_audio'",
        ),
    ],
)
def test_sound_in_a_record_is_refused_by_name(
    record: dict[str, Any], told: str, bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data.json", [record])
    assert main(["check", data, "--model", str(bases["o-4.5"])]) == 1
    found = capsys.readouterr().out
    assert told in found
    assert "this version trains pictures, films and text" in found


@_NEWER
def test_the_other_commands_know_it(
    name: str, bases: dict[str, Path], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = bases[name]
    assert main(["check", data, "--model", str(base)]) == 0
    assert main(["show", data, "--model", str(base), "--output", str(tmp_path / "show.html")]) == 0
    assert main(["predict", str(base), data, "--output", str(tmp_path / "p.jsonl"), "--max-new-tokens", "4"]) == 0
    assert len((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()) >= 8
    capsys.readouterr()
    assert main(["export", str(base), "--output", str(tmp_path / "gguf")]) == 2
    assert "llama.cpp's converter knows no MiniCPM-o" in capsys.readouterr().err
