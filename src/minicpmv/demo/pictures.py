"""Makes the base model's training pictures: generated shapes, lines and letters, and clothing from Fashion-MNIST.

Each drawing function takes its own random numbers and returns the picture with the facts about it; which questions they
answer is decided in ``mixture.py``. No digits are drawn here, neither handwritten nor printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from minicpmv.demo.data import PICTURE_PIXELS
from minicpmv.demo.sheets import ASSETS, read_sheet
from minicpmv.errors import ConfigError
from minicpmv.processing.pictures.patches import resize

__all__ = [
    "CLOTHING",
    "CLOTHING_LEVELS",
    "CLOTHING_PIXELS",
    "COLOURS",
    "LETTERS",
    "PLACES",
    "SHAPES",
    "Picture",
    "draw_clothing",
    "draw_letter",
    "draw_line",
    "draw_many",
    "draw_pair",
    "draw_shape",
]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (46, 148, 66),
    "blue": (40, 80, 200),
    "yellow": (245, 208, 40),
    "orange": (243, 132, 30),
    "purple": (124, 50, 160),
    "pink": (248, 150, 190),
    "brown": (120, 74, 36),
    "grey": (128, 128, 128),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond")
PLACES = ("left", "right", "top", "bottom", "centre")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CLOTHING = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
"""Fashion-MNIST's classes, in the order of its labels."""

CLOTHING_PIXELS = 28
CLOTHING_LEVELS = 16

_SCALE = 4
"""Factor by which pictures are drawn larger and then reduced, which smooths their edges."""
_SIDE = PICTURE_PIXELS * _SCALE

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """Holds a picture and the facts about it."""

    image: Image.Image
    kind: str
    """Kind: ``shape``, ``shapes``, ``letter``, ``clothing``, ``line`` or ``pair``."""
    facts: dict[str, str] = field(default_factory=dict)
    """Facts by property: ``{"colour": "red", "shape": "circle"}``."""


def _contrasting(rng: Random) -> tuple[str, str]:
    """Choose two colour names that a person can distinguish: ink and background."""
    alike = ({"red", "orange"}, {"orange", "yellow"}, {"brown", "purple"}, {"brown", "black"}, {"brown", "grey"})
    alike += ({"purple", "blue"}, {"pink", "grey"}, {"green", "grey"}, {"blue", "black"}, {"brown", "green"})
    while True:
        ink, ground = rng.sample(list(COLOURS), 2)
        if rng.random() < 0.7:
            ground = rng.choice(("white", "white", "white", "black"))
        if ink != ground and {ink, ground} not in alike:
            return ink, ground


def _tint(rng: Random, name: str) -> Colour:
    red, green, blue = (min(255, max(0, level + rng.randint(-14, 14))) for level in COLOURS[name])
    return red, green, blue


def _finish(canvas: Image.Image) -> Image.Image:
    return resize(canvas, (canvas.width // _SCALE, canvas.height // _SCALE), Image.Resampling.BOX)


def _polygon(x: float, y: float, radius: float, *, corners: int, inner: float = 1.0) -> list[Point]:
    """Return the corners of a regular polygon, or of a star if every second corner is at ``inner`` times the radius."""
    points = []
    for corner in range(corners):
        reach = radius * (inner if corner % 2 else 1.0)
        angle = 2 * math.pi * corner / corners
        points.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    return points


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float, colour: Colour) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "ring":
        draw.ellipse(box, outline=colour, width=max(1, round(radius * 0.4)))
    elif shape == "square":
        side = radius * 0.88
        draw.rectangle((x - side, y - side, x + side, y + side), fill=colour)
    elif shape == "cross":
        arm = radius * 0.3
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
    elif shape == "triangle":
        draw.polygon(_polygon(x, y + radius * 0.2, radius * 1.15, corners=3), fill=colour)
    elif shape == "diamond":
        draw.polygon(_polygon(x, y, radius * 1.1, corners=4), fill=colour)
    else:
        draw.polygon(_polygon(x, y, radius * 1.15, corners=10, inner=0.42), fill=colour)


def draw_shape(rng: Random) -> Picture:
    """Draw one shape, big or small, somewhere on a plain background."""
    ink, ground = _contrasting(rng)
    shape, place, size = rng.choice(SHAPES), rng.choice(PLACES), rng.choice(("big", "small"))
    canvas = Image.new("RGB", (_SIDE, _SIDE), _tint(rng, ground))
    radius = _SIDE * (rng.uniform(0.28, 0.33) if size == "big" else rng.uniform(0.13, 0.16))
    reach = _SIDE / 2 - radius * 1.1
    across, down = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "centre": (0, 0)}[place]
    x = _SIDE / 2 + across * reach + rng.uniform(-0.02, 0.02) * _SIDE
    y = _SIDE / 2 + down * reach + rng.uniform(-0.02, 0.02) * _SIDE
    _draw_shape(ImageDraw.Draw(canvas), shape, (x, y), radius, _tint(rng, ink))
    facts = {"shape": shape, "colour": ink, "background": ground, "place": place, "size": size}
    facts["description"] = f"A {size} {ink} {shape} on a {ground} background."
    return Picture(_finish(canvas), "shape", facts)


def draw_many(rng: Random) -> Picture:
    """Draw zero to nine shapes of one kind and colour on a plain background, without overlap."""
    ink, ground = _contrasting(rng)
    shape, count = rng.choice(SHAPES), rng.randint(0, 9)
    canvas = Image.new("RGB", (_SIDE, _SIDE), _tint(rng, ground))
    draw = ImageDraw.Draw(canvas)
    cell = _SIDE / 3
    for place in rng.sample(range(9), count):
        radius = cell * rng.uniform(0.30, 0.38)
        x = (place % 3 + 0.5) * cell + rng.uniform(-0.08, 0.08) * cell
        y = (place // 3 + 0.5) * cell + rng.uniform(-0.08, 0.08) * cell
        _draw_shape(draw, shape, (x, y), radius, _tint(rng, ink))
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    facts = {"count": words[count], "background": ground}
    if count:
        facts |= {"shape": shape, "colour": ink}
    return Picture(_finish(canvas), "shapes", facts)


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(pixels)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ConfigError(
            "demo: found Pillow without FreeType, expected it with FreeType\n  fix: install Pillow's own wheel"
        )
    return font


def _glyph(rng: Random, letter: str) -> Image.Image:
    """Draw a mask of one printed letter, slanted, turned, stretched, thin or bold."""
    mask = Image.new("L", (_SIDE, _SIDE), 0)
    size = round(_SIDE * rng.uniform(0.75, 1.0))
    bold = rng.choice((0, 0, rng.randint(1, 8)))
    middle = (_SIDE / 2, _SIDE / 2)
    ImageDraw.Draw(mask).text(middle, letter, fill=255, font=_font(size // 8 * 8), anchor="mm", stroke_width=bold)
    slant, wide = rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.15)
    half = _SIDE / 2
    affine = (wide, slant, half - wide * half - slant * half, 0, 1, 0)
    mask = mask.transform(mask.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    shift = (rng.uniform(-0.03, 0.03) * _SIDE, rng.uniform(-0.03, 0.03) * _SIDE)
    # Fractions of a pixel work here, despite the annotation.
    return mask.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR, translate=shift)  # pyright: ignore[reportArgumentType]


def _blurred(rng: Random, image: Image.Image) -> Image.Image:
    """Coarsen some pictures, as if enlarged from few pixels."""
    if rng.random() < 0.5:
        return image
    pixels = rng.choice((8, 10, 14, 20))
    small = resize(image, (pixels, pixels), Image.Resampling.BOX)
    return resize(small, image.size)


def _inked(rng: Random, mask: Image.Image) -> tuple[Image.Image, str, str]:
    """Colour a mask: mostly as dark ink on light paper, else any two colours."""
    ink, ground = ("black", "white") if rng.random() < 0.7 else _contrasting(rng)
    canvas = Image.new("RGB", mask.size, _tint(rng, ground))
    canvas.paste(_tint(rng, ink), (0, 0), mask)
    return _finish(canvas), ink, ground


def draw_letter(rng: Random) -> Picture:
    """Draw one printed capital letter."""
    letter = rng.choice(LETTERS)
    image, ink, ground = _inked(rng, _glyph(rng, letter))
    facts = {"letter": letter, "colour": ink, "background": ground}
    return Picture(_blurred(rng, image), "letter", facts)


def draw_line(rng: Random) -> Picture:
    """Draw a few strokes of a pen: straight, curved or closed to a loop."""
    mask = Image.new("L", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(mask)
    width = rng.randint(14, 30)
    form = rng.choice(("straight", "curved", "closed"))
    x, y = (_SIDE * rng.uniform(0.4, 0.6) for _ in range(2))
    if form == "straight":
        angle, reach = rng.uniform(0, math.pi), _SIDE * rng.uniform(0.25, 0.36)
        across, down = reach * math.cos(angle), reach * math.sin(angle)
        facts = {"direction": _direction(angle)}
        draw.line((x - across, y - down, x + across, y + down), fill=255, width=width)
    else:
        facts = {}
        high, wide = (_SIDE * rng.uniform(0.2, 0.34) for _ in range(2))
        start = rng.randint(0, 359)
        end = start + (360 if form == "closed" else rng.randint(120, 250))
        draw.arc((x - wide, y - high, x + wide, y + high), start, end, fill=255, width=width)
    image, ink, ground = _inked(rng, mask)
    return Picture(_blurred(rng, image), "line", facts | {"form": form, "colour": ink, "background": ground})


def _direction(angle: float) -> str:
    """Name the direction of a line at ``angle`` (radians, downwards from the right, 0 to pi)."""
    eighth = round(angle / (math.pi / 4)) % 4
    return ("flat", "falling", "upright", "rising")[eighth]


@cache
def _clothing() -> tuple[list[Image.Image], str]:
    tiles, labels = read_sheet(ASSETS / "clothing.png", tile_pixels=CLOTHING_PIXELS)
    grey = tiles * np.uint8(255 // (CLOTHING_LEVELS - 1))
    return [Image.fromarray(tile) for tile in grey], labels


def draw_clothing(rng: Random) -> Picture:
    """Take a photograph of one piece of clothing, mirrored and moved a little, on white or on black."""
    tiles, labels = _clothing()
    index = rng.randrange(len(tiles))
    tile, name = tiles[index], CLOTHING[int(labels[index])]
    if rng.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tile = ImageChops.offset(tile, 0, rng.randint(-1, 1))
    ground = rng.choice(("black", "white", "white", "white"))
    if ground == "white":
        tile = ImageChops.invert(tile)
    image = resize(tile, (PICTURE_PIXELS, PICTURE_PIXELS)).convert("RGB")
    return Picture(image, "clothing", {"clothing": name, "background": ground})


def draw_pair(rng: Random) -> Picture:
    """Put two pictures of different kinds side by side: twice as wide as high, so that it is cut into slices."""
    left, right = (draw(rng) for draw in rng.sample((draw_shape, draw_letter, draw_clothing), 2))
    image = Image.new("RGB", (2 * PICTURE_PIXELS, PICTURE_PIXELS))
    image.paste(left.image, (0, 0))
    image.paste(right.image, (PICTURE_PIXELS, 0))
    return Picture(image, "pair", {"left": left.kind, "right": right.kind})
