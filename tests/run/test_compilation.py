"""``--torch_compile`` compiles each kind of layer once, for training steps alone, and changes no loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.errors import MachineError, UsageError
from tests.precision import bound
from tests.run.forked import run_command
from tests.run.training import flags, losses, make_data, read_run, run_here

_TRACED = "--torch_compile_backend eager"
# Traces gradients as well, as the default backend does, but needs no C++ compiler.
_COMPILED = "--torch_compile_backend aot_eager"
_PACKED = "--packing true --model_max_length 120 --train_sampling_strategy random"
_STEPS = 6
# In bfloat16 6.4e-4 was measured: what is compiled together rounds in other places.
_LOSS = bound(fp32=1e-5, bf16=3e-3)

# torch 2.13's tracer asks every input for its gradient; may go when it asks leaves only.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def frames() -> Iterator[Any]:
    """Counts compiled pieces of code, attempts and successes."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters["frames"]
    torch.compiler.reset()


def _run(data: str, output: Path, extra: str) -> dict[str, Any]:
    return run_here(flags(data, output, "--save_strategy", "no", *extra.split(), steps=_STEPS))


@pytest.mark.long
@pytest.mark.parametrize(
    ("extra", "backend", "num_pieces"),
    [
        # 10, 4 more for a row without pictures, and 2 more for rows of a single record, which come first: the six rows
        # have all of these. Twelve rows have 16, too.
        (_PACKED, _TRACED, 16),
        pytest.param(_PACKED, _COMPILED, 16, marks=pytest.mark.slow),
        pytest.param("--use_lora --lora_r 4 --activation_checkpointing", _COMPILED, 10, marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_of_an_uncompiled_run(
    extra: str, backend: str, num_pieces: int, data: str, frames: Any, tmp_path: Path
) -> None:
    plain = _run(data, tmp_path / "plain", extra)
    assert not frames
    compiled = _run(data, tmp_path / "compiled", f"{extra} {backend}")
    assert losses(compiled) == pytest.approx(losses(plain), rel=_LOSS)
    # However different the batches: each has other slices and samples, and would add to the pieces of a layer.
    assert frames["ok"] == frames["total"] == num_pieces


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v4_6", "v4_7"])
def test_layers_that_transformers_computes_compile_to_the_same_losses(
    version: str, data: str, frames: Any, tmp_path: Path
) -> None:
    found: list[list[float]] = []
    for name, extra in (("plain", ""), ("compiled", _COMPILED)):
        words = ["--save_strategy", "no", "--packing", "true", "--model_max_length", "256", "--use_lora"]
        words += ["--lora_dropout", "0", *extra.split()]
        found.append(losses(run_here(flags(data, tmp_path / name, *words, model=version, steps=3))))
    assert found[1] == pytest.approx(found[0], rel=_LOSS)
    assert frames["ok"] == frames["total"] > 0


@pytest.mark.slow
def test_answers_and_evaluation_compile_nothing(data: str, frames: Any, tmp_path: Path) -> None:
    _run(data, tmp_path / "alone", _COMPILED)
    alone = dict(frames)
    torch.compiler.reset()
    frames.clear()
    asked = f"--eval_data_path {data} --eval_strategy steps --eval_steps 3 --eval_samples 2 --eval_sample_tokens 4"
    run = _run(data, tmp_path / "asked", f"{_COMPILED} {asked}")
    assert [entry for entry in run["log"] if "eval_loss" in entry]
    assert dict(frames) == alone


@pytest.mark.slow
def test_sharded_layers_train_compiled(data: str, tmp_path: Path) -> None:
    runs: list[list[float]] = []
    for extra in ("", _COMPILED):
        output = tmp_path / f"out{len(runs)}"
        done = run_command(flags(data, output, "--deepspeed", "zero3", *extra.split()), timeout=240)
        assert done.returncode == 0, done.stderr
        runs.append(losses(read_run(output)))
    assert len(runs[0]) == 4
    assert runs[1] == pytest.approx(runs[0], rel=_LOSS)


def test_default_backend_without_a_compiler_is_refused(
    data: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MachineError, match=r"--torch_compile: found no C\+\+ compiler, expected it"):
        _run(data, tmp_path, "--torch_compile true")


def test_options_without_compiling_are_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--torch_compile false --torch_compile_mode: found both"):
        _run(data, tmp_path, "--torch_compile false --torch_compile_mode max-autotune")
