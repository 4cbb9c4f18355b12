"""Pickles of a checkpoint: what a run writes is read, anything else is named, and nothing is executed."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpmv.training.checkpoints.pickles import find_foreign_object, restrict_unpickling


class _Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self._marker,))


@pytest.fixture(autouse=True)
def restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restrict unpickling for one test; the variables are as before afterwards."""
    for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "0")
    restrict_unpickling(deepspeed=True)


def _optimizer_states() -> dict[str, Any]:
    """Return what DeepSpeed keeps beside tensors."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    dynamic = DynamicLossScaler(2.0, scale_window=10, min_scale=1.0, delayed_shift=1, consecutive_hysteresis=False)
    return {
        "loss_scaler": LossScaler(scale=1),
        "dynamic": dynamic,
        "stage": ZeroStageEnum(2),
        "address": fragment_address(3, 0),
        "state": {0: {"exp_avg": torch.ones(3), "step": 4}},
    }


def test_what_a_run_writes_is_no_foreign_object(tmp_path: Path) -> None:
    (tmp_path / "global_step4").mkdir()
    (tmp_path / "latest").write_text("global_step4")
    torch.save(_optimizer_states(), tmp_path / "global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    torch.save({"numpy": np.random.get_state(), "cpu": torch.get_rng_state()}, tmp_path / "rng_state.pth")
    torch.save(torch.ones(2), tmp_path / "optimizer.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "trainer_state.json").write_text("{}")
    assert find_foreign_object(tmp_path) is None


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "rng_state_0.pth", "pytorch_model.bin", "a/b/mp_rank_00_model_states.pt"]
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_object_that_would_run_is_named_and_does_not(name: str, is_zip: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "checkpoint" / name
    path.parent.mkdir(parents=True)
    torch.save({"x": [torch.ones(1), _Touch(marker)]}, path, _use_new_zipfile_serialization=is_zip)
    found = find_foreign_object(tmp_path / "checkpoint")
    assert found == f"{name} holds getattr, which is neither a tensor nor a number"
    assert not marker.exists()


def _raw(marker: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps(_Touch(marker)))


def _tar(marker: Path, path: Path) -> None:
    """Write the form of torch's first releases, which it still reads."""
    with tarfile.open(path, "w:") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(_Touch(marker))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _script(marker: Path, path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # the form is old; that torch still reads it is why it is tried
@pytest.mark.parametrize("write", [_raw, _tar, _script])
def test_other_forms_that_torch_reads_are_refused(write: Callable[[Path, Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write(tmp_path / "marker", folder / "scheduler.pt")
    found = find_foreign_object(folder)
    assert found is not None
    assert found.startswith("scheduler.pt ")
    assert not (tmp_path / "marker").exists()


def test_deepspeed_itself_refuses_what_the_check_would_have_missed(tmp_path: Path) -> None:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    torch.save(_Touch(tmp_path / "marker"), tmp_path / "x.pt")
    with pytest.raises(pickle.UnpicklingError):
        TorchCheckpointEngine().load(str(tmp_path / "x.pt"))
    with pytest.raises(pickle.UnpicklingError):  # as its universal checkpoints are read
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("tag", ["..", "../other", "/tmp", "", "global_step4/../..", "global_step5", "a\nb"])
@pytest.mark.parametrize("name", ["latest", "latest_universal"])
def test_tag_that_leads_elsewhere_is_named(name: str, tag: str, tmp_path: Path) -> None:
    (tmp_path / "global_step4").mkdir()
    (tmp_path / name).write_text(tag)
    assert find_foreign_object(tmp_path) == f"{name} names something other than a folder of the checkpoint"


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_harmless(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzzed")
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6), "b": [1.5, "x"]}, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "optimizer.pt").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    found = find_foreign_object(folder)
    assert found is None or found.startswith("optimizer.pt ")
