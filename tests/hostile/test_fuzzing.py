"""Whatever lies in a model's directory, readers read it or name what is wrong, in bounded time and memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.hostile.mutations import Mutation, copy_model, mutations, spoil
from tests.hostile.reading import Readers, bad_ends
from tests.tiny import FIXTURES

_MODELS = ("v2", "v2_5", "v2_6", "v4", "v4_5")
_ADAPTER = "adapter"


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    readers.close()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of every release, and of an adapter that has patterns."""
    adapter = tmp_path_factory.mktemp("sources") / _ADAPTER
    torch.manual_seed(0)
    model: Any = MiniCPMVForConditionalGeneration(MiniCPMVConfig.from_pretrained(FIXTURES / "v2_6"))
    config = LoraConfig(
        r=4,
        target_modules=r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 2},
        modules_to_save=["resampler"],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers by an old name
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = str(FIXTURES / "v2_6")
    wrapped.save_pretrained(str(adapter))
    (adapter / "README.md").unlink()
    return {name: FIXTURES / name for name in _MODELS} | {_ADAPTER: adapter}


def _files(source: Path, scratch: Path) -> tuple[str, ...]:
    return copy_model(source, scratch)


@st.composite
def _cases(draw: st.DrawFn, files: dict[str, tuple[str, ...]]) -> tuple[str, list[Mutation]]:
    name = draw(st.sampled_from(sorted(files)))
    return name, draw(mutations(files[name]))


def _fuzz(sources: dict[str, Path], readers: Readers, folder: Path, *, examples: int, derandomize: bool) -> None:
    files = {name: _files(source, folder / "scratch") for name, source in sources.items()}

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(case=_cases(files))
    def holds(case: tuple[str, list[Mutation]]) -> None:
        name, chosen = case
        copy_model(sources[name], folder / "model")
        for mutation in chosen:
            spoil(folder / "model", mutation)
        assert bad_ends(readers.read(folder / "model")) == {}

    holds()


@pytest.mark.long
def test_sound_models_are_read(sources: dict[str, Path], readers: Readers, tmp_path: Path) -> None:
    for source in sources.values():
        copy_model(source, tmp_path / "model")
        assert set(readers.read(tmp_path / "model").values()) == {"read"}


def test_spoiled_directories_are_read_or_named(sources: dict[str, Path], readers: Readers, tmp_path: Path) -> None:
    _fuzz(sources, readers, tmp_path, examples=40, derandomize=True)


@pytest.mark.slow
def test_thousands_of_spoiled_directories_are_read_or_named(
    sources: dict[str, Path], readers: Readers, tmp_path: Path
) -> None:
    _fuzz(sources, readers, tmp_path, examples=1500, derandomize=False)
