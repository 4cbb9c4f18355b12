"""The fewest layers are recomputed with which a step fits in what is free, those of the language model last."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from minicpmv.training.distributed.engine import quieten
from minicpmv.training.learning.recomputation import LLM, VISION
from minicpmv.training.start.footprint.keeping import USED, choose_recomputed
from minicpmv.training.start.footprint.memory import Memory, Prediction
from minicpmv.training.start.footprint.stages import Row
from tests.unit.training.start.footprint.test_stages import PATCHES, read

AUTO: dict[str, bool | str] = {LLM: "auto", VISION: "auto"}


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    """A tiny model with two layers in each part, on a row whose activations decide the peak."""
    quieten()
    subject = read("v2_6", "--activation_checkpointing", "auto")
    return Prediction(subject, [Row(2000, 100, 16)], patches=PATCHES, seen={})


def needed(memory: Memory) -> int:
    return memory.total - memory.weights


def free_for(prediction: Prediction, recomputed: Mapping[str, int]) -> int:
    """The least free memory for a choice."""
    return int(needed(prediction.at(recomputed)) / USED) + 1


@pytest.mark.parametrize(
    "expected",
    [{LLM: 0, VISION: 0}, {LLM: 0, VISION: 1}, {LLM: 0, VISION: 2}, {LLM: 1, VISION: 2}, {LLM: 2, VISION: 2}],
)
def test_layers_keep_their_activations_as_far_as_memory_goes(expected: dict[str, int], prediction: Prediction) -> None:
    choice = choose_recomputed(prediction, AUTO, free=free_for(prediction, expected))
    assert choice.recomputed == expected
    assert (
        str(choice) == f"{expected[LLM]} of 2 layers of the language model and {expected[VISION]} of 2 layers of "
        "the vision tower"
    )


def test_each_layer_that_keeps_its_activations_needs_more_memory(prediction: Prediction) -> None:
    order = [(2, 2), (1, 2), (0, 2), (0, 1), (0, 0)]
    needs = [needed(prediction.at({LLM: llm, VISION: vision})) for llm, vision in order]
    assert needs == sorted(set(needs))


def test_everything_is_recomputed_where_nothing_fits(prediction: Prediction) -> None:
    assert choose_recomputed(prediction, AUTO, free=0).recomputed == {LLM: 2, VISION: 2}


def test_what_flags_decide_stays_as_it_is(prediction: Prediction) -> None:
    choice = choose_recomputed(prediction, {LLM: True, VISION: "auto"}, free=2**40)
    assert choice.recomputed == {LLM: 2, VISION: 0}
    assert choose_recomputed(prediction, {LLM: "auto", VISION: False}, free=0).recomputed == {LLM: 2, VISION: 0}


def test_optimizer_state_that_is_in_place_is_not_counted_again(prediction: Prediction) -> None:
    expected = {LLM: 0, VISION: 2}
    free = free_for(prediction, expected)
    assert choose_recomputed(prediction, AUTO, free=free - 10**5, there=10**5).recomputed == expected
    assert choose_recomputed(prediction, AUTO, free=free - 10**5).recomputed != expected
