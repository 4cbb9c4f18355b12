"""4.6 and 4.7 on two processes train as on one, whatever shards them, even if one sees no picture in a whole step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experts import write_experts
from tests.run import engines
from tests.tiny import FIXTURES

pytestmark = pytest.mark.slow

_KINDS = {"v4_6": "full", "v4_7": "LoRA"}
Train = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a release with an engine ("" for one process), once for all tests."""
    data = engines.make_mixed_data(tmp_path_factory.mktemp("data"))

    @functools.cache
    def train(engine: str, version: str) -> Path:
        output = tmp_path_factory.mktemp(f"{engine or 'alone'}-{version}")
        model = ["--model_name_or_path", str(FIXTURES / version)]
        if engine:
            engines.train_with(engine, _KINDS[version], data, output, *model)
        else:
            engines.train_alone(_KINDS[version], data, output, *model)
        return output

    return train


@pytest.mark.parametrize("version", _KINDS)
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3", "fsdp2"])
def test_two_processes_are_one(engine: str, version: str, trained: Train) -> None:
    found = engines.compare(_KINDS[version], trained(engine, version), trained("", version))
    assert found.loss < engines.LOSS
    assert found.weight < engines.WEIGHT


@pytest.mark.parametrize("engine", ["ddp", "zero2", "fsdp2"])
def test_lora_on_experts_is_the_same_on_two_processes(engine: str, tmp_path: Path) -> None:
    """Measured with FSDP2: 9.5e-7 in a loss and 8.2e-7 in a weight. ZeRO-3 is refused."""
    data = engines.make_mixed_data(tmp_path)
    base = write_experts(tmp_path / "base")
    model = ["--model_name_or_path", str(base), "--lora_target_modules", "attention,experts"]
    engines.train_with(engine, "LoRA", data, tmp_path / "two", *model)
    engines.train_alone("LoRA", data, tmp_path / "one", *model)
    found = engines.compare("LoRA", tmp_path / "two", tmp_path / "one")
    assert found.loss < engines.LOSS
    assert found.weight < engines.WEIGHT
