"""``minicpmv serve`` as a user starts it, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from minicpmv.inference.generation import GenerationSettings, answer
from minicpmv.inference.loading import load_model
from tests.docs.repository import ROOT, code_blocks
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES, save_picture
from tests.unit.models.adapters.test_attaching import make_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODEL = FIXTURES / "v2_6"
IMAGE = MODEL / "images" / "wide_150x80.png"
KEY = "a key of the tests"
QUESTION = "Describe this image in detail."
LENGTH = 12
LONG = 700
"""Tokens. The fixture's answer to QUESTION without a picture takes that many, or more than 400: about a second."""
QUEUE = 24


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    address: str
    client: openai.OpenAI
    folder: Path
    adapter: Path

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1].partition("/")[0])

    def ask(self, content: Any, *, model: str = "tiny", **options: Any) -> Any:
        """Ask a question; ``timeout`` is the client's own."""
        messages: Any = [{"role": "user", "content": content}]
        create: Any = self.client.chat.completions.create
        return create(model=model, messages=messages, **({"max_tokens": LENGTH} | options))

    def post(self, body: bytes) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {KEY}"})
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
        return response.status, content

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read().decode()
        connection.close()
        return response.status, content

    def metric(self, name: str) -> float:
        lines = self.get("/metrics")[1].splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def is_idle(self, *, within_seconds: float) -> bool:
        """Whether nobody waits or is answered, soon: a client has its answer a moment before the batch is over."""
        end = time.monotonic() + within_seconds
        while self.metric("minicpmv_requests_waiting") or self.metric("minicpmv_requests_running"):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    torch.manual_seed(0)
    adapter = make_adapter(folder / "adapter", "v2_6")
    save_picture(folder / "images" / "a.png")
    flags = ["--served-model-name", "tiny", "--adapter", f"tuned.v1={adapter}", "--port", "0"]
    flags += ["--max-queue", str(QUEUE), "--max-body-bytes", "300000", "--max-image-pixels", "40000"]
    flags += ["--allowed-image-root", str(folder / "images"), "--request-timeout", "30"]
    log = folder / "log"
    command = [prepared_python(), "-m", "minicpmv", "serve", MODEL, *flags]
    environment = os.environ | {"MINICPMV_API_KEY": KEY}
    with log.open("w") as written, started(command, stdout=written, stderr=written, env=environment) as process:
        address = wait_for(r"^Serving tiny, tuned.v1 at (http://127.0.0.1:\d+/v1)$", log, process)[1]
        with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=60) as client:
            yield Server(process, address, client, folder, adapter)


def data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def picture_and_question(url: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]


@pytest.fixture(scope="module")
def chat_says(server: Server) -> dict[str, str]:
    """What ``minicpmv chat`` answers."""
    settings = GenerationSettings(max_new_tokens=LENGTH)
    content = [{"type": "image", "image": str(IMAGE)}, {"type": "text", "text": QUESTION}]
    messages = {"picture": [{"role": "user", "content": content}], "text": [{"role": "user", "content": "Hi!"}]}
    said: dict[str, str] = {}
    for model, path in (("tiny", MODEL), ("tuned.v1", server.adapter)):
        loaded = load_model(path)
        said |= {f"{model} {kind}": answer(loaded, asked, settings=settings) for kind, asked in messages.items()}
    assert len(set(said.values())) == 4
    long = GenerationSettings(max_new_tokens=LONG)
    return said | {"long": answer(load_model(MODEL), [{"role": "user", "content": QUESTION}], settings=long)}


@pytest.mark.parametrize("model", ["tiny", "tuned.v1"])
def test_answers_are_those_of_the_chat_command(server: Server, chat_says: dict[str, str], model: str) -> None:
    reply = server.ask(picture_and_question(data_url(IMAGE)), model=model)
    assert reply.choices[0].message.content == chat_says[f"{model} picture"]
    assert reply.model == model
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    reply = server.ask("Hi!", model=model)
    assert reply.choices[0].message.content == chat_says[f"{model} text"]
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", LENGTH)


def test_a_stream_says_the_same_and_ends_with_its_usage(server: Server, chat_says: dict[str, str]) -> None:
    asked = picture_and_question(data_url(IMAGE))
    chunks = list(server.ask(asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == chat_says["tiny picture"]
    assert len([piece for piece in pieces if piece]) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:] if chunk.choices] == ["stop"]
    assert chunks[-1].usage.completion_tokens == server.ask(asked).usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_example_of_the_page_runs(
    server: Server, chat_says: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = code_blocks(ROOT / "docs" / "serving.md", "python")
    monkeypatch.chdir(server.folder)
    (server.folder / "cat.jpg").write_bytes(IMAGE.read_bytes())
    for written, here in (
        ("http://127.0.0.1:8000/v1", server.address),
        ('api_key="none"', f"api_key={KEY!r}"),
        ("output/lora", "tuned.v1"),
        ("What is this?", QUESTION),
    ):
        assert written in example
        example = example.replace(written, here)
    values: dict[str, Any] = {}
    exec(compile(example, "docs/serving.md", "exec"), values)
    values["client"].close()
    assert capsys.readouterr().out.startswith(chat_says["tuned.v1 picture"][:10])


def test_a_stop_ends_the_answer_before_it(server: Server, chat_says: dict[str, str]) -> None:
    said = chat_says["tiny text"]
    stop = said[4:7]
    reply = server.ask("Hi!", stop=[stop, "never said"])
    assert reply.choices[0].message.content == said[: said.index(stop)].rstrip()
    assert reply.choices[0].finish_reason == "stop"


def test_a_seed_makes_drawn_answers_repeatable(server: Server, chat_says: dict[str, str]) -> None:
    drawn = [server.ask("Hi!", temperature=1.5, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({*drawn, chat_says["tiny text"]}) == 3


def test_images_come_from_the_allowed_folder_and_from_nowhere_else(server: Server) -> None:
    inside = server.folder / "images" / "a.png"
    by_data = server.ask(picture_and_question(data_url(inside))).choices[0].message.content
    for address in (str(inside), inside.as_uri(), "a.png"):
        assert server.ask(picture_and_question(address)).choices[0].message.content == by_data
    (server.folder / "images" / "link.png").symlink_to(IMAGE)
    for address in (str(IMAGE), IMAGE.as_uri(), "../adapter/adapter_config.json", "link.png", "/etc/passwd", "no.png"):
        with pytest.raises(openai.BadRequestError, match="expected an image file in the server's --allowed-image-root"):
            server.ask(picture_and_question(address))
    with pytest.raises(openai.BadRequestError, match="found a web address, expected a data: URL"):
        server.ask(picture_and_question("http://127.0.0.1/a.png"))


def test_models_are_listed_with_the_right_key_only(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny", "tuned.v1"]
    assert server.client.models.retrieve("tuned.v1").id == "tuned.v1"
    stranger = server.client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="found a wrong key"):
        stranger.models.list()
    messages: Any = [{"role": "user", "content": picture_and_question(data_url(IMAGE))}]
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="tiny", messages=messages)
    assert server.get("/v1/models")[0] == 401
    assert server.get("/health") == (200, '{"status": "ok"}')


def test_an_unknown_model_is_named_with_those_that_there_are(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match=r"found 'gpt-9', expected one of tiny, tuned\.v1") as caught:
        server.ask("Hi!", model="gpt-9")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2}, "n: found 2, expected 1"),
        ({"logprobs": True}, "logprobs: found True, expected false"),
        ({"extra_body": {"top_k": 5}}, "top_k: found an unknown parameter"),
        ({"max_tokens": 4000}, "and an answer of up to 4000, expected at most 2048 tokens together"),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}, "expected a version with a thinking"),
    ],
)
def test_what_could_not_act_is_refused(server: Server, options: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        server.ask("Hi!", **options)


def test_damaged_images_and_large_ones_are_refused_alone(server: Server) -> None:
    whole = IMAGE.read_bytes()
    for content, message in ((b"GIF89a nothing", "that are no image"), (whole[:-2000], "data that cannot be decoded")):
        url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        with pytest.raises(openai.BadRequestError, match=message):
            server.ask(picture_and_question(url))
    large = Path(save_picture(server.folder / "large.png", 250, 170))
    with pytest.raises(openai.BadRequestError, match="found 250 x 170 pixels, expected at most 40000 pixels"):
        server.ask(picture_and_question(data_url(large)))


def test_an_oversized_body_is_refused_however_it_comes(server: Server) -> None:
    with pytest.raises(openai.APIStatusError, match="found more than 300000 bytes") as caught:
        server.ask("x" * 5_000_000)
    assert caught.value.status_code == 413
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"authorization": f"Bearer {KEY}"}
    pieces = (b"y" * 50_000 for _ in range(400))
    connection.request("POST", "/v1/chat/completions", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b"[" * 100_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}',
        b'{"\\ud800": 1}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    ],
    ids=["empty", "bytes", "deep", "half a character", "half in a name", "half in a key", "NaN"],
)
def test_garbage_in_a_body_is_a_clear_error(server: Server, body: bytes) -> None:
    status, content = server.post(body)
    assert status in (400, 404)
    assert "fix:" in content["error"]["message"]


def test_garbage_instead_of_http_does_no_harm(server: Server, chat_says: dict[str, str]) -> None:
    for sent in (os.urandom(4096), b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            raw.recv(1000)
    assert server.ask("Hi!").choices[0].message.content == chat_says["tiny text"]


def test_64_at_once_get_right_answers_or_a_full_queue(server: Server, chat_says: dict[str, str]) -> None:
    """Pictures, texts and both models mixed; nobody hangs, and more than one is answered at a time."""
    url = data_url(IMAGE)
    batches, begun = server.metric("minicpmv_batch_size_count"), server.metric("minicpmv_batch_size_sum")

    def ask(number: int) -> str:
        model, kind = ("tiny", "tuned.v1")[number % 2], ("picture", "text")[number // 2 % 2]
        try:
            reply = server.ask(picture_and_question(url) if kind == "picture" else "Hi!", model=model)
        except openai.RateLimitError as error:
            return "full" if int(error.response.headers["retry-after"]) in range(1, 61) else "no time to wait"
        return "right" if reply.choices[0].message.content == chat_says[f"{model} {kind}"] else "wrong"

    with ThreadPoolExecutor(64) as pool:
        outcomes = Counter(pool.map(ask, range(64)))
    assert outcomes["right"] + outcomes["full"] == 64, outcomes
    assert outcomes["right"] >= QUEUE
    answered = server.metric("minicpmv_batch_size_sum") - begun
    assert answered / (server.metric("minicpmv_batch_size_count") - batches) > 1.5
    assert server.is_idle(within_seconds=5)


def test_who_leaves_frees_the_model(server: Server) -> None:
    """After those who asked for long answers are gone, a short one ends long before theirs would have."""
    start = time.monotonic()
    server.ask(QUESTION, max_tokens=LONG)
    seconds = time.monotonic() - start
    before = server.metric("minicpmv_completion_tokens_total")
    stream = server.ask(QUESTION, stream=True, max_tokens=LONG)
    next(iter(stream))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        server.ask(QUESTION, max_tokens=LONG, timeout=0.3)
    server.ask("Hi!", max_tokens=5)
    assert server.is_idle(within_seconds=seconds / 3)
    assert server.metric("minicpmv_completion_tokens_total") - before == 5
    assert server.metric('minicpmv_requests_total{status="499"}') >= 1


def test_sigterm_finishes_what_runs_and_sends_away_who_waits(server: Server, chat_says: dict[str, str]) -> None:
    stream = server.ask(QUESTION, stream=True, max_tokens=LONG)
    chunks = [next(stream)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.ask, "Hi!", model="tuned.v1")
        while not server.metric("minicpmv_requests_waiting"):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError, match="found the server shutting down") as caught:
            waiting.result(timeout=30)
    assert caught.value.status_code == 503
    assert "retry-after" in caught.value.response.headers
    with pytest.raises(openai.APIConnectionError):
        server.ask("Hi!")
    chunks += stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == chat_says["long"]
    assert chunks[-1].choices[0].finish_reason is not None
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in (server.folder / "log").read_text()
