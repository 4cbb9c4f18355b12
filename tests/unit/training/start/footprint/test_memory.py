"""Arithmetic of what is held: optimizer states, what engines shard, and a step played through by hand."""

from __future__ import annotations

import pytest
import torch

from minicpmv.errors import UsageError
from minicpmv.estimation.devices import find_device
from minicpmv.training.start.footprint.engines import find_engine
from minicpmv.training.start.footprint.optimizer_states import Trained, state_bytes
from minicpmv.training.start.footprint.stages import Stage
from minicpmv.training.start.footprint.timeline import play
from minicpmv.training.start.footprint.tracing import Blank, Footprint

MATRIX, EMBEDDING, NORM = Trained((512, 256), False), Trained((1000, 256), True), Trained((256,), False)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adamw_torch_fused", 2 * 4 * (512 * 256 + 256)),
        ("sgd", 0),
        ("adafactor", 4 * (512 + 256 + 256)),
        ("adamw_bnb_8bit", 2 * (512 * 256 + 512 * 4) + 2 * 4 * 256),  # a scale for 256; small tensors stay whole
        ("lion", 4 * (512 * 256 + 256)),
    ],
)
def test_state_of_an_optimizer(optimizer: str, expected: int) -> None:
    assert state_bytes(optimizer, [MATRIX, NORM]) == expected


def test_embeddings_keep_whole_states_under_bitsandbytes() -> None:
    assert state_bytes("adamw_bnb_8bit", [EMBEDDING]) == 2 * 4 * 1000 * 256


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(UsageError, match="--optim: found 'galore_adamw', whose memory is not known here"):
        state_bytes("galore_adamw", [MATRIX])


def test_a_gpu_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="--gpu: found 'gtx', expected a size such as 24GB, or one of t4, v100"):
        find_device("gtx")
    assert find_device("A100-80G").memory_gib == 79.1


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        ({"stage": 1}, ("DeepSpeed ZeRO-1", True, False, False, False)),
        ({"stage": 2}, ("DeepSpeed ZeRO-2", True, True, False, False)),
        ({"stage": 3}, ("DeepSpeed ZeRO-3", True, True, True, False)),
        (
            {"stage": 2, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "none"}},
            ("DeepSpeed ZeRO-2 with optimizer offload", True, True, False, True),
        ),
    ],
)
def test_what_a_deepspeed_configuration_shards(zero: dict[str, object], expected: tuple[object, ...]) -> None:
    engine = find_engine({"deepspeed": {"zero_optimization": zero}}, num_devices=2, hidden_size=8, layer_elements=1)
    assert expected == (
        engine.name,
        engine.shards_optimizer,
        engine.shards_gradients,
        engine.shards_weights,
        engine.offloads_optimizer,
    )


def stage(name: str, *, is_recomputed: bool = False) -> Stage:
    """Given 10 bytes, keep 100 more; 130 at once forward, 150 backward, of which 8 are gradients of 2 weights."""
    footprint = Footprint(
        keeps_given=True,
        kept=100,
        kept_copies=0,
        cached_copies=0,
        result=Blank((10,), torch.uint8),
        forward_peak=130,
        forward_copies=0,
        backward_peak=150,
        backward_copies=0,
        backward_gradients=8,
        backward_peak_without=145,
    )
    return Stage(name, 10, footprint, True, is_recomputed, 2)


def test_a_step_played_through() -> None:
    moments = list(play([stage("a"), stage("b")], gradient_bytes=4, gradients_stay=False))
    assert [(moment.name, moment.activations, moment.gradients) for moment in moments] == [
        ("forward pass of the a", 10 + 130, 0),
        ("forward pass of the b", 110 + 10 + 130, 0),
        ("backward pass of the b", 110 + 10 + 150 - 8, 8),
        ("backward pass of the a", 10 + 150 - 8, 8 + 8),
    ]


def test_recomputed_layers_keep_their_input_only() -> None:
    stages = [stage("a", is_recomputed=True), stage("b", is_recomputed=True)]
    moments = list(play(stages, gradient_bytes=4, gradients_stay=False))
    assert moments[1].activations == 10 + 10 + 130


def test_gradients_of_the_micro_batch_before_are_there_from_the_beginning() -> None:
    moments = list(play([stage("a"), stage("b")], gradient_bytes=4, gradients_stay=True))
    assert [moment.gradients for moment in moments] == [16, 16, 16, 16]
    assert moments[2].activations == 110 + 10 + 145
