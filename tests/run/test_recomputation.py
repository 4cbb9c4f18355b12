"""Activations are computed again in the part that was chosen, in no other, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from minicpmv.errors import UsageError
from minicpmv.models.networks.siglip import VisionMLP
from minicpmv.training.start import recomputing
from tests.run.training import flags, losses, make_data, run_here

_LAYERS = {"llm": 2, "vision": 2}
"""Of the tiny model; each has one MLP, which runs once forward and, if its layer is computed again, once more."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"), num_records=2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()

    def count(part: str, kind: type[nn.Module]) -> None:
        original: Any = kind.forward

        def forward(self: nn.Module, *args: Any) -> Tensor:
            # Not what is tried afterwards, before it is saved, nor what is predicted without contents.
            counted[part] += self.training and not isinstance(args[0], FakeTensor)
            return original(self, *args)

        monkeypatch.setattr(kind, "forward", forward)

    count("llm", Qwen2MLP)
    count("vision", VisionMLP)
    return counted


@pytest.mark.parametrize(
    ("extra", "again"),
    [
        ("", ""),
        ("--activation_checkpointing", "llm vision"),
        ("--llm_activation_checkpointing", "llm"),
        ("--activation_checkpointing true --llm_activation_checkpointing false", "vision"),
        ("--use_lora --lora_r 4 --tune_vision false --activation_checkpointing", "llm"),  # a frozen tower keeps nothing
        *(
            pytest.param(extra, again, marks=pytest.mark.slow)
            for extra, again in (
                ("--gradient_checkpointing true", "llm vision"),  # its name of 2024
                ("--vision_activation_checkpointing", "vision"),
                ("--activation_checkpointing true --vision_activation_checkpointing false", "llm"),
                ("--use_lora --lora_r 4 --vision_activation_checkpointing", "vision"),
            )
        ),
    ],
)
def test_only_the_chosen_part_is_computed_again(
    extra: str, again: str, data: str, calls: Counter[str], tmp_path: Path
) -> None:
    run_here(flags(data, tmp_path, "--save_strategy", "no", *extra.split(), steps=1))
    assert calls == {part: number * (2 if part in again.split() else 1) for part, number in _LAYERS.items()}


def test_losses_are_those_of_a_run_that_keeps_everything(data: str, tmp_path: Path) -> None:
    plain, again = tmp_path / "plain", tmp_path / "again"
    kept = run_here(flags(data, plain, "--save_strategy", "no"))
    computed = run_here(flags(data, again, "--save_strategy", "no", "--vision_activation_checkpointing"))
    assert losses(computed) == losses(kept)


@pytest.mark.parametrize(("free", "again"), [(2**40, ""), (0, "llm vision")], ids=["much memory", "no memory"])
def test_as_many_layers_keep_their_activations_as_fit_in_the_free_memory(
    free: int,
    again: str,
    data: str,
    calls: Counter[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recomputing, "free_memory", lambda _: free)
    auto = ("--activation_checkpointing", "auto", "--save_strategy", "no")
    run_here(flags(data, tmp_path, *auto, steps=1))
    assert calls == {part: number * (2 if part in again.split() else 1) for part, number in _LAYERS.items()}
    told = capsys.readouterr()
    number = 2 if again else 0
    parts = f"{number} of 2 layers of the language model and {number} of 2 layers of the vision tower"
    assert f"recomputed: {parts}; a step needs " in told.out
    assert ("--activation_checkpointing auto: a step may need more memory" in told.out) == bool(again)


def test_looking_ahead_draws_none_of_the_random_numbers_of_a_run(data: str, tmp_path: Path) -> None:
    common = ("--save_strategy", "no", "--use_lora", "true", "--lora_r", "4", "--lora_dropout", "0.5")
    plain = run_here(flags(data, tmp_path / "plain", *common, steps=2))
    auto = run_here(flags(data, tmp_path / "auto", *common, "--activation_checkpointing", "auto", steps=2))
    assert losses(auto) == losses(plain)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--vision_activation_checkpointing --tune_vision false", "expected a vision tower that learns"),
        ("--activation_checkpointing auto --check_first false", "auto --check_first false: found both, expected one"),
        ("--activation_checkpointing some", "found 'some', expected one of true, false, auto"),
        ("--llm_activation_checkpointing auto --deepspeed zero2", "auto --deepspeed: found both, expected one"),
        (
            '--activation_checkpointing_kwargs {"use_reentrant":false}',
            "found with --activation_checkpointing false, expected true",
        ),
    ],
)
def test_what_could_have_no_effect_is_refused(extra: str, message: str, data: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        run_here(flags(data, tmp_path, *extra.split()))
