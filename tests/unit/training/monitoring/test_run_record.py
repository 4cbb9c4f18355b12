from __future__ import annotations

import shlex

from minicpmv.data.records.record import Film, Record
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.text.turns import FilmRef, ImageRef, Turn
from minicpmv.training.monitoring.progress import format_log
from minicpmv.training.monitoring.run_record import chat_command


def record(*content: str | ImageRef | FilmRef, images: tuple[str, ...] = (), films: tuple[Film, ...] = ()) -> Record:
    turns = (Turn("user", content), Turn("assistant", ("Yes.",)))
    return Record(source="d.json", index=0, images=images, films=films, turns=turns)


def test_chat_command_prefers_a_record_with_an_image() -> None:
    records = [record("Hello?"), record(ImageRef(0), 'What\'s "this"?', images=("my cat.png",))]
    command = chat_command("out put", records)
    assert shlex.split(command) == ["minicpmv", "chat", "out put", "--image", "my cat.png", 'What\'s "this"?']


def test_chat_command_gives_every_image_of_the_question() -> None:
    command = chat_command("o", [record(ImageRef(0), "or", ImageRef(1), "?", images=("a.png", "b.png"))])
    assert shlex.split(command) == ["minicpmv", "chat", "o", "--image", "a.png", "--image", "b.png", "or\n?"]


def test_chat_command_gives_the_film_of_the_question_with_what_was_asked_of_it() -> None:
    listed = record(FilmRef(0), "?", films=(Film(source=("a.png", "b.png")),))
    asked = Film(source="a b.mp4", request=FilmRequest(start=1.5, max_frames=8))
    command = chat_command("o", [record("Hello?"), listed, record(FilmRef(0), "Who?", films=(asked,))])
    words = ["minicpmv", "chat", "o", "--video", "a b.mp4", "--max-frames", "8", "--start", "1.5", "Who?"]
    assert shlex.split(command) == words
    assert shlex.split(chat_command("o", [listed]))[3:5] == ["--video", "VIDEO"]


def test_chat_command_works_without_images() -> None:
    assert chat_command("o", [record("Hello?")]) == "minicpmv chat o 'Hello?'"


def test_log_line() -> None:
    logs = {"loss": 1.23456, "grad_norm": 2.0, "learning_rate": 1e-4, "tokens_per_second": 12345.6}
    logs |= {"tflops_per_second": 412.345, "memory_gib": 1.5, "samples_per_second": 8, "grad_norm/resampler": 1.0}
    expected = "step 10/100  loss 1.2346  lr 1.00e-04  gradient 2  12,346 tokens/s  412 TFLOP/s  1.50 GiB"
    assert format_log(logs, step=10, max_steps=100) == expected
    assert format_log({"train_runtime": 3.0}, step=10, max_steps=100) is None
