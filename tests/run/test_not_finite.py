"""Numbers that are not finite end a run: a loss with the records it came from, weights before they are saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.models.adapters.base_identity import BASE_FILE
from minicpmv.training.finish import reload
from minicpmv.training.run import main
from tests.run import poisoned
from tests.run.forked import run_command
from tests.run.training import flags, make_data, read_run
from tests.tiny import FIXTURES

_POISONED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("batches", "last_good", "others"),
    [
        ("--packing false --dataloader_num_workers 1", 3, []),
        pytest.param("--packing false --per_device_train_batch_size 2", 1, [2], marks=pytest.mark.slow),
        pytest.param("--packing false --gradient_accumulation_steps 2", 1, [], marks=pytest.mark.slow),
        ("--packing true --model_max_length 256", 0, None),
    ],
)
def test_records_of_the_batch_are_named_and_the_last_good_checkpoint_stays(
    batches: str,
    last_good: int,
    others: list[int] | None,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POISONED", str(_POISONED))
    monkeypatch.setattr(ConversationDataset, "__getitem__", poisoned._poisoned)
    arguments = flags(data, tmp_path, *batches.split(), "--save_steps", "1", "--save_total_limit", "9")
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert f"error: step {last_good + 1} of 4: found a loss of nan, expected a finite number" in told
    named = [line.strip().partition(" record ")[2] for line in told.splitlines() if " record " in line]
    if others is None:  # a packed row: some of the eight
        assert f"{_POISONED} (id '{_POISONED}')" in named
        assert 1 < len(named) < 8
    else:
        assert named == [f"{number} (id '{number}')" for number in sorted([*others, _POISONED])]
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n + 1}" for n in range(last_good)]


def test_all_processes_stop_together_and_one_says_why(data: str, tmp_path: Path) -> None:
    """Record 3 is in the second batch of the second of two processes; ZeRO-2 has mixed its gradient into all."""
    arguments = flags(data, tmp_path, "--packing", "false", "--deepspeed", "zero2", "--save_steps", "1")
    variables = {"POISONED": str(_POISONED)}
    done = run_command(arguments, processes=2, module="tests.run.poisoned", variables=variables)
    assert done.returncode != 0
    assert done.stderr.count("error: step 2 of 4: found a loss of nan") == 1
    assert "record 3 (id '3')" in done.stderr
    assert "record 2 (id '2')" not in done.stderr
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]


# --------------------------------------------------------------------------------------- weights that are to be saved

_LORA = ("--use_lora", "--lora_r", "4", "--tune_vision", "false")


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [_LORA, ()], ids=["adapter", "full"])
@pytest.mark.parametrize("saving", ["no", "steps"])
def test_last_update_is_looked_at_before_anything_is_saved(
    kind: tuple[str, ...], saving: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each loss and gradient is finite: the weights are not, after the only step."""
    extra = ("--learning_rate", "1e38", "--save_strategy", saving, "--save_steps", "1", "--verify_saved", "true")
    assert main(flags(data, tmp_path, *kind, *extra, steps=1)) == 2
    told = capsys.readouterr()
    assert "error: step 1 of 1: found " in told.err
    assert " trained tensors with values that are not finite (NaN or infinite): " in told.err
    assert "q_proj" in told.err
    assert "fix: train with a lower --learning_rate (it was 1e+38)" in told.err
    assert "Saved" not in told.out
    assert _names(tmp_path) == {"log.jsonl", "run.json", "run.yaml"}
    assert read_run(tmp_path)["status"] == "not finite"


@pytest.mark.parametrize(
    ("warmup", "fails_at", "good"),
    # The first step of a warmup has the rate 0.
    [pytest.param("0", 2, None, marks=pytest.mark.slow), ("4", 3, "checkpoint-1")],
)
def test_advice_names_a_good_checkpoint_and_no_other(
    warmup: str, fails_at: int, good: str | None, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    common = (*_LORA, "--save_steps", "1", "--save_total_limit", "9", "--warmup_steps", warmup)
    arguments = flags(data, output, *common, "--learning_rate", "1e30", steps=8)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert f"error: step {fails_at} of 8: found a loss of nan" in told
    newest = f"checkpoint-{fails_at - 1}"
    assert [path.name for path in list_checkpoints(output)][-1] == newest
    assert f"repeats the steps after {newest}, whose weights may already be too large, and fails here again" in told
    assert main([*arguments, "--resume_from_checkpoint", "true"]) == 2, "as it says"
    if good is None:
        assert "no checkpoint of this run is known to be a good start" in told
        return
    flag, path = told.partition("last good checkpoint (")[2].partition(")")[0].split()
    assert (flag, path) == ("--lora_weight_path", str(output / good))
    further = ("--use_lora", flag, path, "--learning_rate", "1e-4")
    assert main(flags(data, tmp_path / "further", *further, "--warmup_steps", "0", steps=1)) == 0


@pytest.mark.parametrize("engine", ["--deepspeed zero3", pytest.param("--fsdp true", marks=pytest.mark.slow)])
def test_processes_with_pieces_of_a_tensor_agree_that_it_is_not_saved(engine: str, data: str, tmp_path: Path) -> None:
    arguments = flags(data, tmp_path, *engine.split(), "--learning_rate", "1e38", "--save_steps", "1", steps=1)
    done = run_command(arguments, processes=2)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: step 1 of 1: found ") == 1
    assert not _names(tmp_path) & {"config.json", "model.safetensors"}
    assert list_checkpoints(tmp_path) == []


def test_what_is_too_large_for_the_precision_of_saving_is_not_lost(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(data, tmp_path, "--learning_rate", "1e5", "--save_strategy", "no", steps=1)
    assert main([*arguments, "--save_dtype", "float16"]) == 2
    told = capsys.readouterr().err
    assert "error: float16: found " in told
    assert "(more than 65504)" in told
    assert not (tmp_path / "model.safetensors").exists()
    assert main([*arguments, "--save_dtype", "float32", "--resume_from_checkpoint", "true"]) == 0
    assert load_file(tmp_path / "model.safetensors")["llm.lm_head.weight"].abs().max() > 65504


@pytest.mark.parametrize("kind", [_LORA, ()], ids=["adapter", "full"])
def test_finite_weights_that_compute_no_number_are_not_saved_without_a_proof(
    kind: tuple[str, ...], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(data, tmp_path, *kind, "--learning_rate", "1e30", "--save_strategy", "no", steps=1)
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert "error: step 1 of 1: found finite weights that compute a loss of nan, expected a finite number" in told.err
    assert "fix: train with a lower --learning_rate (it was 1e+30)" in told.err
    assert "Saved" not in told.out
    assert _names(tmp_path) == {"log.jsonl", "run.json", "run.yaml"}
    assert read_run(tmp_path)["status"] == "not finite"


@pytest.mark.parametrize(
    "engine",
    [
        "",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("--deepspeed zero2", "--deepspeed zero3", "--fsdp true")
        ),
    ],
)
def test_state_of_the_optimizer_that_is_not_finite_is_not_saved(engine: str, data: str, tmp_path: Path) -> None:
    """Of two processes the second alone has it, where an engine leaves each a piece."""
    arguments = flags(data, tmp_path, *engine.split(), "--save_steps", "1", "--save_total_limit", "9")
    processes = 2 if engine else None
    done = run_command(arguments, processes=processes, module="tests.run.poisoned", variables={"POISONED_STATE": "2"})
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: step 2 of 4: found 1 tensor of the optimizer's state with values that are") == 1
    assert "exp_avg of " in done.stderr
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_measured_loss_that_is_no_number_is_named(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISONED", "7")  # four steps train on records 0 to 3
    monkeypatch.setattr(ConversationDataset, "__getitem__", poisoned._poisoned)
    arguments = flags(data, tmp_path, *_LORA, "--eval_data_path", data, "--eval_strategy", "steps", "--eval_steps", "4")
    assert main(arguments) == 0
    assert "notice: step 4: eval_loss is nan: the loss of some record is not finite" in capsys.readouterr().out


@pytest.mark.usefixtures("prepared_interpreter")
def test_proof_of_finite_weights_that_give_no_finite_loss_says_so(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("--learning_rate", "1e30", "--save_strategy", "no", "--verify_saved", "true")
    assert main(flags(data, tmp_path, *_LORA, *extra, steps=1)) == 2
    told = capsys.readouterr().err
    assert f"error: {tmp_path}: found finite weights, but a loss of nan on the stored records" in told
    assert "base model's directory" not in told
    result = json.loads((tmp_path / "verification.json").read_text(), parse_constant=pytest.fail)
    assert (result["loss"]["live"], result["not_finite"]) == ("nan", [])


@pytest.mark.usefixtures("prepared_interpreter")
def test_proof_names_weights_that_are_not_finite(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as those of a base that was damaged in between, where the adapter does not say which base it had."""
    base = shutil.copytree(FIXTURES / "v2_6", tmp_path / "base")
    arguments = flags(data, tmp_path / "out", *_LORA, "--verify_saved", "true", steps=1)
    arguments[arguments.index("--model_name_or_path") + 1] = str(base)
    assert main(arguments) == 0
    (tmp_path / "out" / BASE_FILE).unlink()
    tensors = load_file(base / "model.safetensors")
    tensors["llm.lm_head.weight"][5, 3] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert reload.main([str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "found weights that are not finite (NaN or infinite): base_model.model.llm.lm_head" in told
