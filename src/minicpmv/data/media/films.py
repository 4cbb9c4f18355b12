"""Opens what a record names as a film: a film file, an animation, a folder of frames or a list of pictures.

Facts come from headers alone, so a check decodes nothing. Frames are decoded one film at a time, in one thread, and
only those that are kept are held. Which frames these are is decided in ``processing.films``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from minicpmv.processing.films.facts import FilmFacts
from minicpmv.processing.films.request import FilmRequest

__all__ = ["Film", "inspect_film", "read_frames"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """Names one film of one record."""

    source: str | tuple[str, ...]
    """Path of a film file, an animation (GIF, WebP, APNG) or a folder of frames; or the paths of frames in order."""
    request: FilmRequest = field(default_factory=FilmRequest)
    """Which of its frames are asked for, without fault."""

    @property
    def name(self) -> str:
        """The name in messages: its path, or that of its first frame and how many follow."""
        if isinstance(self.source, str):
            return self.source
        return f"{self.source[0]} and {len(self.source) - 1} more" if self.source else "an empty list of pictures"


def inspect_film(film: Film) -> FilmFacts:
    """Read the facts of a film from its header. No frame of a film file is decoded.

    Of a folder or list, the first picture's header gives the size; all of them must be there.

    Raises:
        FilmError: It cannot be used, as far as its header tells.
    """
    raise NotImplementedError


def read_frames(
    film: Film,
    times: Sequence[float],
    *,
    convert: Callable[[Image.Image], Image.Image] | None = None,
    is_whole: bool = True,
) -> list[Image.Image]:
    """Decode the frames that are shown at some times.

    Args:
        film: The film.
        times: Seconds from its first frame, ascending. A frame that is shown at several of them comes several times,
            as one object.
        convert: What is kept in place of each frame, such as the frame at the size that the model sees. Without it
            each is held as it is, 3 bytes a pixel.
        is_whole: Whether a film that ends before it says, or is damaged between the frames that are taken, is refused.
            If not, what is shown after the end is its last frame.

    Returns:
        RGB pictures, one for each time, turned as a viewer shows them, all of one size before ``convert``.

    Raises:
        FilmError: The film cannot be decoded, with the second at which it fails.
    """
    raise NotImplementedError
