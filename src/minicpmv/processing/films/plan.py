"""Plans the frames of one film: when each is, how many share a block of tokens, and how to take fewer.

Everything follows from the facts, the request and the release's rule, so each process makes the same plan, and checks
count tokens without decoding anything. Frames are taken by number, as released code takes them, and named by the time
at which each is shown, which a reader finds in any container and on any rate.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from minicpmv.processing.films.facts import TOLERANCE, FilmFacts, mean_rate
from minicpmv.processing.films.request import FilmRequest, find_request_fault
from minicpmv.processing.films.sampling import Clip, Limits, Sample, spread
from minicpmv.releases.row import FilmRule, find_code

__all__ = ["FilmPlan", "plan_film", "word_times"]

_MOST_WORDED = 8
"""Times that are written out."""
_TICK = 0.1
"""Seconds. Unit of 4.5's time ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmPlan:
    """The frames that are taken of one film."""

    times: tuple[float, ...]
    """Seconds from the film's first frame, ascending; what is shown at each is taken, so a frame may be taken twice."""
    size: tuple[int, int]
    """(width, height) of each frame in pixels, as a viewer shows it."""
    group: int = 1
    """Frames that share a block of tokens; the last block may have fewer."""
    time_ids: tuple[int, ...] | None = None
    """Time of each frame for the model, in steps of 0.1 s; None where the model knows no time."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks of tokens; each takes as many tokens as a picture of ``size``."""
        return ceil(len(self.times) / self.group)

    @property
    def temporal_ids(self) -> list[list[int]] | None:
        """Time ids block by block, as the processor takes them; None where the model knows no time."""
        if self.time_ids is None:
            return None
        ids = list(self.time_ids)
        return [ids[start : start + self.group] for start in range(0, len(ids), self.group)]

    def thin(self, num_frames: int) -> FilmPlan:
        """Return the plan with so many frames, at least 1, taken evenly; itself if it has no more.

        From one plan, thinning to a number always gives the same; thinning twice may give other frames than once.
        """
        if num_frames >= len(self.times):
            return self
        kept = spread(len(self.times), max(1, num_frames))
        ids = self.time_ids
        return replace(
            self,
            times=tuple(self.times[index] for index in kept),
            time_ids=None if ids is None else tuple(ids[index] for index in kept),
        )

    def regroup(self, group: int) -> FilmPlan:
        """Return the plan with so many frames in a block, where the rule's ``max_group`` allows it."""
        assert self.time_ids is not None or group == 1, "this release has no groups"
        return replace(self, group=group)


def plan_film(facts: FilmFacts, request: FilmRequest, rule: FilmRule) -> FilmPlan:
    """Choose the frames of a film as the release's rule does within what is asked.

    A start or end makes a clip, which is planned as if it were the film; its time ids count from its start, its
    ``times`` from that of the film. ``times`` of the request are taken as they are. Pictures that somebody has chosen
    (``facts.is_chosen``) are all taken, up to the most.

    Args:
        facts: Of the film.
        request: Without fault for these facts: ``find_request_fault`` returns None.
        rule: ``reading.films`` of the release's row.

    >>> from minicpmv.releases.table import VERSIONS
    >>> facts = FilmFacts(duration=10.0, rate=25.0, num_frames=250, size=(640, 360))
    >>> plan_film(facts, FilmRequest(end=3.0), VERSIONS["2.6"].reading.films).times
    (0.0, 1.0, 2.0)
    """
    assert find_request_fault(request, facts) is None, find_request_fault(request, facts)
    start = request.start or 0.0
    clip, shown = _clip_of(facts, request)
    most = rule.max_frames if request.max_frames is None else request.max_frames
    limits = Limits(fps=request.fps or rule.fps, max_frames=most, max_blocks=rule.max_blocks or most)
    if facts.is_chosen or request.times is not None:
        times = list(map(float, request.times or ()))
        if facts.is_chosen:
            within = _shown_within(facts, request)
            times = [within[index] for index in spread(len(within), min(len(within), most))]
        group, seconds = ceil(len(times) / limits.max_blocks), [time - start for time in times]
    else:
        sample: Sample = find_code(rule.sampling)(clip, limits)
        group, seconds = sample.group, [index / clip.rate for index in sample.indices]
        times = [start + second for second in seconds] if shown is None else [shown[index] for index in sample.indices]
    return FilmPlan(
        times=tuple(times),
        size=facts.size,
        group=min(group, rule.max_group),
        time_ids=_time_ids(seconds, clip.duration) if rule.has_time else None,
    )


def word_times(times: Sequence[float]) -> str:
    """Word the times of frames, in seconds.

    >>> word_times([0.0, 0.5, 1.0])
    '0, 0.5, 1 s'
    """
    words = [f"{time:.4g}" for time in times]
    if len(words) > _MOST_WORDED:
        words = [*words[: _MOST_WORDED - 2], "...", words[-1]]
    return f"{', '.join(words)} s"


def _clip_of(facts: FilmFacts, request: FilmRequest) -> tuple[Clip, Sequence[float] | None]:
    """Return the part between start and end as frames of equal length; and when each is shown, if their rate varies."""
    start = request.start or 0.0
    end = facts.duration if request.end is None else min(request.end, facts.duration)
    is_whole = request.start is None and request.end is None
    if facts.frame_times is None or facts.is_chosen:
        num_frames = facts.frames if is_whole else max(1, ceil((end - start) * facts.rate - 1e-6))
        return Clip(num_frames, facts.rate), None
    first = bisect_right(facts.frame_times, start + TOLERANCE) - 1  # is still shown when the clip begins
    last = max(first + 1, bisect_left(facts.frame_times, end))
    shown = [max(start, time) for time in facts.frame_times[first:last]]
    return Clip(len(shown), (None if is_whole else mean_rate(shown)) or facts.rate), shown


def _shown_within(facts: FilmFacts, request: FilmRequest) -> list[float]:
    """Return the times of all frames that are first shown between start and end, or of the one that is shown there."""
    assert facts.frame_times is not None, "known for chosen pictures"
    start = request.start or 0.0
    end = facts.duration if request.end is None else request.end
    times = [time for time in facts.frame_times if start <= time < end]
    return times or [start]


def _time_ids(seconds: Sequence[float], duration: float) -> tuple[int, ...]:
    """Return the nearest of the times 0, 0.1, 0.2 ... of each frame, as 4.5's released code numbers them.

    It divides a time by 0.1 and cuts off the fraction, so 376 of the first 6,000 numbers are one too small: 4.3 s is
    42. The weights were trained so. Where two times are equally near, the earlier is taken here; released code takes
    either, as its search tree happens to lie.
    """
    last = max(0, ceil(duration / _TICK) - 1)
    ids: list[int] = []
    for time in seconds:
        near = int(time / _TICK)
        nearest = min(range(max(0, near - 1), near + 3), key=lambda tick: (abs(time - tick * _TICK), tick))
        ids.append(int(min(nearest, last) * _TICK / _TICK))
    return tuple(ids)
