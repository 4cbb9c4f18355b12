"""`minicpmv estimate` on the fixtures with data, and on released sizes without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.cli.main import main
from minicpmv.estimation.subject import read_subject
from minicpmv.models.attention import varlen as attention
from minicpmv.training.distributed.engine import quieten
from minicpmv.training.start.footprint.memory import estimate_memory
from minicpmv.training.start.footprint.stages import Row
from tests.machines import GPU
from tests.released_sizes import RELEASED
from tests.run.training import make_data
from tests.tiny import FIXTURES


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the config of MiniCPM-Llama3-V-2.5 and nothing else."""
    folder = tmp_path_factory.mktemp("released")
    (folder / "config.json").write_text(json.dumps(RELEASED["2.5"] | {"model_type": "minicpmv"}), encoding="utf-8")
    return folder


def estimate(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    main(["estimate", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def test_data_give_steps_and_the_heaviest_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path)
    found = estimate(capsys, FIXTURES / "v2_6", data, "--use_cpu", "true", "--num_train_epochs", "1")
    assert found["records"] == 8
    assert max(row["slices"] for row in found["rows"]) > 1
    assert found["seconds"]["cpu"]["epoch"] == pytest.approx(found["seconds"]["cpu"]["step"] * found["steps_per_epoch"])


def test_a_released_size_needs_its_config_only(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = estimate(capsys, released / "config.json")["as_asked"]["memory"]
    assert memory["weights"] == pytest.approx(8_537_092_336 * 4, rel=1e-4)
    assert memory["optimizer"] == pytest.approx(8_537_092_336 * 8, rel=1e-4)


@pytest.mark.long
def test_lora_recomputed_fits_where_full_training_does_not(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ["--use_lora", "true", "--activation_checkpointing", "false"]
    assert main(["estimate", str(released), "--gpu", "24GB", *kept]) == 1
    text = capsys.readouterr().out
    assert "24gb: does not fit as asked; fits with --activation_checkpointing true" in text
    assert max(map(len, text.splitlines())) <= 130
    advised = text.split("24gb: does not fit as asked; fits with ")[1].splitlines()[0].split()
    assert main(["estimate", str(released), "--gpu", "24GB", "--use_lora", "true", *advised]) == 0


def test_a_gpus_memory_does_not_depend_on_this_processor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []
    for is_faster in (True, False):
        monkeypatch.setattr(attention, "PRODUCTS_ARE_FASTER", is_faster)
        flags = ("--gpu", "24GB", "--bf16", "true", "--activation_checkpointing", "true")
        found.append(estimate(capsys, FIXTURES / "v2_6", *flags)["as_asked"]["memory"])
    assert found[0] == found[1]


def test_sharding_divides_what_it_shards(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--activation_checkpointing", "true", "--devices", 4)
    two, three = (
        estimate(capsys, released, *common, "--deepspeed", name)["as_asked"]["memory"] for name in ("zero2", "zero3")
    )
    assert two["weights"] == pytest.approx(3.999 * three["weights"], rel=0.01)
    assert two["gradients"] == pytest.approx(three["gradients"])
    # Master and two moments in float32, and at the step a float32 gradient: 16 bytes for each weight.
    assert two["optimizer"] == pytest.approx(8_537_092_336 * 16 / 4, rel=1e-3)


def test_only_the_layers_of_the_language_model_are_packed(released: Path) -> None:
    quieten()  # as the command does
    frozen = "--tune_vision false --tune_embeddings false --tune_resampler false"
    common = f"--model_name_or_path {released} --data_path none --output_dir none --q_lora true {frozen}"
    # With a name in place of --optim no package is asked for, and bitsandbytes need not be here.
    subject = read_subject(common.split(), machine=GPU, num_devices=1, optimizer="adamw_torch_fused")
    memory = estimate_memory(subject, [Row(256, 64, 1)], patches=(32, 32), seen={})
    layers = 8_030_261_248 - 2 * 128256 * 4096
    adapter = 64 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024))  # q and o, k and v: rank times both widths
    expected = layers * (0.5 + 1 / 64 + 4 / 64 / 256) + (8_537_092_336 - layers) * 2 + 4 * adapter
    assert memory.weights == pytest.approx(expected, rel=0.002)


def test_lengths_that_nobody_may_look_at_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(FIXTURES / "v2_6"), make_data(tmp_path), "--check_first", "false"]) == 2
    assert "--check_first false: found with data" in capsys.readouterr().err


@pytest.mark.long
def test_file_of_settings_is_read_as_by_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Model, data and number of processes are the file's; a flag behind it wins; a name that is none is named."""
    file = tmp_path / "run.yaml"
    text = f"model: {FIXTURES / 'v2_6'}\ndata: {make_data(tmp_path)}\nuse_lora: true\nlora_r: 4\nnum_processes: 2\n"
    file.write_text(text, encoding="utf-8")
    named = [FIXTURES / "v2_6", tmp_path / "train.json", "--use_lora", "true", "--lora_r", "4"]
    found = estimate(capsys, file, "--use_cpu", "true")
    assert found["devices"] == 2
    assert found["records"] == 8
    assert found["as_asked"] == estimate(capsys, *named, "--devices", "2", "--use_cpu", "true")["as_asked"]
    more = estimate(capsys, file, "--use_cpu", "true", "--lora_r", "8")["as_asked"]["memory"]["optimizer"]
    assert more > found["as_asked"]["memory"]["optimizer"]
    file.write_text(text + "lora_rr: 4\n", encoding="utf-8")
    assert main(["estimate", str(file)]) == 2
    assert "run.yaml:6 lora_rr: found no such setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "gtx"], "--gpu: found 'gtx', expected a size such as 24GB"),
        (["--lora_r", "8"], "--lora_r: found without --use_lora true"),
        (["--tune_visoin", "true"], "--tune_visoin: no such flag"),
        (["--data_path", "x.json"], "--data_path: found in addition to MODEL and DATA"),
        (["--optim", "lomo"], "--optim: found 'lomo', expected another optimizer"),
    ],
)
def test_what_training_refuses_is_refused(
    arguments: list[str], message: str, released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(released), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_directory_without_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(tmp_path)]) == 2
    assert "config.json: found no readable JSON" in capsys.readouterr().err


def test_each_card_recomputes_what_it_must(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [FIXTURES / "v2_6", "--use_lora", "true", "--bf16", "true", "--activation_checkpointing"]
    everything, nothing = (
        estimate(capsys, *asked, switch, "--gpu", "24GB")["as_asked"]["memory"] for switch in ("true", "false")
    )
    between = (everything["total"] + nothing["total"]) / 2 - everything["weights"]
    card = (everything["weights"] + between / 0.9) / 0.98 / 2**30
    found = estimate(capsys, *asked, "auto", "--gpu", f"24GB,{card:.4f}GB")
    assert found["as_asked"]["memory"] == everything
    roomy, small = found["recomputed"].values()
    assert roomy == {"language model": 0, "vision tower": 0}
    assert 0 < sum(small.values()) < 4


def test_fsdp_is_estimated_for_as_many_processes_as_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights come in half precision and go again, so that autocast keeps no copies of them."""
    asked = [FIXTURES / "v2_6", "--gpu", "24GB", "--bf16", "true", "--devices", "2"]
    ddp, fsdp = (estimate(capsys, *asked, *more)["as_asked"]["memory"] for more in ([], ["--fsdp", "true"]))
    assert ddp["copies"] > 0
    assert fsdp["copies"] == 0
    assert fsdp["weights"] == pytest.approx(ddp["weights"] / 2, rel=1e-3)
