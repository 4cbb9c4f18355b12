"""Tools in ``minicpmv serve``, asked by OpenAI's own client, and in ``minicpmv chat``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from minicpmv.cli.main import main
from tests.processes import started, wait_for
from tests.run.prepared import prepared_python
from tests.tiny import FIXTURES
from tests.tool_caller import ANSWER, CALLS, QUESTION, RESULT, TOOLS, write_caller

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ASKED = [{"role": "user", "content": QUESTION}]
SHOWN = 'I look.\n-> find(code="7")\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_caller(tmp_path_factory.mktemp("tools") / "model")


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[openai.OpenAI]:
    log = model.parent / "log"
    command = [prepared_python(), "-m", "minicpmv", "serve", model, "--served-model-name", "tiny", "--port", "0"]
    with log.open("w") as written, started(command, stdout=written, stderr=written) as process:
        address = wait_for(r"^Serving tiny at (http://127.0.0.1:\d+/v1)$", log, process)[1]
        with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=120) as made:
            yield made


def ask(client: openai.OpenAI, messages: Any = ASKED, **options: Any) -> Any:
    create: Any = client.chat.completions.create
    return create(model="tiny", messages=messages, **({"max_tokens": 120, "tools": TOOLS} | options))


def test_a_call_and_its_result_go_through_openai_s_client(client: openai.OpenAI) -> None:
    choice = ask(client).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "find")
    assert json.loads(call.function.arguments) == {"code": "7"}, "declared as a text"
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    choice = ask(client, [*ASKED, choice.message.model_dump(), result]).choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("stop", ANSWER, None)


def test_a_stream_has_the_same_call(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert (call.index, call.function.name, call.function.arguments) == (0, "find", CALLS[0]["function"]["arguments"])
    assert call.id.startswith("call_")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_without_tools_or_with_tool_choice_none_nothing_is_read_as_a_call(client: openai.OpenAI) -> None:
    unasked = [ask(client, tools=openai.omit), ask(client, tool_choice="none")]
    one, other = (reply.choices[0].message for reply in unasked)
    assert one.content == other.content
    assert one.tool_calls is None


def test_a_forced_call_is_refused_by_name(client: openai.OpenAI) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "find"}}):
        with pytest.raises(openai.BadRequestError, match="tool_choice: found"):
            ask(client, tool_choice=choice)


def test_chat_shows_calls_and_takes_results(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "said.json"
    lines = ["/undo", QUESTION, f"/result {RESULT}", f"/save {file}"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(model), "--tools", str(model / "tools.json"), "--max-new-tokens", "120"]) == 0
    assert capsys.readouterr().out == f"{SHOWN}{ANSWER}\n"
    (record,) = json.loads(file.read_text(encoding="utf-8"))
    assert record["tools"] == TOOLS
    roles = [message["role"] for message in record["conversations"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert record["conversations"][1] == {"role": "assistant", "content": "I look.", "tool_calls": CALLS}


def test_chat_refuses_results_without_calls_and_tools_without_a_release_for_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("/result here"))
    assert main(["chat", str(model), "--tools", str(model / "tools.json")]) == 2
    assert "/result: found no call in the last answer" in capsys.readouterr().err
    (tmp_path / "empty.json").write_text("[]")
    for file, release, message in [
        (model / "tools.json", "v2_6", "--tools: found them for openbmb/MiniCPM-V-2_6, expected a release"),
        (model / "tools.json", "v4_6", "tools: found tools, and a chat template that does not write them"),
        (model / "config.json", "v4_6", "config.json.name: found nothing, expected a name"),
        (tmp_path / "empty.json", "v4_6", "empty.json: found no function"),
        (tmp_path / "none.json", "v4_6", "none.json' that can be read"),
    ]:
        assert main(["chat", str(FIXTURES / release), "--tools", str(file), "Hi!"]) == 2
        assert message in capsys.readouterr().err
