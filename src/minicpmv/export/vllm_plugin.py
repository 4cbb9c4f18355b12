"""Lets vLLM load MiniCPM-V directories without the code that released ones contain; vLLM calls ``register`` itself.

vLLM has the networks, and takes the config, the tokenizer and the slicing of pictures from a checkpoint's own code.
Where this package is installed with vLLM, it provides them. This module loads nothing of vLLM before vLLM does.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, BatchFeature, PreTrainedConfig

from minicpmv.errors import UsageError
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.pictures.patches import ImageSource, load_image
from minicpmv.processing.tokens.image_blocks import spell_out_image
from minicpmv.releases.table import UNSTATED, VERSIONS, Version

__all__ = ["ReleasedImageProcessor", "refusing_config", "register"]

# Shape letters in this file
#   L patches of a slice    p pixels of a patch's side


class ReleasedImageProcessor(MiniCPMVImageProcessor):
    """Cuts pictures as its base class does, and returns them in the released form under the released names."""

    im_start_token, im_end_token = "<image>", "</image>"
    im_id_start, im_id_end = "<image_id>", "</image_id>"

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  as the released class is called
        self,
        images: Sequence[Sequence[ImageSource]],
        *,
        do_pad: bool = True,
        max_slice_nums: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Cut the pictures of each sample.

        Args:
            images: A list of pictures for each sample.
            do_pad: Ignored: slices are not padded to each other here.
            max_slice_nums: Most tiles per picture; by default the checkpoint's number.
            return_tensors: Ignored: samples differ in what they hold, so they are lists of tensors.

        Returns:
            For each sample ``pixel_values``, a (3, p, L * p) float32 strip for each slice; ``tgt_sizes``, (slices, 2)
            int32; and ``image_sizes``, (width, height) of each picture.
        """
        found: dict[str, list[Any]] = {"pixel_values": [], "image_sizes": [], "tgt_sizes": []}
        for sample in images:
            pictures = [load_image(image) for image in sample]
            plans = [self.plan(picture.size, max_slice_nums) for picture in pictures]
            sizes = [size for plan in plans for size in plan.tgt_sizes]
            patches = [
                torch.from_numpy(self.normalise(self.patches(*pair))) for pair in zip(pictures, plans, strict=True)
            ]
            lengths = [rows * columns for rows, columns in sizes]
            found["pixel_values"].append([self._strip(part) for part in torch.cat(patches).split(lengths)])
            found["image_sizes"].append([picture.size for picture in pictures])
            found["tgt_sizes"].append(torch.tensor(sizes, dtype=torch.int32))
        return BatchFeature(found)

    def _strip(self, patches: torch.Tensor) -> torch.Tensor:
        """Put the patches of one slice, (L, 3 * p * p), side by side."""
        side = self.patch_size
        return patches.unflatten(1, (3, side, side)).permute(1, 2, 0, 3).flatten(2).contiguous()

    def get_sliced_grid(self, image_size: tuple[int, int], max_slice_nums: int | None = None) -> tuple[int, int] | None:
        """Return the columns and rows of tiles that a picture of (width, height) is cut into, or None."""
        return self.plan(image_size, max_slice_nums).grid

    def get_slice_image_placeholder(
        self,
        image_size: tuple[int, int],
        image_idx: int = 0,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
    ) -> str:
        """Return the placeholder in the text for a picture of (width, height)."""
        version = self._version()
        has_numbers = version.reading.markup.number is not None
        stated = has_numbers if self.use_image_id is None else self.use_image_id
        return spell_out_image(
            self.plan(image_size, max_slice_nums),
            version,
            token_rule=self.token_rule(version),
            number=image_idx if stated and use_image_id is not False and has_numbers else None,
        )

    def _version(self) -> Version:
        # 4.5's released file says 2.6; both treat pictures alike.
        return self.released_version() or UNSTATED


def refusing_config(version: Version) -> type[PreTrainedConfig]:
    """Make a config class whose loading refuses a release that vLLM cannot run with this plugin.

    vLLM asks transformers for the config before anything else, so the message comes first.

    Args:
        version: The release; its row says why.
    """

    class Refusing(PreTrainedConfig):
        model_type = version.network.model_type

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            raise UsageError(
                f"vLLM: found a model of the type {version.network.model_type}, expected one that runs with the plugin "
                f"of minicpmv-finetune\n  fix: {version.engines.vllm}"
            )

    return Refusing


def register() -> None:
    """Have vLLM use this package's config, tokenizer and pictures. Called in every process of vLLM's."""
    from vllm.model_executor.models import minicpmv  # noqa: PLC0415  vLLM is loading: the top would be too early

    from minicpmv.registration import register as register_with_transformers  # noqa: PLC0415  needs all of torch

    register_with_transformers()
    for version in VERSIONS.values():
        if version.engines.vllm is not None:
            AutoConfig.register(version.network.model_type, refusing_config(version), exist_ok=True)
    minicpmv.MiniCPMVProcessingInfo._image_processor_cls = ReleasedImageProcessor
    if not torch.cuda.is_available():
        # vLLM's resampler calls it, and torch built without CUDA raises. May go when vLLM asks its platform instead.
        torch.cuda.is_current_stream_capturing = lambda: False
