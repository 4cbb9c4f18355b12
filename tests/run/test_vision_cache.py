"""With --vision_cache a frozen tower sees each image once, and a run learns exactly what it would learn without."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import minicpmv.training.run
from minicpmv.errors import UsageError
from minicpmv.models.networks.resampler import Resampler
from minicpmv.models.networks.siglip import PatchEmbedding
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from tests.omni import write_omni
from tests.run import engines
from tests.run.forked import run_command
from tests.run.training import flags, losses, make_data, read_run, run_here
from tests.tiny import FIXTURES, conversation, save_picture, write_data

_LOSS = 1e-5
_FROZEN = ["--tune_vision", "false", "--save_strategy", "no", "--lr_scheduler_type", "constant"]
_LORA = ["--use_lora", "--lora_r", "4"]
_ALL_FROZEN = [*_LORA, "--tune_resampler", "false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three records with a picture, one of them cut into tiles, and one of text alone."""
    return make_data(tmp_path_factory.mktemp("data"), num_records=4)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Patches that went through tower and resampler, apart from those that a run's end tries its model on."""
    monkeypatch.setattr(MiniCPMVTrainer, "refuse_no_number", lambda *_: None)
    counted: Counter[str] = Counter()

    def count(name: str, kind: type[nn.Module]) -> None:
        original: Any = kind.forward

        def forward(self: nn.Module, rows: Tensor, *args: Any) -> Tensor:
            counted[name] += len(rows) if len(rows) > 1 else 0  # a single one stands for no picture
            return original(self, rows, *args)

        monkeypatch.setattr(kind, "forward", forward)

    count("tower", PatchEmbedding)
    count("resampler", Resampler)
    return counted


def train(data: str, output: Path, *extra: str, model: str = "v2_6", steps: int = 4) -> dict[str, Any]:
    """Train with a frozen tower; four steps are an epoch."""
    return run_here(flags(data, output, *_FROZEN, *extra, model=model, steps=steps))


def only(index: int, data: str, folder: Path) -> str:
    """Write a data file with a single record of another."""
    record = json.loads(Path(data).read_text())[index]
    record["image"] = str(Path(data).parent / record["image"])
    return write_data(folder / "only.json", [record])


@pytest.mark.parametrize(
    ("version", "learns"),
    [
        ("v2_5", []),
        ("v4_5", _ALL_FROZEN),
        *(pytest.param(version, [], marks=pytest.mark.slow) for version in ("v2", "v2_6", "v4", "v4_5")),
        *(pytest.param(version, _ALL_FROZEN, marks=pytest.mark.slow) for version in ("v2", "v2_5", "v2_6", "v4")),
    ],
)
def test_second_epoch_computes_nothing_and_losses_stay(
    version: str, learns: list[str], data: str, seen: Counter[str], tmp_path: Path
) -> None:
    without = train(data, tmp_path / "without", *learns, model=version, steps=8)
    twice = seen.copy()
    seen.clear()
    cached = [*learns, "--vision_cache", str(tmp_path / "cache")]
    run = train(data, tmp_path / "with", *cached, model=version, steps=8)
    assert losses(run) == pytest.approx(losses(without), abs=_LOSS)
    assert seen["tower"] == twice["tower"] / 2
    assert seen["resampler"] == twice["resampler"] / (2 if learns else 1)  # one that learns computes on


@pytest.mark.long
@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ("v4_6", "16x"),
        ("v4_7", "4x"),
        pytest.param("v4_6", "4x", marks=pytest.mark.slow),
        pytest.param("v4_7", "16x", marks=pytest.mark.slow),
    ],
)
def test_features_are_kept_where_the_tower_merges_windows_and_where_it_does_not(
    version: str, mode: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With known and unknown pictures in a batch, and a cache in which those of the other mode lie already."""
    learns = [*_LORA, "--tune_embeddings", "false", "--downsample_mode", mode]
    cached = ["--vision_cache", str(tmp_path / "cache"), "--per_device_train_batch_size", "2"]
    other = ["--downsample_mode", {"16x": "4x", "4x": "16x"}[mode]]
    train(only(1, data, tmp_path), tmp_path / "other", *learns, *cached, *other, model=version, steps=1)
    capsys.readouterr()
    told: list[tuple[str, str]] = []
    for name in ("first", "again"):
        run = train(data, tmp_path / name, *learns, *cached, model=version, steps=2)
        told += re.findall(r"(\d+) slices read, (\d+) computed", capsys.readouterr().out)
        without = train(data, tmp_path / f"{name} without", *learns, *cached[2:], model=version, steps=2)
        assert losses(run) == pytest.approx(losses(without), abs=_LOSS)
    (read, computed), again = told
    assert (read, again) == ("0", (computed, "0"))
    assert int(computed) > 2


@pytest.mark.parametrize("name", [pytest.param("o-2.6", marks=pytest.mark.slow), "o-4.5"])
def test_pictures_of_minicpm_o_are_kept(
    name: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_omni(tmp_path / "omni", name))
    without = train(data, tmp_path / "without", *_ALL_FROZEN, model=model, steps=8)
    cached = ["--vision_cache", str(tmp_path / "cache")]
    capsys.readouterr()
    run = train(data, tmp_path / "with", *_ALL_FROZEN, *cached, model=model, steps=8)
    assert "5 slices read, 5 computed" in capsys.readouterr().out
    assert losses(run) == pytest.approx(losses(without), abs=_LOSS)


def test_second_run_sees_no_image(
    data: str, seen: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under autocast, whose rounding stored features share; with packed rows, a worker, another seed, held-out data."""
    common = ["--bf16", "true", "--packing", "true", "--dataloader_num_workers", "1"]
    common += ["--eval_data_path", data, "--eval_samples", "0"]
    cache = ["--vision_cache", str(tmp_path / "cache")]
    train(data, tmp_path / "first", *common, *cache, steps=1)
    assert seen["tower"] > 0
    seen.clear()
    again = train(data, tmp_path / "again", *common, *cache, "--seed", "7", steps=2)
    assert seen["tower"] == 0
    assert "slices read, 0 computed" in capsys.readouterr().out
    without = train(data, tmp_path / "without", *common, "--seed", "7", steps=2)
    assert losses(again) == losses(without)
    assert again["metrics"]["eval_loss"] == without["metrics"]["eval_loss"]


@pytest.mark.parametrize(
    ("version", "learns"), [("v2_5", []), ("v2_6", _ALL_FROZEN)], ids=["2.5, full", "2.6, LoRA alone"]
)
def test_batch_of_known_and_unknown_images(
    version: str, learns: list[str], data: str, seen: Counter[str], tmp_path: Path
) -> None:
    """Its second record is known, the others are not."""
    cached = [*learns, "--vision_cache", str(tmp_path / "cache")]
    train(only(1, data, tmp_path), tmp_path / "first", *cached, model=version, steps=1)
    known = seen["tower"]
    seen.clear()
    batch = ["--per_device_train_batch_size", "4"]
    run = train(data, tmp_path / "with", *cached, *batch, model=version, steps=1)
    mixed = seen["tower"]
    without = train(data, tmp_path / "without", *learns, *batch, model=version, steps=1)
    assert losses(run) == pytest.approx(losses(without), abs=_LOSS)
    assert seen["tower"] - mixed == mixed + known
    assert known > 0
    assert mixed > 0


def test_image_beside_a_longer_one_is_another_image_for_2_5(tmp_path: Path, seen: Counter[str]) -> None:
    """Its tower attends padding up to the longest slice of a record: 15 patches here, 16 there."""
    for name, width, height in (("short.png", 64, 48), ("long.png", 56, 56)):
        save_picture(tmp_path / name, width, height)
    both = {"<image_00>": "short.png", "<image_01>": "long.png"}
    records = [
        {"id": "0", "image": "short.png", "conversations": conversation("<image>\nWhat?", "Noise.")},
        {"id": "1", "image": both, "conversations": conversation("<image_00>\n<image_01>\nWhat?", "Noise.")},
    ]
    data = write_data(tmp_path / "train.json", records)
    without = train(data, tmp_path / "without", model="v2_5")
    seen.clear()
    run = train(data, tmp_path / "with", "--vision_cache", str(tmp_path / "cache"), model="v2_5")
    assert losses(run) == pytest.approx(losses(without), abs=_LOSS)
    assert seen["tower"] == 15 + 2 * 16, "each once, the second record with its padding"


@pytest.mark.parametrize("changed", ["image", "weights", "slices"])
def test_what_features_depend_on_is_seen_again(changed: str, seen: Counter[str], tmp_path: Path) -> None:
    data = make_data(tmp_path, num_records=1)
    save_picture(tmp_path / "0.png", 150, 80)
    cached, model = [*_ALL_FROZEN, "--vision_cache", str(tmp_path / "cache")], "v2_6"
    train(data, tmp_path / "first", *cached, steps=1)
    seen.clear()
    if changed == "image":
        save_picture(tmp_path / "0.png", 150, 80, seed=99)
    elif changed == "weights":
        model = str(with_other_tower(tmp_path / "other"))
    else:
        cached += ["--max_slice_nums", "1"]
    run = train(data, tmp_path / "again", *cached, model=model, steps=1)
    assert seen["tower"] > 0
    without = [word for word in cached if word not in ("--vision_cache", str(tmp_path / "cache"))]
    assert losses(run) == losses(train(data, tmp_path / "without", *without, model=model, steps=1))


def with_other_tower(folder: Path) -> Path:
    """Copy a model and change one bias of its tower."""
    shutil.copytree(FIXTURES / "v2_6", folder)
    weights = load_file(folder / "model.safetensors")
    weights["vpm.post_layernorm.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_full_disk_is_told_once_and_the_run_goes_on(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Path.open

    def open_full(self: Path, *arguments: Any, **named: Any) -> Any:
        file = original(self, *arguments, **named)
        if self.suffix != ".part":
            return file
        with file:
            file.write(b"beginning")
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "open", open_full)
    train(data, tmp_path / "output", "--vision_cache", str(tmp_path / "cache"))
    out = capsys.readouterr().out
    assert out.count("nothing more is stored, the run goes on: No space left on device") == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_bound_is_kept_and_told(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture of 16 patches fits, in float32: 16 x 48 x 4 bytes and a header."""
    cache = tmp_path / "cache"
    train(
        data, tmp_path / "output", "--vision_cache", str(cache), "--vision_cache_gb", "4e-6", "--bf16", "false", steps=8
    )
    out = capsys.readouterr().out
    assert out.count("nothing more is stored, the run goes on: its 4e-06 GB are full") == 1
    assert 3000 < sum(path.stat().st_size for path in cache.rglob("*.safetensors")) <= 4000


@pytest.mark.parametrize("engine", ["zero3", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_process_without_unknown_images_keeps_the_others_company(engine: str, data: str, tmp_path: Path) -> None:
    """All processes must run what is sharded where one does. In the first step one has only a known picture."""
    # Engines round all weights themselves in bfloat16: what one process has kept is then of another model.
    cache = ["--vision_cache", str(tmp_path / "cache"), "--bf16", "false"]
    train(only(0, data, tmp_path), tmp_path / "before", *cache, steps=1)
    output = tmp_path / "output"
    done = run_command(flags(data, output, *_FROZEN, *cache, *engines.switch(engine), steps=2), processes=2)
    assert done.returncode == 0, done.stderr
    alone = train(data, tmp_path / "alone", "--gradient_accumulation_steps", "2", "--bf16", "false", steps=2)
    assert losses(read_run(output)) == pytest.approx(losses(alone), abs=_LOSS)
    assert f"vision cache {cache[1]}: 1 slices read, " in done.stdout


def test_proof_of_what_was_saved_looks_at_pixels(data: str, tmp_path: Path) -> None:
    """The fresh process has no cache, and compares with all that the run computes from an image."""
    train(data, tmp_path / "output", "--vision_cache", str(tmp_path / "cache"), "--verify_saved", "true")
    assert {"pixel_values", "tgt_sizes"} < load_file(
        tmp_path / "output" / "verification" / "reference.safetensors"
    ).keys()


def test_dry_run_leaves_no_cache(data: str, tmp_path: Path) -> None:
    arguments = flags(data, tmp_path / "output", *_FROZEN, "--vision_cache", str(tmp_path / "cache"))
    minicpmv.training.run.train([*arguments, "--dry_run", "true"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--tune_vision true --vision_cache true", "found a vision tower that is trained"),
        (
            "--use_lora --lora_target_modules vision-attention --vision_cache true",
            "found a vision tower that is trained",
        ),
        ("--use_lora --lora_bias all --tune_vision false --vision_cache true", "found a vision tower that is trained"),
        ("--use_lora --lora_modules_to_save fc1 --vision_cache true", "found a vision tower that is trained"),
        ("--tune_vision false --vision_cache_gb 5", "found without --vision_cache"),
        ("--tune_vision false --vision_cache x --vision_cache_gb 0", "expected more than 0"),
        ("--tune_vision false --vision_cache /dev/null/x", "cannot be created"),
    ],
)
def test_cache_that_cannot_work_is_refused(extra: str, message: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run_here(flags(data, tmp_path, *extra.split()))


def test_run_that_would_gain_is_told_of_it(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (4, 5):  # one epoch, and more
        train(data, tmp_path / f"{steps}", *_LORA, steps=steps)
        assert ("with --vision_cache true" in capsys.readouterr().out) is (steps == 5)
