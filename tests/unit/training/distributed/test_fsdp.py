from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from minicpmv.errors import ConfigError, UsageError
from minicpmv.models.skeleton import build_skeleton
from minicpmv.training.distributed.fsdp import check_sharded, choose_units
from tests.tiny import FIXTURES

LAYERS = {
    "v2": "GraniteDecoderLayer",
    "v2_5": "LlamaDecoderLayer",
    "v2_6": "Qwen2DecoderLayer",
    "v4": "LlamaDecoderLayer",
    "v4_5": "Qwen3DecoderLayer",
}


def _args() -> Any:
    return SimpleNamespace(fsdp_plugin_args={}, device=torch.device("cpu"))


@pytest.mark.parametrize("model", LAYERS)
def test_each_layer_and_the_resampler_are_gathered_by_themselves(model: str) -> None:
    """Not the tower's embeddings, a name for two layers: nobody calls it, so nothing would gather it."""
    args = _args()
    choose_units(args, build_skeleton(Path(FIXTURES / model)))
    units = args.fsdp_plugin_args["transformer_cls_names_to_wrap"].split(",")
    assert sorted(units) == sorted([LAYERS[model], "Resampler", "VisionEncoderLayer"])


def test_packed_weights_are_not_sharded() -> None:
    model: Any = build_skeleton(Path(FIXTURES / "v2_6"))
    model.is_quantized = True
    with pytest.raises(UsageError, match="--fsdp true: found quantized weights"):
        choose_units(_args(), model)


def test_model_that_is_not_sharded_does_not_train() -> None:
    with pytest.raises(ConfigError, match="found a model of class Linear not sharded, expected one sharded on cpu"):
        check_sharded(nn.Linear(2, 2), _args())
