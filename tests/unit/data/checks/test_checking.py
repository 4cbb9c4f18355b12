from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minicpmv.data.checks.checking import RecordChecker
from minicpmv.data.checks.duplicate_ids import IdRegister
from minicpmv.data.checks.lint import find_text_oddities
from minicpmv.data.records.reading import read_records
from minicpmv.data.records.record import RawRecord
from minicpmv.errors import Problem
from minicpmv.releases.table import VERSIONS
from tests.tiny import conversation


def problems_of(*values: Any, version: str | None = None) -> list[Problem]:
    records = [RawRecord(source="train.json", index=i, line=i + 2, value=value) for i, value in enumerate(values)]
    return problems_in(records, version=version)


def problems_in(records: list[RawRecord], *, version: str | None = None) -> list[Problem]:
    checker, ids = RecordChecker(version=None if version is None else VERSIONS[version]), IdRegister()
    for position, record in enumerate(records):
        ids.add(record, position)
    found = [problem for record in records for problem in checker.check(record)]
    return [*found, *(problem for _, problem in ids.judge(records).problems)]


def problem_of(*values: Any, version: str | None = None) -> Problem:
    (problem,) = problems_of(*values, version=version)
    return problem


def with_messages(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "a7", **fields, "conversations": list(messages)}


def with_texts(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"id": "a7", **fields, "conversations": conversation(*texts)}


USER, ASSISTANT = conversation("Why?", "So.")
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "record",
    [
        with_texts("Why?", "So."),
        with_texts("Why?", "So.", "And?", "Yes."),
        with_messages(SYSTEM, USER, ASSISTANT),
        with_texts("<image>\nWhy?", "So.", image="a.png"),
        with_texts("<ImageHere>\nWhy?", "So.", image="a.png"),
        with_texts("Why?", "So.", image="a.png"),
        with_texts("<image>", "So.", image={"<image>": "a.png"}),
        with_texts("<image>", "So.", "<ImageHere>", "So.", image=["a.png", "b.png"]),
        with_texts("Why?", "So.", image=["a.png", "b.png"]),
        with_texts("<image_01><image_00>", "So.", image={"<image_00>": "a.png", "<image_01>": "a.png"}),
        with_texts("Why?", "So.", "<image_0>?", "So.", image={"<image_0>": "a.png"}),
        with_texts("Why?", "So.", image={"<image_00>": "a.png", "<image_01>": "b.png"}),
        with_texts("Why?", "So.", image=None),
        with_texts("Why?", "So.", image=[]),
        with_texts("Why?", "So.", image={}),
        with_texts("Why?", "Write <image> there, or <image_00>."),
        with_texts("<image>\nWhich tag?", "The <image> tag.", image="a.png"),
        with_texts("Is <img> a tag?", "Yes."),
        {"conversations": conversation("No id?", "No."), "source": "extra keys are allowed", "width": 3},
    ],
)
def test_sound_records_have_no_problem(record: Any) -> None:
    assert problems_of(record) == []
    assert problems_of(record, version="2.6") == []


def test_a_problem_reads_well() -> None:
    assert str(problem_of(with_messages(USER, {"role": "gpt", "content": "So."}))) == (
        "train.json:2 record 0 (id 'a7') conversations[1].role: [D122] found the role 'gpt', "
        "expected user, assistant, system or tool\n  fix: write 'assistant'"
    )


def test_all_problems_are_reported_in_file_order() -> None:
    found = problems_of(
        5,
        with_messages(USER, {"role": "assistant", "content": " "}, {"role": "critic", "content": 3}),
        {"id": "b", "images": ["a.png"], "conversations": conversation("Why?", "")},
    )
    assert [problem.code for problem in found] == ["D110", "D126", "D122", "D124", "D126"]


def test_d107_repeated_keys(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(
        '[{"id": 1, "id": 2, "conversations": [{"role": "user", "content": "a", "content": "b"}, '
        '{"role": "assistant", "content": "c"}], "image": {"<image_00>": "a.png", "<image_00>": "b.png"}}]'
    )
    found = problems_in(read_records(file))
    assert [problem.code for problem in found] == ["D107", "D107", "D107"]
    assert [problem.where.rpartition(" ")[2] for problem in found] == ["2)", "image", "conversations[0]"]
    assert found[1].found == "the key '<image_00>' more than once"


@pytest.mark.parametrize(("value", "found"), [([1], "a list: [1]"), ("x", "text: 'x'"), (None, "null"), (True, "true")])
def test_d110_record_not_an_object(value: Any, found: str) -> None:
    problem = problem_of(value)
    assert (problem.code, problem.found, problem.where) == ("D110", found, "train.json:2 record 0")


@pytest.mark.parametrize("key", ["conversation", "messages", "Conversations", "conversations_"])
def test_d111_misspelt_conversations(key: str) -> None:
    problem = problem_of({"id": "a7", key: conversation("Why?", "So.")})
    assert (problem.code, problem.fix) == ("D111", f"rename '{key}' to 'conversations'")


def test_d111_missing_conversations() -> None:
    assert problem_of({"id": "a7", "text": "Why?"}).found == "the keys 'id', 'text'"
    assert problem_of({}).found == "no key at all"


@pytest.mark.parametrize("value", [1.5, True, ["a"], {}])
def test_d113_strange_id(value: Any) -> None:
    assert problem_of(with_texts("Why?", "So.") | {"id": value}).code == "D113"


def test_d114_repeated_record() -> None:
    problem = problem_of(
        with_texts("Why?", "So."), {"conversations": conversation("b", "c")}, with_texts("Why?", "So.")
    )
    assert problem.code == "D114"
    assert problem.where == "train.json:4 record 2 (id 'a7') id"
    assert problem.found == "the same record as record 0, with the same id"


def test_d114_other_records_may_share_an_id() -> None:
    assert problems_of(with_texts("Why?", "So."), with_texts("Why?", "No.")) == []


def test_d114_ids_of_two_files_do_not_meet() -> None:
    records = [RawRecord(source=name, index=0, line=1, value=with_texts("Why?", "So.")) for name in ("a", "b")]
    assert problems_in(records) == []


@pytest.mark.parametrize("value", [{}, "Why?", None])
def test_d115_conversations_not_a_list(value: Any) -> None:
    assert problem_of({"id": "a7", "conversations": value}).code == "D115"


def test_d116_too_few_messages() -> None:
    assert problem_of(with_messages()).found == "no message"
    problems = problems_of(with_messages(USER))
    assert [(problem.code, problem.found) for problem in problems] == [("D116", "one message")]


def test_d120_message_not_an_object() -> None:
    problem = problem_of(with_messages("Why?", ASSISTANT))
    assert (problem.code, problem.found) == ("D120", "text: 'Why?'")
    assert problem.where.endswith("conversations[0]")


def test_d121_message_without_role_or_content() -> None:
    found = problems_of(with_messages({"from": "human", "value": "Why?"}, {"role": "assistant"}))
    assert [problem.code for problem in found] == ["D121"] * 3
    assert [problem.fix for problem in found] == [
        "rename 'from' to 'role'",
        "rename 'value' to 'content'",
        "add 'content'",
    ]


@pytest.mark.parametrize(
    ("role", "fix"),
    [
        ("human", "write 'user'"),
        ("Assistant ", "write 'assistant'"),
        ("critic", "write 'user' for questions and 'assistant' for answers"),
        ("ipython", "write 'tool' for the result of a tool, and the call under 'tool_calls' of the answer before"),
        (None, "write 'user' for questions and 'assistant' for answers"),
    ],
)
def test_d122_unknown_role(role: Any, fix: str) -> None:
    problem = problem_of(with_messages({"role": role, "content": "Why?"}, ASSISTANT))
    assert (problem.code, problem.fix) == ("D122", fix)


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([ASSISTANT, USER], 0),
        ([USER, USER, ASSISTANT], 1),
        ([USER, ASSISTANT, ASSISTANT], 2),
        ([USER, SYSTEM, ASSISTANT], 1),
        ([USER, ASSISTANT, USER], 2),
        ([SYSTEM, ASSISTANT], 1),
        ([SYSTEM, USER], 1),
    ],
)
def test_d123_role_order(messages: list[Any], place: int) -> None:
    problem = problem_of(with_messages(*messages))
    assert problem.code == "D123"
    assert problem.where.endswith(f"conversations[{place}].role")


@pytest.mark.parametrize("content", [None, 3, ["Why?"], {"type": "text"}])
def test_d124_content_not_text(content: Any) -> None:
    problem = problem_of(with_messages({"role": "user", "content": content}, ASSISTANT))
    assert problem.code == "D124"
    assert problem.where.endswith("conversations[0].content")


@pytest.mark.parametrize(("answer", "found"), [("", "nothing"), (" \n\t", "white space only")])
def test_d126_empty_answer(answer: str, found: str) -> None:
    problem = problem_of(with_texts("Why?", answer))
    assert (problem.code, problem.found) == ("D126", found)
    assert problem.where.endswith("conversations[1].content")


def test_d127_empty_question() -> None:
    problem = problem_of(with_texts("Why?", "So.", " ", "So.", image="a.png"))
    assert problem.code == "D127"
    assert problem.where.endswith("conversations[2].content")


def test_d128_text_that_cannot_be_written() -> None:
    problem = problem_of(with_texts("Why?", "So \ud83d."))
    assert (problem.code, problem.found) == ("D128", "half of a surrogate pair at character 3: '\\ud83d'")


@pytest.mark.parametrize(
    ("value", "field"),
    [("So.", ""), ([], ""), ({"a": "So."}, ""), (["So.", 5], "[1]"), ([None], "[0]"), (["So \ud83d"], "[0]")],
)
def test_d129_references(value: Any, field: str) -> None:
    problem = problem_of(with_texts("Why?", "So.", references=value))
    assert problem.code == "D129"
    assert problem.where.endswith(f"references{field}")


@pytest.mark.parametrize("value", [5, True, "", " ", [None], ["a.png", 3], {"<image>": ["a.png"]}, [["a.png"]]])
def test_d130_image_value(value: Any) -> None:
    assert problem_of(with_texts("Why?", "So.", image=value)).code == "D130"


@pytest.mark.parametrize("keys", [["a"], ["<image>", "<image_00>"], ["<image_xx>"], ["<image_00> "]])
def test_d131_image_keys(keys: list[str]) -> None:
    found = problems_of(with_texts("Why?", "So.", image=dict.fromkeys(keys, "a.png")))
    assert [problem.code for problem in found] == ["D131"]


@pytest.mark.parametrize("path", ["https://example.com/a.png", "s3://bucket/a.png"])
def test_d132_address_instead_of_path(path: str) -> None:
    problem = problem_of(with_texts("Why?", "So.", image=[path]))
    assert problem.code == "D132"
    assert problem.where.endswith("image[0]")


@pytest.mark.parametrize("image", [None, [], {}, "a.png", ["a.png"]])
def test_d133_placeholder_without_image(image: Any) -> None:
    problem = problem_of(with_texts("<image><ImageHere>", "So.", image=image))
    assert problem.code == "D133"
    assert problem.where.endswith("conversations[0].content")
    assert problem.found == f"2 placeholders for {'1 image' if image else '0 images'}"


def test_d134_image_without_placeholder() -> None:
    problem = problem_of(with_texts("<image>", "So.", image=["a.png", "b.png", "c.png"]))
    assert (problem.code, problem.found) == ("D134", "1 placeholder for 3 images")
    assert problem.fix.startswith("add 2 placeholders")


def test_d135_key_that_no_text_holds() -> None:
    problem = problem_of(with_texts("<image_00>", "<image_01>", image={"<image_00>": "a.png", "<image_01>": "b.png"}))
    assert problem.code == "D135"
    assert problem.where.endswith("image['<image_01>']")


@pytest.mark.parametrize("image", [None, "a.png", {"<image_00>": "a.png"}])
def test_d136_placeholder_that_is_no_key(image: Any) -> None:
    text = "<image_00> and <image_01>" if isinstance(image, dict) else "<image_01>"
    problem = problem_of(with_texts(text, "So.", image=image))
    assert (problem.code, problem.found) == ("D136", "the placeholder '<image_01>'")


def test_d137_key_used_twice() -> None:
    assert (
        problem_of(with_texts("<image_00>", "So.", "<image_00>", "So.", image={"<image_00>": "a.png"})).code == "D137"
    )


@pytest.mark.parametrize("text", ["<Image>\nWhy?", "<img>", "<imagehere>", "< image >", "<image1>", "<image/>"])
def test_d138_lookalike(text: str) -> None:
    problem = problem_of(with_texts(text, "So.", image="a.png"))
    assert (problem.code, problem.fix) == ("D138", "correct the spelling")


def test_d138_placeholder_only_in_an_answer() -> None:
    problem = problem_of(with_texts("Why?", "<image> so.", image="a.png"))
    assert problem.code == "D138"
    assert problem.where.endswith("conversations[1].content")


def test_d151_system_turn_depends_on_the_version() -> None:
    record = with_messages(SYSTEM, USER, ASSISTANT)
    assert problem_of(record, version="2.0").code == "D151"
    assert problems_of(record, version="2.5") == problems_of(record) == []


def test_no_place_is_worded_for_sound_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wording takes as long as all the rest, and of millions of records most are sound."""
    monkeypatch.setattr(RawRecord, "where", lambda *_: pytest.fail("worded"))
    messages = [SYSTEM, *conversation("<image>\nWhy?", "So.", "And?", "Yes.")]
    record = RawRecord(source="train.json", index=0, line=1, value=with_messages(*messages, image="a.png"))
    assert not list(RecordChecker().check(record))
    assert not list(find_text_oddities(record))


@pytest.mark.parametrize(
    "record",
    [
        with_messages(USER),
        with_messages(SYSTEM, USER),
        with_texts("Why?", "So.", "And?"),
        with_texts("<image>\nWhy?", image="a.png"),
        with_texts("Why?", "So."),
        with_texts("Why?", "<think>\nHm.\n</think>\n\nSo.", "And?", "<think>\nHm.\n</think>\n\nYes."),
    ],
)
def test_a_record_that_is_only_asked_may_end_with_the_question(record: dict[str, Any]) -> None:
    assert not asked_problems(record)


@pytest.mark.parametrize(
    ("record", "code", "found", "expected"),
    [
        (with_messages(), "D116", "no message", "at least a question"),
        (with_messages(SYSTEM), "D123", "the role 'system' at the end", "'user'"),
        (with_messages(ASSISTANT), "D123", "the role 'assistant'", "'user'"),
        (with_texts("<image><image>\nWhy?", image="a.png"), "D133", None, None),
        (with_texts(" "), "D127", "white space only", "text or a placeholder such as <image>"),
    ],
)
def test_what_is_asked_is_judged_otherwise_as_what_is_trained(
    record: dict[str, Any], code: str, found: str | None, expected: str | None
) -> None:
    (problem,) = asked_problems(record)
    assert problem.code == code
    assert found in (None, problem.found)
    assert expected in (None, problem.expected)


def asked_problems(value: dict[str, Any]) -> list[Problem]:
    checker = RecordChecker(version=VERSIONS["4.5"], for_training=False)
    return list(checker.check(RawRecord(source="train.json", index=0, line=2, value=value)))
