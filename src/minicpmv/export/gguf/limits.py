"""Refuses models that llama.cpp cannot run, before anything is written, and describes what it computes differently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from minicpmv.errors import CheckpointError
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.releases.row import OwnConverter
from minicpmv.releases.table import VERSIONS

__all__ = ["check_engine_can_run", "differences"]

_HEAD_WIDTH = 128
_TABLE_SIDE = 70
_MAX_SLICES = 9
_SIDE_OF_4X = 2
"""Patches along the side of an image token of 4.6 and later whose ``downsample_mode`` is 4x."""


def check_engine_can_run(config: MiniCPMVConfig, where: object) -> None:
    """Refuse a model for which llama.cpp has no code, or code for other sizes.

    Raises:
        CheckpointError: There is no code for the release, or its code is for another size.
    """
    version = config.minicpmv_version
    refusal = version.engines.gguf
    if isinstance(refusal, str):
        others = ", ".join(name for name, other in VERSIONS.items() if not isinstance(other.engines.gguf, str))
        raise CheckpointError(
            f"{where}: found {version.model}, expected one of version {others}: {refusal}\n"
            "  fix: serve it with `minicpmv serve`"
        )
    side = cast("int", config.vision_config.image_size) // cast("int", config.vision_config.patch_size)
    table = (side != _TABLE_SIDE, f"a position table of {side} x {side}", f"{_TABLE_SIDE} x {_TABLE_SIDE}")
    if isinstance(refusal, OwnConverter):
        _refuse_any([table], where)
        return
    text: Any = config.text_config
    width, vision_width = text.hidden_size, config.vision_config.hidden_size
    faults = [
        (width % _HEAD_WIDTH, f"hidden_size {width}", f"a multiple of {_HEAD_WIDTH}, the width of a resampler head"),
        (vision_width == width, f"vision_config.hidden_size {vision_width}, the language model's", "another width"),
        table,
    ]
    _refuse_any(faults, where)
    scaling = text.rope_parameters.get("rope_type", "default")
    if scaling != "default":
        raise CheckpointError(
            f"{where}/config.json: found rope_scaling of type {scaling!r}, expected none: an export cannot write it\n"
            "  fix: serve it with `minicpmv serve`"
        )


def _refuse_any(faults: Sequence[tuple[object, str, str]], where: object) -> None:
    for is_fault, found, expected in faults:
        if is_fault:
            raise CheckpointError(
                f"{where}/config.json: found {found}, expected {expected}: llama.cpp's code has no other\n"
                "  fix: serve it with `minicpmv serve`; every released model has the sizes that llama.cpp expects"
            )


def differences(config: MiniCPMVConfig, images: MiniCPMVImageProcessor) -> Iterator[str]:
    """Yield the differences in how llama.cpp processes this model's pictures; docs/deploy explains them."""
    if config.minicpmv_version.network.vision_positions == "row":
        yield (
            "llama.cpp numbers the patches of 2.5 by row and column and sees each slice alone; the released code "
            "numbers them along one row and attends padding. Answers about pictures will differ"
        )
    side = images.scale_resolution
    if config.token_rule.side == _SIDE_OF_4X:
        yield (
            f"llama.cpp shows the model a picture of up to {side} x {side} pixels in all as in training, and larger "
            "ones with a dark edge"
        )
    else:
        yield (
            f"llama.cpp shows the model a square picture of up to {side} x {side} pixels as in training, and others "
            "stretched or with a dark edge"
        )
    limit = images.max_slice_nums if images.slice_mode else 1
    if limit != _MAX_SLICES:
        yield f"llama.cpp cuts up to {_MAX_SLICES} slices; this checkpoint was made for {limit}"
