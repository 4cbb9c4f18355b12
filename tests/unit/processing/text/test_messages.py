from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from minicpmv.errors import UsageError
from minicpmv.processing.pictures.patches import load_image
from minicpmv.processing.text.messages import read_messages
from minicpmv.processing.text.turns import ImageRef, Turn

PICTURE = Image.new("RGB", (3, 3))


def test_parts_become_a_turn_and_its_images() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image", "image": "x.png"}, {"type": "image", "path": "y.png"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}]
    turns, images, _ = read_messages(messages)
    assert turns == [Turn("user", ("a", ImageRef(0), ImageRef(1))), Turn("assistant", ("b",))]
    assert images == ["x.png", "y.png"]


def test_official_chat_lists_are_understood() -> None:
    turns, images, _ = read_messages([{"role": "user", "content": [PICTURE, "What?"]}])
    assert turns == [Turn("user", (ImageRef(0), "What?"))]
    assert images == [PICTURE]


def test_base64_part_is_an_image() -> None:
    gif = "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
    _, images, _ = read_messages([{"role": "user", "content": [{"type": "image", "base64": gif}]}])
    assert load_image(images[0]).size == (1, 1)


def say(content: Any, role: str = "user") -> list[Any]:
    return [{"role": role, "content": content}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (["hi"], r"talk\[0\]: found a str, expected a message with 'role' and 'content'"),
        ([{"from": "human", "value": "a"}], r"talk\[0\]: found the keys \['from', 'value'\]"),
        (say("a", role="human"), r"talk\[0\].role: found 'human', expected one of system, user, assistant"),
        (say(None), r"talk\[0\].content: found nothing, expected a text, or a list of parts"),
        (say([]), r"talk\[0\].content: found an empty list"),
        (say([{"type": "video", "video": 3}]), r"content\[0\]: found 3, expected the path of a film, or the paths of"),
        (say([{"type": "video", "video": "a.mp4"}]), r"content\[0\]: found 'a.mp4', expected the path of a film"),
        (say([{"type": "video"}]), r"content\[0\]: found a video part without a film, expected the path of a film"),
        (say([{"type": "audio", "audio": "a.wav"}]), r"content\[0\].type: found 'audio'.*\n  fix: leave it out"),
        (say([{"text": "a"}]), r"content\[0\].type: found none, expected a part of type 'text', 'image' or 'video'"),
        (say([{"type": "text"}]), r"content\[0\].text: found nothing, expected a string"),
        (say(["a", {"type": "image"}]), r"content\[1\]: found an image part without an image"),
        (say([{"type": "image", "image": "a", "url": "b"}]), "found an image part with image and url"),
        (say([3]), r"content\[0\]: found an int, expected a part"),
        (say("\ud800 hi"), r"talk\[0\].content: found half of a surrogate pair: '\\ud800'"),
    ],
)
def test_what_is_not_understood_is_named_with_a_fix(messages: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_messages(messages, where="talk")
    assert "\n  fix: " in str(caught.value)


def test_films_are_opened_by_their_paths_with_what_is_asked_of_them() -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def open_film(source: Any, **options: Any) -> Any:
        asked.append((source, options))
        return f"film {len(asked)}"

    parts = [
        {"type": "video", "video": Path("a.mp4"), "fps": 2, "end": None},
        {"type": "video_url", "video_url": {"url": "b.mp4"}},
        {"type": "video", "video": ["0.png", Path("1.png")], "times": [0, 2.5]},
    ]
    _, _, films = read_messages(say(parts), open_film=open_film)
    assert films == ["film 1", "film 2", "film 3"]
    assert asked == [("a.mp4", {"fps": 2}), ("b.mp4", {}), (["0.png", "1.png"], {"times": [0, 2.5]})]
    with pytest.raises(UsageError, match=r"found \[<PIL.*expected the path of.*\n  fix: .*parts of type 'image'"):
        read_messages(say([{"type": "video", "video": [Image.new("RGB", (4, 4))]}]), open_film=open_film)


def test_an_opened_film_is_taken_as_it_is() -> None:
    film = SimpleNamespace(facts=None, request=None, read=None)
    assert read_messages(say([{"type": "video", "video": film}]))[2] == [film]
    with pytest.raises(UsageError, match=r"\.fps: found it beside an opened film, expected a path beside it"):
        read_messages(say([{"type": "video", "video": film, "fps": 1}]))
