"""4.5's resampler over video frames against the released one, and frames through the whole model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from minicpmv.models.modeling import MiniCPMVForConditionalGeneration
from tests.parity.cases import FIXTURES

STORED = FIXTURES / "v4_5" / "resampler_temporal.safetensors"
OUTPUTS = ("images_only", "all_minus1", "groups", "padded_group")


@pytest.fixture(scope="module")
def model() -> MiniCPMVForConditionalGeneration:
    return MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v4_5", dtype=torch.float32).eval()


def rows(groups: list[list[int]] | None) -> list[tuple[int, int]] | None:
    """Groups of time indices, as the released resampler takes them, as one row for each slice."""
    if groups is None:
        return None
    return [(int(place == 0), time) for group in groups for place, time in enumerate(group)]


@pytest.mark.parametrize("name", OUTPUTS)
def test_resampler_joins_frames_as_the_released_one(model: MiniCPMVForConditionalGeneration, name: str) -> None:
    with safe_open(STORED, framework="pt") as file:
        stated = file.metadata()[f"temporal_ids_out_{name}"]
        features, sizes, expected = (file.get_tensor(key) for key in ("x", "tgt_sizes", f"out_{name}"))
    # The file pads every slice to 16 patches.
    patches = torch.cat([slice_LE[: size.prod()] for slice_LE, size in zip(features, sizes, strict=True)])
    groups = [[-1]] * 6 if stated == "[[-1]]*6" else json.loads(stated.replace("None", "null"))
    with torch.no_grad():
        found = model.resampler(patches, [tuple(size) for size in sizes.tolist()], rows(groups))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_the_stored_outputs_tell_times_apart() -> None:
    with safe_open(STORED, framework="pt") as file:
        groups, padded, plain = (file.get_tensor(f"out_{name}") for name in ("groups", "padded_group", "images_only"))
    assert (groups[0] - padded[0]).abs().max() < 1e-6
    assert (groups[1:] - padded[1:]).abs().max() > 0.1
    assert len(plain) == 2 * len(groups)


def prompt(model: MiniCPMVForConditionalGeneration, groups: list[list[int]], seed: int) -> dict[str, Tensor]:
    """Frames of 3 x 4 patches, one block of image tokens for each group, between some text."""
    generator = torch.Generator().manual_seed(seed)
    num_frames, queries = sum(map(len, groups)), model.config.query_num
    slots = queries * len(groups)
    image_mask = torch.zeros(1, slots + 6, dtype=torch.bool)
    image_mask[0, 3 : 3 + slots] = True
    return {
        "input_ids": torch.randint(0, 300, image_mask.shape, generator=generator),
        "attention_mask": torch.ones_like(image_mask).long(),
        "image_mask": image_mask,
        "pixel_values": torch.rand(num_frames * 12, 588, generator=generator) * 2 - 1,
        "tgt_sizes": torch.tensor([[3, 4]] * num_frames),
        "temporal_ids": torch.tensor(rows(groups)),
    }


def test_a_group_of_frames_fills_one_block_and_its_times_matter(model: MiniCPMVForConditionalGeneration) -> None:
    inputs = prompt(model, [[0, 1, 2], [-1], [7, 9]], seed=0)
    with torch.no_grad():
        logits = model(**inputs).logits
        moved = model(**inputs | {"temporal_ids": torch.tensor(rows([[0, 1, 3], [-1], [7, 9]]))}).logits
    assert torch.equal(logits[0, :3], moved[0, :3])
    assert (logits[0, 3:] - moved[0, 3:]).abs().max() > 1e-3


def test_beams_repeat_the_blocks_of_their_row(model: MiniCPMVForConditionalGeneration) -> None:
    """Two rows with differently many frames, each answered as by itself."""
    singles = [prompt(model, [[0, 1, 2], [3]], seed=1), prompt(model, [[0], [4, 5, 6, 7]], seed=2)]
    options = {"num_beams": 2, "do_sample": False, "max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0}
    generator: Any = model  # transformers types generate() for its own classes only
    alone = [generator.generate(**single, **options)[0, -5:].tolist() for single in singles]
    batch = {key: torch.cat([single[key] for single in singles]) for key in singles[0]}
    assert generator.generate(**batch, **options)[:, -5:].tolist() == alone


@pytest.mark.parametrize("wrong", [[[0, 0], [1, 1]], [[1, 0]], [[1, 0], [2, 1]]])
def test_rows_that_describe_no_groups_are_an_error(model: MiniCPMVForConditionalGeneration, wrong: list) -> None:
    inputs = prompt(model, [[0], [1]], seed=0) | {"temporal_ids": torch.tensor(wrong)}
    with pytest.raises(ValueError, match="expected one \\(opens, time\\) for each of 2 slices"):
        model(**inputs)


def test_a_version_without_time_refuses_it() -> None:
    older = MiniCPMVForConditionalGeneration.from_pretrained(FIXTURES / "v2_6", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"MiniCPM-V-2_6, which has no time"):
        older(**prompt(older, [[0, 1]], seed=0))
