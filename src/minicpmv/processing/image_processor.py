"""MiniCPMVImageProcessor: the picture half of the processor, as transformers knows it.

It reads and writes the released ``preprocessor_config.json`` field by field. MiniCPM-V-2 has no such file; its slicing
stands in ``config.json``. Sizes and pixels are made in ``slicing`` and ``patches``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature, PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from minicpmv.errors import CheckpointError, UsageError
from minicpmv.processing.pictures.patches import ImageSource, cut_patches, load_image, normalise, values_of_bytes
from minicpmv.processing.pictures.slicing import SliceConfig, SlicePlan, plan_slices
from minicpmv.releases.file_bounds import PREPROCESSOR
from minicpmv.releases.model_files import check_config, check_names, check_preprocessor
from minicpmv.releases.native_files import check_downsample_mode
from minicpmv.releases.row import TokenRule
from minicpmv.releases.table import Version, detect_version, is_model_type, version_named

__all__ = ["MiniCPMVImageProcessor", "MiniCPMVImagesKwargs"]


class MiniCPMVImagesKwargs(ImagesKwargs, total=False):
    """Settings that ``from_pretrained`` may override."""

    max_slice_nums: int
    scale_resolution: int
    patch_size: int
    use_image_id: bool
    downsample_mode: str
    video_fps: float
    max_frames: int
    video_max_slice_nums: int


class MiniCPMVImageProcessor(BaseImageProcessor):
    """Cuts pictures into slices and slices into patches.

    Args:
        fields: The released ``preprocessor_config.json``; fields it does not state have the released class's defaults.

    Raises:
        CheckpointError: A value is out of its bounds.
        ConfigError: A slicing setting cannot work.
    """

    valid_kwargs = MiniCPMVImagesKwargs
    model_input_names = ["pixel_values", "tgt_sizes"]

    # Class attributes, so that what is saved holds only what the file stated.
    max_slice_nums: int = 9
    scale_resolution: int = 448
    patch_size: int = 14
    slice_mode: bool = True
    use_image_id: bool | None = None
    """None: the version's own default."""
    image_feature_size: int = 64
    """Tokens per slice, the model's ``query_num``."""
    norm_mean: Sequence[float] = (0.5, 0.5, 0.5)
    norm_std: Sequence[float] = (0.5, 0.5, 0.5)
    version: float | str | None = None
    """As the file has it. 4.5's released file says 2.6, so ``minicpmv_version`` is written where the two differ."""
    minicpmv_version: str | None = None
    processor_class: str = "MiniCPMVProcessor"
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None
    """What 4.6 and later call ``norm_mean`` and ``norm_std``."""
    downsample_mode: str | None = None
    """How many patches an image token stands for, where there is a choice (4.6 and later); None: the release's own."""
    video_fps: float | None = None
    """Frames a second that are taken of a film; None: as the release takes them, as for the next two."""
    max_frames: int | None = None
    """Most frames that are taken of a film."""
    video_max_slice_nums: int | None = None
    """Most tiles cut from one frame."""
    _reads_as: Version | None = None
    _stated_classes: tuple[str, str] | None = None

    def __init__(self, **fields: Any) -> None:
        kind, processor = fields.get("image_processor_type"), fields.get("processor_class")
        fields = {key: value for key, value in fields.items() if key not in ("image_processor_type", "processor_class")}
        # An underscore begins what transformers wrote for itself.
        fields = {key: value for key, value in fields.items() if not key.startswith("_")}
        check_names(fields, MiniCPMVImageProcessor, PREPROCESSOR, "preprocessor_config.json")
        super().__init__(**fields)
        if isinstance(kind, str) and isinstance(processor, str):
            self._stated_classes = kind, processor
        self.slice_config()  # wrong values are reported now, not at the first picture
        check_preprocessor(fields)

    def read_as(self, version: Version) -> None:
        """Cut pictures as a release does that the file does not state.

        Raises:
            CheckpointError: The file's ``downsample_mode`` is none of the release's.
        """
        check_downsample_mode(self.downsample_mode, version, where="preprocessor_config.json")
        self._reads_as = version

    def slice_config(self, max_slice_nums: int | None = None) -> SliceConfig:
        """Return the slicing in force, with another limit of tiles if one is given."""
        limit = self.max_slice_nums if max_slice_nums is None else max_slice_nums
        version = self._reads_as or version_named(self.minicpmv_version or self.version)
        return SliceConfig(
            scale_resolution=self.scale_resolution,
            patch_size=self.patch_size,
            token_side=(self.token_rule(version).side if version else None) or 1,
            max_slice_nums=limit if self.slice_mode else 1,
        )

    def token_rule(self, version: Version) -> TokenRule:
        """Return how many image tokens a slice of a release's picture has."""
        return version.reading.token_rule(self.downsample_mode, self.image_feature_size)

    def plan(self, size: tuple[int, int], max_slice_nums: int | None = None) -> SlicePlan:
        """Plan the slices of a picture of (width, height) pixels, without its pixels."""
        return plan_slices(*size, self.slice_config(max_slice_nums))

    def patches(self, image: ImageSource, plan: SlicePlan) -> NDArray[np.uint8]:
        """Return the picture's patch rows, (patches, 3 * patch_size ** 2) uint8."""
        return cut_patches(load_image(image), plan)

    @property
    def mean(self) -> Sequence[float]:
        """Subtracted from each channel, by either name."""
        return self.norm_mean if self.image_mean is None else self.image_mean

    @property
    def std(self) -> Sequence[float]:
        """Divides each channel, by either name."""
        return self.norm_std if self.image_std is None else self.image_std

    def normalise(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the values of patch rows as the model reads them, of the same shape."""
        return normalise(patches, mean=self.mean, std=self.std)

    def pixel_table(self) -> NDArray[np.float32]:
        """Return the value of each byte in each channel, (3, 256): what the model is given along with bytes."""
        return values_of_bytes(mean=self.mean, std=self.std)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  two classes of one name upstream
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        max_slice_nums: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Cut pictures into the patches of all their slices.

        Args:
            images: One picture or several.
            max_slice_nums: Another limit of tiles per picture than the checkpoint's.
            return_tensors: ``"pt"`` for torch tensors, ``"np"`` or None for NumPy arrays.

        Returns:
            ``pixel_values`` (patches of all slices, 3 * patch_size ** 2) float32 and ``tgt_sizes`` (slices, 2) int64.

        Raises:
            ImageError: A picture cannot be read.
            UsageError: There is no picture.
        """
        sources: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
        if not sources:
            raise UsageError("images: found none, expected at least one\n  fix: call it with an image")
        patches: list[NDArray[np.uint8]] = []
        sizes: list[tuple[int, int]] = []
        for source in sources:
            image = load_image(source)
            plan = self.plan(image.size, max_slice_nums)
            patches.append(self.patches(image, plan))
            sizes += plan.tgt_sizes
        values, tgt_sizes = self.normalise(np.concatenate(patches)), np.array(sizes, dtype=np.int64)
        if return_tensors == "pt":
            return BatchFeature({"pixel_values": torch.from_numpy(values), "tgt_sizes": torch.from_numpy(tgt_sizes)})
        return BatchFeature({"pixel_values": values, "tgt_sizes": tgt_sizes})

    def released_version(self) -> Version | None:
        """Return the version that the file states, if it does."""
        stated = self.minicpmv_version or self.version
        if stated is None:
            return self._reads_as
        return version_named(stated) or detect_version({"version": stated})

    def to_dict(self) -> dict[str, Any]:
        """Return the released fields: what was read, with what was changed since."""
        fields = {key: copy.deepcopy(value) for key, value in self.__dict__.items() if not key.startswith("_")}
        kind, processor = type(self).__name__, self.processor_class
        if self._reads_as is not None and self._reads_as.reading.file_classes is not None:
            kind, processor = self._stated_classes or self._reads_as.reading.file_classes
        return {"image_processor_type": kind, "processor_class": processor, **fields}

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read ``preprocessor_config.json`` or, where a release has none, the same fields from ``config.json``.

        Raises:
            CheckpointError: There is neither, or ``config.json`` is of another model or holds a value that cannot work.
        """
        given = dict(kwargs)
        try:
            return super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError as missing:
            fields, unused = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **given)
            if not is_model_type(fields.get("model_type")):
                raise CheckpointError(
                    f"{pretrained_model_name_or_path}: found neither preprocessor_config.json nor a config.json of "
                    "MiniCPM-V, expected one of them\n  fix: give the path of a MiniCPM-V model directory"
                ) from missing
            check_config(fields)
            return _fields_from_config(fields), unused


def _fields_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    slicing = config.get("slice_config") or config
    name = detect_version(config).name
    return {
        "max_slice_nums": slicing.get("max_slice_nums", MiniCPMVImageProcessor.max_slice_nums),
        "scale_resolution": slicing.get("scale_resolution", MiniCPMVImageProcessor.scale_resolution),
        "patch_size": slicing.get("patch_size", MiniCPMVImageProcessor.patch_size),
        "slice_mode": config.get("slice_mode", True),
        "image_feature_size": config.get("query_num", MiniCPMVImageProcessor.image_feature_size),
        "norm_mean": list(MiniCPMVImageProcessor.norm_mean),
        "norm_std": list(MiniCPMVImageProcessor.norm_std),
        "version": float(name) if name.replace(".", "").isdigit() else name,
    }
