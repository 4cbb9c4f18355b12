"""The network of the made-up release: a merger of neighbouring patches in place of the resampler, and other names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from minicpmv.models.networks.steps import Step
from minicpmv.releases.row import find_code

__all__ = ["MadeUpConfig", "MadeUpModel", "Merger"]

# Shape letters in this file
#   P patches of all slices    N image tokens of all slices    E vision width


class MadeUpConfig(MiniCPMVConfig):
    model_type = "made_up"

    def __init__(self, **fields: Any) -> None:  # stated, or transformers would make another one
        super().__init__(**fields)


class Merger(nn.Module):
    """Makes one image token of each square of patches, so that larger slices have more."""

    def __init__(self, width: int, language_width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.inner = nn.Linear(width * side**2, language_width)
        self.outer = nn.Linear(language_width, language_width)

    @classmethod
    def of_config(cls, config: Any) -> Merger:
        side = config.minicpmv_version.reading.token_side
        return cls(config.vision_config.hidden_size, config.text_config.hidden_size, side)

    @staticmethod
    def count_flops(walk: Any, name: str, config: Any, grad: bool) -> bool:
        # For each patch: it has its own columns of the inner weight, and its share of a token's outer product.
        vision, width = config.vision_config.hidden_size, config.text_config.hidden_size
        share = width // config.minicpmv_version.reading.token_side**2
        grad = walk.linear(f"{name}.inner", vision, width, grad=grad, unit="resampled_patches")
        return walk.linear(f"{name}.outer", share, width, grad=grad, unit="resampled_patches")

    def steps(self, sizes: Sequence[tuple[int, int]]) -> Iterator[Step]:
        yield Step("resampler", [self], lambda features_PE: self(features_PE, sizes))

    def forward(self, features_PE: Tensor, sizes: Sequence[tuple[int, int]], temporal_ids: Any = None) -> Tensor:
        """Return the tokens of all slices, end to end, (N, D)."""
        assert temporal_ids is None
        strips = features_PE.split([rows * columns for rows, columns in sizes])
        squares = [self._squares(strip, *size) for strip, size in zip(strips, sizes, strict=True)]
        return self.outer(gelu(self.inner(torch.cat(squares))))

    def _squares(self, strip_PE: Tensor, rows: int, columns: int) -> Tensor:
        side = self.side
        grid = strip_PE.view(rows // side, side, columns // side, side, -1)
        return grid.transpose(1, 2).reshape(rows * columns // side**2, -1)


class MadeUpModel(MiniCPMVForConditionalGeneration):
    config_class = MadeUpConfig

    def build_parts(self, config: MiniCPMVConfig) -> None:
        network = config.minicpmv_version.network
        self.sight = nn.Module()
        self.sight.tower = find_code(network.tower)(config.vision_config, positions=network.vision_positions)
        self.sight.merger = Merger.of_config(config)
        self.speech = find_code(network.language_model)(config.text_config)
