from __future__ import annotations

from minicpmv.processing.films.facts import FilmFacts


def test_frames_are_computed_where_the_header_does_not_state_them() -> None:
    assert FilmFacts(duration=4.0, rate=25.0, num_frames=None, size=(1, 1)).frames == 100
    assert FilmFacts(duration=4.0, rate=25.0, num_frames=99, size=(1, 1)).frames == 99
    assert FilmFacts(duration=0.0, rate=25.0, num_frames=0, size=(1, 1)).frames == 1
