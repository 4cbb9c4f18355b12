"""Films of records: opened for the processor, named by their content, and decoded to the end by a check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.data.media.film_faults import FilmError
from minicpmv.data.media.opened_films import digest_film, open_film
from minicpmv.data.records.record import Film
from minicpmv.data.sources.loading import load_records
from minicpmv.data.sources.survey import Survey
from minicpmv.errors import UsageError
from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import load_model
from minicpmv.processing.films.request import FilmRequest
from minicpmv.processing.processor import MiniCPMVProcessor
from tests.films import make_film, number_of
from tests.tiny import FIXTURES, conversation, save_picture, write_data


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four seconds, 25 frames each."""
    return make_film(tmp_path_factory.mktemp("films") / "a.mp4")


def test_an_opened_film_is_what_the_processor_takes(film: str) -> None:
    opened = open_film(film, start=1, max_frames=2)
    assert opened.facts.duration == pytest.approx(4)
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v2_6")
    shown = processor.show_film(opened)
    assert shown.plan.times == (1.0, 3.0)
    assert [number_of(frame) for frame in opened.read(shown.plan.times, lambda frame: frame)] == [25, 75]
    asked = [{"role": "user", "content": [{"type": "video", "video": opened}, {"type": "text", "text": "What?"}]}]
    assert processor.apply_chat_template(asked)["tgt_sizes"].shape == (2, 2)


def test_a_path_in_a_message_is_opened_with_what_is_asked_beside_it(film: str) -> None:
    processor = MiniCPMVProcessor.from_pretrained(FIXTURES / "v4_5")

    def encode(**part: Any) -> Any:
        content = [{"type": "video"} | part, {"type": "text", "text": "What?"}]
        return processor.apply_chat_template([{"role": "user", "content": content}])

    for asked in ({}, {"start": 1, "end": 3}, {"times": [0.5, 2.0]}):
        by_path, opened = encode(video=film, **asked), encode(video=open_film(film, **asked))
        for name, values in opened.items():
            assert torch.equal(by_path[name], values), name
    with pytest.raises(FilmError, match="found no such file"):
        encode(video="none.mp4")


def test_the_released_chat_takes_a_path(film: str) -> None:
    loaded = load_model(FIXTURES / "v2_6")
    asked: Any = [{"role": "user", "content": [{"type": "video", "video": film}, "What?"]}]
    said = loaded.model.chat(msgs=asked, tokenizer=loaded.processor.tokenizer, sampling=False, num_beams=1,
                             repetition_penalty=1.0, max_new_tokens=8, processor=loaded.processor)  # fmt: skip
    assert said.strip() == answer(loaded, asked, settings=GenerationSettings(max_new_tokens=8))


def test_what_cannot_be_asked_of_a_film_is_refused(film: str) -> None:
    with pytest.raises(UsageError, match=r"a\.mp4: start: found 9, expected a start within"):
        open_film(film, start=9)
    with pytest.raises(UsageError, match=r"fps: found -1, expected frames a second"):
        open_film(film, fps=-1)


def test_a_film_is_known_by_what_its_files_hold(tmp_path: Path) -> None:
    for number in range(2):
        save_picture(tmp_path / "a" / f"{number}.png", seed=number)
    frames = tuple(str(tmp_path / "a" / f"{number}.png") for number in range(2))
    listed, folder = Film(source=frames), Film(source=str(tmp_path / "a"), request=FilmRequest(fps=2))
    assert digest_film(listed) == digest_film(folder)
    assert digest_film(Film(source=frames[::-1])) != digest_film(listed)
    save_picture(tmp_path / "a" / "1.png", seed=5)
    assert digest_film(listed) != digest_film(Film(source=(frames[0], frames[0])))


def test_a_film_that_ends_early_is_found_by_decoding_alone(film: str, tmp_path: Path) -> None:
    """A Matroska file that was cut off: its header states four seconds."""
    whole = Path(make_film(tmp_path / "whole.mkv")).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    records = [
        {"id": "0", "video": "cut.mkv", "conversations": conversation("<video>\nWhat?", "So.")},
        {"id": "1", "video": {"video": film, "end": 2}, "conversations": conversation("<video>\nWhat?", "So.")},
    ]
    data = write_data(tmp_path / "train.json", records)
    assert len(load_records(data)) == 2
    for decode, codes in ((False, []), (True, ["D147"])):
        survey = Survey([data])
        survey.read_texts()
        survey.read_images()
        survey.read_films(decode=decode)
        assert [finding.problem.code for finding in survey.findings] == codes
        assert len(survey.sound_records()) == 2 - len(codes)
        assert survey.statistics().film_files == 2
