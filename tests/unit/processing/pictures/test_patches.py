from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv.errors import ImageError, MiniCPMVError
from minicpmv.processing.pictures import patches as images
from minicpmv.processing.pictures.patches import cut_patches, load_image, normalise, resize, values_of_bytes
from minicpmv.processing.pictures.slicing import SliceConfig, plan_slices
from tests.golden import encoded_pictures
from tests.golden.noise_pictures import digest, read_golden, resizings

COLOURS = np.arange(8 * 6 * 4, dtype=np.uint8).reshape(8, 6, 4)


def png_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def picture(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(COLOURS[..., 0].astype(np.int32))
    if mode == "F":
        return Image.fromarray(COLOURS[..., 0].astype(np.float32))
    if mode == "CMYK":
        return Image.frombytes("CMYK", (6, 8), COLOURS.tobytes())
    return Image.fromarray(COLOURS).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str) -> None:
    loaded = load_image(picture(mode))
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(picture(mode).convert("RGB")))


def test_path_bytes_data_url_and_image_are_the_same_picture(tmp_path: Path) -> None:
    image = picture("RGB")
    content = png_bytes(image)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    for source in (str(path), path, content, url, image):
        np.testing.assert_array_equal(np.asarray(load_image(source)), np.asarray(image))


def test_orientation_in_the_file_is_not_applied(tmp_path: Path) -> None:
    """The released code does not apply it, so neither training nor chatting may."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    picture("RGB").save(path, exif=exif)
    assert load_image(path).size == (6, 8)


def damaged_files() -> dict[str, bytes]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return {
        "text.png": b"not an image",
        "empty.png": b"",
        "cut.png": png_bytes(noise)[:3000],
        "cut.jpg": png_bytes(noise, "JPEG")[:1500],
        "cut.webp": png_bytes(noise, "WEBP")[:1500],
        "cut.gif": png_bytes(noise, "GIF")[:500],
        "cut.bmp": png_bytes(noise, "BMP")[:200],
        "header.png": png_bytes(noise)[:20],
    }


@pytest.mark.parametrize("name", list(damaged_files()))
def test_damaged_file_is_named_with_a_fix(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(damaged_files()[name])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert isinstance(caught.value, MiniCPMVError)
    assert str(caught.value).startswith(f"{path}: found data that cannot be decoded (")
    assert str(caught.value).endswith("\n  fix: save or download the image again")


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png: found no such file, expected an image file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="found a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("https://example.org/a.png", "found a web address"),
        (np.zeros((3, 3, 3)), "found an ndarray"),
        ("data:image/png,abc", "found a data: URL that cannot be decoded"),
        ("data:image/png;base64,%%%", "found a data: URL that cannot be decoded"),
    ],
)
def test_what_holds_no_picture_is_refused(source: object, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        load_image(source)  # pyright: ignore[reportArgumentType]


def test_picture_beyond_pillows_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    picture("RGB").save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="found an image too large to open safely"):
        load_image(path)


def test_mean_and_deviation_apply_per_channel() -> None:
    image = Image.new("RGB", (28, 28), (0, 255, 51))
    plan = plan_slices(28, 28, SliceConfig(scale_resolution=28, max_slice_nums=1))
    rows = normalise(cut_patches(image, plan), mean=(0.0, 0.5, 0.1), std=(1.0, 0.5, 0.1))
    channels = rows.reshape(4, 3, 196)
    np.testing.assert_allclose(channels[:, 0], 0.0)
    np.testing.assert_allclose(channels[:, 1], 1.0)
    np.testing.assert_allclose(channels[:, 2], 1.0, rtol=1e-6)


def test_tiles_follow_one_another_row_by_row() -> None:
    """The released fixtures have one row or one column only; here the grid has both."""
    image = Image.effect_noise((200, 200), 90).convert("RGB")
    plan = plan_slices(200, 200, SliceConfig(scale_resolution=56, max_slice_nums=4))
    assert plan.grid == (2, 2)
    assert plan.refine_size is not None
    refined = resize(image, plan.refine_size)
    rows = cut_patches(image, plan)[-4 * 16 :].reshape(4, 4, 4, 3, 14, 14)
    assert rows.dtype == np.uint8
    for tile, box in zip(rows, plan.tile_boxes, strict=True):
        expected = np.asarray(refined.crop(box))
        np.testing.assert_array_equal(tile.transpose(0, 3, 1, 4, 2).reshape(56, 56, 3), expected)


def test_plan_of_another_picture_is_our_own_fault() -> None:
    with pytest.raises(AssertionError, match="plan for"):
        cut_patches(Image.new("RGB", (10, 10)), plan_slices(11, 10, SliceConfig()))


def test_every_value_of_a_byte_is_rounded_as_released() -> None:
    """Float32 at each step; in double precision, or with both divisions in one, the last bit differs."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    plan = plan_slices(16, 16, SliceConfig(scale_resolution=16, patch_size=16))
    mean, std = (0.5, 0.48145466, 0.40821073), (0.5, 0.26862954, 0.27577711)
    (row,) = normalise(cut_patches(Image.fromarray(ramp), plan), mean=mean, std=std)
    np.testing.assert_array_equal(values_of_bytes(mean=mean, std=std), row.reshape(3, 256))
    for channel, values in enumerate(row.reshape(3, 256)):
        for byte, value in enumerate(values):
            scaled = np.float32(byte) / np.float32(255)
            assert value == (scaled - np.float32(mean[channel])) / np.float32(std[channel])


def test_noise_is_resized_as_by_the_pillow_that_the_released_models_knew() -> None:
    golden = read_golden()
    found = {each.name: digest(resize(each.picture(), each.target, each.resample)) for each in resizings()}
    assert found == golden


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    image = Image.new("RGB", (30, 20))
    assert resize(image, (30, 20)) is image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16"])
def test_a_mode_that_pillow_would_resize_in_its_own_way_is_our_own_fault(mode: str) -> None:
    with pytest.raises(AssertionError, match=mode):
        resize(Image.new(mode, (30, 20)), (20, 20))


def test_nothing_else_in_the_package_resizes_with_pillow() -> None:
    """Whatever does would make other pixels under another Pillow."""
    by_pillow = re.compile(r"\.(resize|thumbnail)\(|ImageOps\.(fit|contain|cover|pad|scale)\(")
    source = Path(images.__file__).parents[2]
    found = {
        str(file.relative_to(source)): line.strip()
        for file in sorted(source.rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if by_pillow.search(line)
    }
    assert found == {"processing/pictures/patches.py": "image = image.resize(step, resample)"}


@pytest.mark.parametrize("name", encoded_pictures.WAYS)
def test_a_lossy_file_is_decoded_to_the_same_pixels(name: str) -> None:
    stored = json.loads(encoded_pictures.GOLDEN.read_text(encoding="utf-8"))["pictures"][name]
    assert digest(load_image(base64.b64decode(stored["file"]))) == stored["digest"]
