"""Deliberately broken inputs, each with the code that names it: whole data files, records, image values, image files.

A ``Case`` is a name, the code, and what to write. Codes below D3 are problems, others notices.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import textwrap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
from PIL import Image

from minicpmv.data.records.formats.containers.gzip_files import FREE_BYTES
from tests.tiny import conversation, picture
from tests.unit.data.odd_images import huge_png

GOOD = {"id": "a7", "conversations": conversation("Why?", "So.")}
GOOD_TEXT = json.dumps([GOOD, {**GOOD, "id": "a8"}], indent=1)
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "number": 5,
    "negative": -1,
    "fraction": 1.5,
    "infinity": float("inf"),
    "nan": float("nan"),
    "text": "Why?",
    "empty_text": "",
    "empty_list": [],
    "list": [1],
    "nested_list": [[[[]]]],
    "empty_object": {},
    "object": {"a": 1},
}


_READS_ITS_YCBCR = int(PIL.__version__.partition(".")[0]) >= 13
"""Earlier releases of Pillow cannot read the uncompressed TIFF in these colours that they write."""


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    code: str
    data: bytes
    """Of the data file."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Beside it."""
    file: str = "train.json"
    """Name of the data file."""


def spoilt_images() -> Iterator[Case]:
    """Make files that are whole but for a stretch in the middle, in formats most of which have no checksum."""
    for kind in _FORMATS:
        data, name = _encode(kind), f"a.{kind.lower()}"
        for byte in (b"\0", b"\xff"):
            yield _image(f"{kind}_spoilt_{byte[0]}", "", name, "Why?", {name: _spoil(data, byte)})


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, GOOD_TEXT)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("000000.json"))
    return buffer.getvalue()


STRANGE_FILES: dict[str, bytes] = {
    "zip": _zip("train.json"),
    "xlsx": _zip("[Content_Types].xml"),
    "torch": _zip("archive/data.pkl"),
    "tar": _tar(),
    "bzip2": bz2.compress(GOOD_TEXT.encode()),
    "xz": lzma.compress(GOOD_TEXT.encode()),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "lz4": b"\x04\x22\x4d\x18" + bytes(100),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "rar": b"Rar!\x1a\x07\x01\x00" + bytes(100),
    "xls": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "sqlite": b"SQLite format 3\0" + bytes(100),
    "pickle": pickle.dumps([GOOD]),
    "numpy": b"\x93NUMPY\x01\0v\0{'descr': '<f4'}",
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "orc": b"ORC" + bytes(100),
    "avro": b"Obj\x01" + bytes(100),
    "gguf": b"GGUF" + bytes(100),
    "safetensors": struct.pack("<Q", 40) + b'{"__metadata__":{}}',
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
    "mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
    "heic": b"\0\0\0\x18ftypheic" + bytes(100),
    "wav": b"RIFF\x10\0\0\0WAVEfmt " + bytes(20),
    "avi": b"RIFF\x10\0\0\0AVI " + bytes(20),
    "mkv": b"\x1a\x45\xdf\xa3" + bytes(100),
    "annex": b"/annex/objects/SHA256E-s12--4d7a.json\n",
    "yaml_document": b"---\n- id: a7\n",
    "rtf": b"{\\rtf1\\ansi}",
    "binary": b"\x01\x02\x03\0\0\0\x04",
}
"""Beginnings of files that are neither records nor pictures, or whole ones where those are short."""


def all_cases() -> list[Case]:
    """Make every case; names do not repeat."""
    return [
        *_files(),
        *_strange_files(),
        *_cut_files(),
        *_records(),
        *_messages(),
        *_image_values(),
        *_image_files(),
        *_odd_texts(),
        *_objects(),
    ]


def _files() -> Iterator[Case]:
    one = json.dumps(GOOD)
    texts = {
        "empty": ("D103", b""),
        "spaces": ("D103", b" \n\t "),
        "byte_order_mark_alone": ("D103", b"\xef\xbb\xbf"),
        "open_bracket": ("D103", b"["),
        "open_brace": ("D103", b"[{"),
        "minus": ("D103", b"[-"),
        "comma_at_end": ("D103", f"[{one},".encode()),
        "unclosed_list": ("D103", f"[{one}".encode()),
        "word_begun": ("D103", b"[tru"),
        "open_string": ("D103", b'["abc'),
        "open_escape": ("D103", b'["abc\\'),
        "close_bracket": ("D102", b"]"),
        "two_lists": ("D102", b"[1][2]"),
        "no_comma": ("D102", f"[{one} {one}]".encode()),
        "no_colon": ("D102", b'[{"id" 5}]'),
        "wrong_bracket": ("D102", b'[{"id": 5]]'),
        "bare_word": ("D102", b"[cat]"),
        "two_words": ("D102", b"hello world"),
        "python_words": ("D102", b'[{"id": None}]'),
        "line_break_in_string": ("D102", b'["a\nb"]'),
        "bad_escape": ("D102", b'[{"a": "\\u12g4"}]'),
        "backslash_alone": ("D102", b'[{"a": \\}]'),
        "merge_marks": ("D102", f"[\n<<<<<<< HEAD\n{one}\n=======\n{one}\n>>>>>>> main\n]".encode()),
        "html": ("D170", b"<!DOCTYPE html><html><body>404</body></html>"),
        "xml": ("D170", b"<records></records>"),
        "git_lfs": ("D170", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        "double_comma": ("D102", f"[{one},,{one}]".encode()),
        "empty_list": ("D106", b"[]"),
        "empty_list_spaced": ("D106", b" [ \n ] "),
        "null": ("D105", b"null"),
        "number": ("D105", b"5"),
        "string": ("D105", b'"abc"'),
        "true": ("D105", b"true"),
        "utf16_le": ("D104", GOOD_TEXT.encode("utf-16")),
        "utf16_be": ("D104", b"\xfe\xff" + GOOD_TEXT.encode("utf-16-be")),
        "latin1": ("D104", GOOD_TEXT.replace("So", "S\u00f6").encode("latin-1")),
        "gbk": ("D104", GOOD_TEXT.replace("So", "\u8fd9\u662f").encode("gbk")),
        "shift_jis": ("D104", GOOD_TEXT.replace("So", "\u3053\u308c").encode("shift_jis")),
        "cut_utf8": ("D104", GOOD_TEXT.replace("So.", "\u8fd9").encode()[:-60] + b"\xe8\xbf"),
        "overlong_utf8": ("D104", b'["\xc0\xaf"]'),
        "surrogate_utf8": ("D104", b'["\xed\xa0\xbd"]'),
        "jpeg": ("D170", b"\xff\xd8\xff\xe0" + bytes(range(256))),
        "gzip": ("D172", b"\x1f\x8b\x08\x00" + bytes(range(256))),
        "pickle": ("D170", b"\x80\x04\x95\x10"),
        "deep_lists": ("D102", b"[" * 100_000),
        "deep_closed_lists": ("D102", b"[" * 100_000 + b"]" * 100_000),
        "deep_objects": ("D102", b'[{"a":' * 100_000),
    }
    for name, (code, data) in texts.items():
        yield Case(name=f"file_{name}", code=code, data=data)
    for name, value in VALUES.items():
        code = "D110"
        if not isinstance(value, dict):
            yield Case(name=f"record_{name}", code=code, data=_json([GOOD, value]))


def _strange_files() -> Iterator[Case]:
    """Make files of kinds that are not read, and containers with something wrong."""
    one = json.dumps(GOOD).encode()
    packed = gzip.compress(one + b"\n" + one)
    for name, data in STRANGE_FILES.items():
        yield Case(name=f"strange_{name}", code="D170", data=data)
    for name, file, data in (
        ("yaml", "train.yaml", b"- id: a7\n  conversations: []\n"),
        ("csv", "train.txt", b"id,question\n1,Why?\n"),
        ("tfrecord", "data.tfrecord-00000-of-00001", bytes(range(200))),
        ("packed_png", "train.json.gz", gzip.compress(_encode("PNG"))),
        ("packed_twice", "train.jsonl.gz.gz", gzip.compress(packed)),
        ("packed_parquet", "train.parquet.gz", gzip.compress(b"PAR1" + bytes(100))),
    ):
        yield Case(name=f"strange_{name}", code="D170", data=data, file=file)
    lists = {"train": [GOOD], "test": [GOOD]}
    yield Case(name="several_lists", code="D171", data=_json(lists))
    yield Case(name="several_lists_json5", code="D171", data=_json(lists).replace(b'"', b"'"))
    for name, data in {
        "cut": packed[:-20],
        "head": packed[:10],
        "spoilt": packed[:20] + b"\xff\xff" + packed[22:],
        "with_more": packed + b"more",
        "bomb": gzip.compress(bytes(FREE_BYTES + 1)),
    }.items():
        yield Case(name=f"gzip_{name}", code="D172", data=data, file="train.jsonl.gz")
    for name, text in {
        "one_column": "id\n1\n",
        "repeated_column": "id,id\n1,2\n",
        "spaced_header": "id, question,answer\n1,Why?,So.\n",
        "too_few": "id,question,answer\n1,Why?\n",
        "too_many": "id,question,answer\n1,Why?,So, and so.\n",
        "open_quote": 'id,question,answer\n1,Why?,"So.\n2,How?,So.\n',
        "text_after_quote": 'id,question,answer\n1,"Why"?,So.\n',
        "old_mac": "id,question\r1,Why?\r",
    }.items():
        yield Case(name=f"csv_{name}", code="D173", data=text.encode(), file="train.csv")
    rows = b"question,image,answer\nWhy?,a.png,So.\nHow?,,So.\n"
    yield Case(name="csv_empty_cell", code="D322", data=rows, file="train.csv", files={"a.png": _encode("PNG")})
    rows = rows.replace(b"a.png", b"")
    yield Case(name="csv_empty_column", code="D322", data=rows, file="train.csv")
    yield Case(name="csv_empty_question", code="D111", data=b"id,question,answer\n1,,So.\n", file="train.csv")
    yield Case(name="csv_empty_answer", code="D116", data=b"id,question,answer\n1,Why?,\n", file="train.csv")
    yield Case(name="csv_classes", code="D111", data=b"image,label\na.png,cat\n", file="train.csv")
    yield Case(name="csv_header_alone", code="D106", data=b"id,question\n", file="train.csv")
    yield Case(name="csv_latin1", code="D104", data="id,q\n1,é".encode("latin-1"), file="train.csv")
    yield Case(name="csv_empty", code="D103", data=b"", file="train.csv")
    for name, cell in {
        "python": "[{'role': 'user', 'content': 'Why?'}]",
        "cut": '[{""role"": ""user""',
        "more": "[] and more",
        "deep": "[" * 100_000,
    }.items():
        data = f'id,conversations\n1,"{cell}"\n'.encode()
        yield Case(name=f"cell_{name}", code="D174", data=data, file="train.csv")
    yield Case(name="wrapped", code="D330", data=_json({"version": 1, "data": [GOOD]}))
    yield Case(name="wrapped_json5", code="D330", data=_json({"data": [GOOD]}).replace(b'"', b"'"))
    yield Case(name="lone_record", code="D105", data=_json({**GOOD, "references": ["So."]}))
    yield Case(name="lone_record_of_objects", code="D105", data=_json({**GOOD, "boxes": [{"x": 1}]}))
    yield Case(name="by_name", code="D105", data=_json({"a": GOOD, "b": GOOD}))
    yield Case(name="registry", code="D105", data=_json({"demo": {"file_name": "demo.json"}}))


def _cut_files() -> Iterator[Case]:
    """Cut a good file at every few characters."""
    text = GOOD_TEXT.rstrip("]\n ")
    for end in range(1, len(text), 17):
        yield Case(name=f"cut_{end}", code="D103", data=text[:end].encode())


def _records() -> Iterator[Case]:
    record = {
        "no_conversations": ("D111", {"id": "a7"}),
        "dialog_key": ("D111", {"dialog": GOOD["conversations"]}),
        "misspelt": ("D111", {"conversatons": GOOD["conversations"]}),
        "upper": ("D111", {"Conversations": GOOD["conversations"]}),
        "spaced": ("D111", {" conversations": GOOD["conversations"]}),
        "picture_key": ("D112", {**GOOD, "picture": ["a.png"]}),
        "two_image_keys": ("D117", {**GOOD, "image": "a.png", "images": ["b.png"]}),
        "two_styles": ("D117", {**GOOD, "messages": GOOD["conversations"]}),
        "part_of_a_sound": ("D118", {"messages": [{"role": "user", "content": [{"type": "audio", "path": "a.wav"}]}]}),
        "film_of_a_number": ("D130", {**GOOD, "video": 5}),
        "film_inside": ("D130", {**GOOD, "video": "data:video/mp4;base64,AAAA"}),
        "film_of_no_frames": ("D130", {**GOOD, "video": {"video": []}}),
        "film_under_a_name": ("D131", {**GOOD, "video": {"clip": "a.mp4"}}),
        "film_at_an_address": ("D132", {**GOOD, "video": "https://example.com/a.mp4"}),
        "film_before_its_start": ("D144", {**GOOD, "video": {"video": "a.mp4", "start": -1}}),
        "film_of_words": ("D144", {**GOOD, "video": {"video": "a.mp4", "times": ["now"]}}),
        "film_that_is_not_there": ("D145", {**GOOD, "video": "nowhere.mp4"}),
        "films_without_marks": (
            "D134",
            {"video": ["a.mp4", "b.mp4"], "conversations": conversation("<video>?", "So.")},
        ),
        "mark_without_a_film": ("D133", {"conversations": conversation("<video>Why?", "So.")}),
        "key_of_no_film": ("D136", {"video": "a.mp4", "conversations": conversation("<video_00>Why?", "So.")}),
        "nearly_a_film": ("D138", {"conversations": conversation("<Video>Why?", "So.")}),
        "number_of_a_film": ("D160", {**GOOD, "video": {"video": "a.mp4", "speed": 2}}),
        "number_of_a_film_as_text": ("D160", {**GOOD, "video": {"video": "a.mp4", "speed": "2"}}),
        "film_without_a_path": ("D130", {**GOOD, "video": {"fps": 2}}),
        "rejected_key": ("D180", {**GOOD, "rejected": ""}),
        "label_key": ("D160", {**GOOD, "label": 0}),
        "boxes_key": ("D160", {**GOOD, "regions": [[1, 2, 3, 4]]}),
        "film_key": ("D160", {**GOOD, "clip": "a.mp4"}),
        "text_key": ("D160", {**GOOD, "caption": "A cat on a sofa. " * 9}),
        "source_key": ("D320", {**GOOD, "source": "coco", "meta": {"split": 1}}),
        "question_and_answer": ("D321", {"question": "Why?", "answer": "So."}),
        "two_answers_to_a_question": ("D117", {"question": "Why?", "answer": "So.", "response": "No."}),
        "history_of_words": ("D115", {"query": "Why?", "response": "So.", "history": ["Why?"]}),
        "nothing_is_learnt": ("D163", {"conversations": [GOOD["conversations"][0], _answer(weight=0)]}),
        "two_thoughts": ("D117", {"conversations": [GOOD["conversations"][0], _answer(reasoning="a", thinking="b")]}),
        "thoughts_twice": (
            "D164",
            {"conversations": [GOOD["conversations"][0], _answer(reasoning="a", content="<think>b</think>So.")]},
        ),
        "part_of_a_number": ("D118", {"messages": [{"role": "user", "content": [7]}]}),
        "img_key": ("D112", {**GOOD, "img": "a.png"}),
        "upper_image": ("D112", {**GOOD, "Image": "a.png"}),
        "no_message": ("D116", {"conversations": []}),
        "one_message": ("D116", {"conversations": conversation("Why?")}),
        "two_answers": ("D123", _with("user", "assistant", "assistant")),
        "two_questions": ("D123", _with("user", "user", "assistant")),
        "answer_first": ("D123", _with("assistant", "user")),
        "question_last": ("D123", _with("user", "assistant", "user")),
        "late_system": ("D123", _with("user", "assistant", "system", "user", "assistant")),
        "two_systems": ("D123", _with("system", "system", "user", "assistant")),
        "system_alone": ("D123", _with("system", "assistant")),
    }
    for name, (code, value) in record.items():
        yield Case(name=f"record_{name}", code=code, data=_json([value]))
    for name, value in VALUES.items():
        if isinstance(value, (bool, float, list, dict)):
            yield Case(name=f"id_{name}", code="D113", data=_json([{**GOOD, "id": value}]))
        if not isinstance(value, list):
            yield Case(name=f"conversations_{name}", code="D115", data=_json([{"conversations": value}]))
    yield Case(
        name="same_ids", code="D331", data=_json([GOOD, {"id": "a7", "conversations": conversation("How?", "So.")}])
    )
    yield Case(name="same_records", code="D114", data=_json([GOOD, GOOD]))
    yield Case(name="same_records_in_other_order", code="D114", data=_json([GOOD, dict(reversed(GOOD.items()))]))
    yield Case(name="same_ids_number_and_text", code="D114", data=_json([{**GOOD, "id": 7}, {**GOOD, "id": "7"}]))
    yield Case(name="repeated_key", code="D107", data=b'[{"id": 1, "id": 2, "conversations": []}]')
    yield Case(name="repeated_conversations", code="D107", data=b'[{"conversations": [], "conversations": []}]')
    yield Case(
        name="repeated_role",
        code="D107",
        data=b'[{"conversations": [{"role": "user", "role": "user", "content": "Why?"}]}]',
    )


def _messages() -> Iterator[Case]:
    for name, value in VALUES.items():
        if not isinstance(value, dict):
            code = "D120" if value is not None else "D116"  # null counts as left out
            yield Case(name=f"message_{name}", code=code, data=_json([{"conversations": [value, value]}]))
        if not isinstance(value, str):
            code = "D124" if not isinstance(value, list) else "D118" if value else "D127"
            yield _message(f"content_{name}", code, {"role": "user", "content": value})
        yield _message(f"role_{name}", "D122", {"role": value, "content": "Why?"})
    for role in (
        "human",
        "gpt",
        "User",
        "USER",
        "user ",
        "bot",
        "ipython",
        "\u0000",
        "us\u00e9r",
    ):
        yield _message(f"role_{role!r}", "D122", {"role": role, "content": "Why?"})
    for name, tools in {"text": "x", "number": 3, "no_name": [{}], "list": [[]]}.items():
        yield Case(name=f"tools_{name}", code="D166", data=_json([{**GOOD, "tools": tools}]))
        answer = {"role": "assistant", "tool_calls": tools}
        yield Case(
            name=f"calls_{name}", code="D166", data=_json([{"conversations": [GOOD["conversations"][0], answer]}])
        )
    for role in ("tool", "function", "observation"):
        yield _message(f"role_{role!r}", "D123", {"role": role, "content": "Why?"})
    for name, message in {
        "nothing": {},
        "no_role": {"content": "Why?"},
        "no_content": {"role": "user"},
        "text_key": {"role": "user", "text": "Why?"},
        "upper": {"Role": "user", "Content": "Why?"},
    }.items():
        yield _message(f"message_{name}", "D121", message)
    for key in ("image", "images", "mask", "tool_calls", "function_call"):
        yield _message(f"message_key_{key}", "D160", {"role": "user", "content": "Why?", key: "x"})
    for key in ("loss", "weight", "train"):
        yield _message(f"question_{key}", "D162", {"role": "user", "content": "Why?", key: 1})
        for name, value in {
            "text": "0",
            "negative": -1,
            "nan": float("nan"),
            "infinity": float("inf"),
            "huge": 10**400,
            "list": [0],
        }.items():
            data = _json([{"conversations": [GOOD["conversations"][0], _answer(**{key: value})]}])
            yield Case(name=f"answer_{key}_{name}", code="D162", data=data)
    for name, written in {
        "a_half": {"loss": 0.5},
        "against": {"loss": True, "weight": 0},
        "two": {"weight": 1, "loss_weight": 2},
    }.items():
        data = _json([{"conversations": [GOOD["conversations"][0], _answer(**written)]}])
        yield Case(name=f"weight_{name}", code="D162", data=data)
    for name, text in {
        "ref": "<ref-object>?",
        "box": "<bbox>?",
        "img": "<img>a.png</img>?",
        "video": "<|video_pad|>Why?",
    }.items():
        yield Case(name=f"mark_of_a_{name}", code="D161", data=_json([{"conversations": conversation(text, "So.")}]))
    for name, blank in {
        "nothing": "",
        "space": " ",
        "lines": "\n\n",
        "tab": "\t",
        "wide": "\u3000",
        "nbsp": "\u00a0",
    }.items():
        yield Case(name=f"answer_{name}", code="D126", data=_json([{"conversations": conversation("Why?", blank)}]))
        yield Case(name=f"question_{name}", code="D127", data=_json([{"conversations": conversation(blank, "So.")}]))
    for name, text in {"high": "\ud83d", "low": "a\ude00", "swapped": "\ude00\ud83d", "middle": "So \ud800 so"}.items():
        yield Case(name=f"surrogate_{name}", code="D128", data=_json([{"conversations": conversation("Why?", text)}]))
    for name, value in {"text": "So.", "empty": [], "number": 5, "mixed": ["So.", 5], "half": ["\ud83d"]}.items():
        fields = {"conversations": conversation("Why?", "So."), "references": value}
        yield Case(name=f"references_{name}", code="D129", data=_json([fields]))
    for name, text in {"alone": "\0", "end": "So.\0", "many": "S\0o\0.\0"}.items():
        yield Case(name=f"nul_{name}", code="D119", data=_json([{"conversations": conversation("Why?", text)}]))


def _image_values() -> Iterator[Case]:
    good = {"a.png": _encode("PNG"), "b.png": _encode("PNG")}
    for name, value in VALUES.items():
        if value not in (None, "", [], {}, "Why?") and not isinstance(value, dict):
            yield _image(f"image_{name}", "D130", value)
        if value != "Why?":
            yield _image(f"image_list_{name}", "D130" if value is not None else "D133", [value], "<image>")
            code = "D130" if value is not None else "D136"
            yield _image(f"image_dict_{name}", code, {"<image_00>": value}, "<image_00>")
    for key in ("first", "", "<image>2", "image_00", "<image_a>", "<Image_00>", "<image_00> ", "<image_-1>"):
        yield _image(f"image_key_{key!r}", "D131", {key: "a.png"}, "Why?", good)
    for address in ("http://a.de/a.png", "https://a.de/a.png", "s3://a/a.png", "ftp://a/a.png"):
        yield _image(f"address_{address[:5]}", "D132", address)
    yield _image("spare_placeholder", "D133", None, "<image> Why?")
    yield _image("two_placeholders", "D133", "a.png", "<image><image> Why?", good)
    yield _image("mixed_placeholders", "D133", ["a.png"], "<image> or <ImageHere>", good)
    yield _image("too_few_placeholders", "D134", ["a.png", "b.png"], "<image> Why?", good)
    yield _image("unused_key", "D135", {"<image_00>": "a.png", "<image_01>": "b.png"}, "<image_00>", good)
    yield _image("unknown_key", "D136", {"<image_00>": "a.png"}, "<image_00><image_01>", good)
    yield _image("key_without_images", "D136", None, "<image_00> Why?")
    yield _image("key_of_a_list", "D136", ["a.png"], "<image_00> Why?", good)
    yield _image("used_twice", "D137", {"<image_00>": "a.png"}, "<image_00><image_00>", good)
    for tag in ("<img>", "<Image>", "<IMAGE>", "< image >", "<image/>", "<imagehere>"):
        yield _image(f"nearly_{tag}", "D138", "a.png", f"{tag} Why?", good)
    paths = ("no.png", "A.PNG", "a.jpg", "no/a.png", "no\\a.png", "a.png\0", "a.png/b.png", ".", "..", "/", "~/a.png")
    odd = (
        "/dev/null",
        "/dev/zero",
        "\ud83d.png",
        "\n",
        "a\nb",
        "x" * 300,
        "x/" * 3000,
        "\u202egnp.a",
        "*.png",
        "$HOME/a.png",
    )
    for path in (
        *paths,
        *odd,
        "file:///a.png",
        " a.png",
        "a.png ",
        "C:\\a.png",
        "//server/a.png",
        "a.png?raw=1",
        "%61.png",
    ):
        code = "D130" if not path.strip() else "D141"
        yield _image(f"path_{path[:20]!r}", code, path, "Why?", good)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        text = base64.b64encode(_encode(kind)).decode()
        yield _image(f"bare_base64_{kind}", "D175", text)
        yield _image(f"bare_base64_{kind}_in_lines", "D175", "\n".join(textwrap.wrap(text, 76)))
    yield _image("path_outside", "D308", "../a.png", "Why?", {"../a.png": good["a.png"]})
    yield _image("path_outside_and_in", "D308", "x/../../a.png", "Why?", {"../a.png": good["a.png"], "x/y": b""})


_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "PCX", "SGI", "DDS", "QOI")


def _image_files() -> Iterator[Case]:
    for kind in _FORMATS:
        data, name = _encode(kind), f"a.{kind.lower()}"
        for part in ("head", "half", "most"):
            end = {"head": 6, "half": len(data) // 2, "most": len(data) - max(40, len(data) // 10)}[part]
            yield _image(f"{kind}_{part}", "D142", name, "Why?", {name: data[:end]})
    png = _encode("PNG")
    garbage = {
        "empty": b"",
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "text": b"not found\n",
        "html": b"<html><body>403 Forbidden</body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="5" height="5"/>',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n",
        "zip": b"PK\x03\x04" + bytes(100),
        "gzip": b"\x1f\x8b\x08" + bytes(100),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "json": b"[]",
        "base64": b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        "png_signature": png[:8],
        "png_header": png[:33],
        "png_twice_cut": png[:40] + png[:40],
        "png_bad_checksum": png[:29] + b"\0\0\0\0" + png[33:],
        "png_zero_width": png[:16] + struct.pack(">I", 0) + png[20:],
        "png_zeros_inside": _spoil(png, b"\0"),
        "png_ones_inside": _spoil(png, b"\xff"),
        "png_newlines": png.replace(b"\r\n", b"\n"),
        "dds_no_format": b"DDS |\0\0\0\x0f\x10\0\0" + bytes(116),
        "png_without_pixels": huge_png(50, 40),
        "png_as_text": png.decode("latin-1").encode(),
        "jpeg_start": b"\xff\xd8",
        "jpeg_start_end": b"\xff\xd8\xff\xd9",
        "jpeg_no_scan": _encode("JPEG")[:200] + b"\xff\xd9",
        "gif_header": b"GIF89a\x05\0\x05\0\0\0\0",
        "gif_no_frame": b"GIF89a\x05\0\x05\0\0\0\0;",
        "bmp_header": b"BM" + bytes(52),
        "tiff_header": b"II*\0\x08\0\0\0",
        "tiff_loop": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "webp_header": b"RIFF\x10\0\0\0WEBPVP8 " + bytes(20),
        "ppm_no_pixels": b"P6 5 5 255\n",
        "ppm_huge_number": b"P6 99999999999999999999 5 255\n",
        "ppm_negative": b"P6 -5 5 255\n" + bytes(75),
        "xbm": b"#define a_width 5",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n",
        "numpy": b"\x93NUMPY\x01\0v\0{'descr': '<f4'}",
    }
    for name, data in garbage.items():
        yield _image(f"garbage_{name}", "D142", "a.png", "Why?", {"a.png": data})
    for width, height in ((20_000, 20_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (1, 200_000_000)):
        yield _image(f"huge_{width}_{height}", "D143", "a.png", "Why?", {"a.png": huge_png(width, height)})
    bitmap = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield _image("huge_bmp", "D143", "a.bmp", "Why?", {"a.bmp": bitmap})
    yield _image("huge_ppm", "D143", "a.ppm", "Why?", {"a.ppm": b"P6 30000 30000 255\n"})
    gif = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;"
    yield _image("huge_gif", "D143", "a.gif", "Why?", {"a.gif": gif})
    yield from _odd_images()
    yield from _deep_images()


def _odd_images() -> Iterator[Case]:
    for kind, extension in (("PNG", "jpg"), ("JPEG", "png"), ("GIF", "png"), ("BMP", "jpeg"), ("WEBP", "jpg")):
        name = f"a.{extension}"
        yield _image(f"{kind}_in_{extension}", "D301", name, "Why?", {name: _encode(kind)})
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        for kind in ("JPEG", "PNG", "WEBP"):
            name = f"a.{kind.lower()}"
            yield _image(f"{kind}_turned_{turn}", "D302", name, "Why?", {name: _encode(kind, exif=exif)})
    frames = {"save_all": True, "append_images": [picture(seed=1)]}
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        name = f"a.{kind.lower()}"
        yield _image(f"{kind}_frames", "D303", name, "Why?", {name: _encode(kind, **frames)})
    for mode, kind, code in (
        ("CMYK", "JPEG", "D304"),
        ("CMYK", "TIFF", "D304"),
        ("LAB", "TIFF", "D304"),
        ("YCbCr", "TIFF", "D304" if _READS_ITS_YCBCR else "D142"),
        ("P", "PNG", "D304"),
        ("P", "BMP", "D304"),
        ("F", "TIFF", "D305"),
        ("I", "TIFF", "D305"),
        ("RGBA", "PNG", "D306"),
        ("RGBA", "WEBP", "D306"),
        ("LA", "PNG", "D306"),
    ):
        data = _encode(kind, picture().convert("L").convert(mode) if mode in "FI" else _in_mode(mode))
        yield _image(f"{kind}_{mode}", code, f"a.{kind.lower()}", "Why?", {f"a.{kind.lower()}": data})
    deep = Image.fromarray(np.full((40, 50), 1000, np.uint16))
    for kind in ("PNG", "TIFF", "PPM"):
        name = f"a.{kind.lower()}"
        yield _image(f"{kind}_16_bit", "D305", name, "Why?", {name: _encode(kind, deep)})
    yield _image("PNG_transparent_colour", "D306", "a.png", "Why?", {"a.png": _encode("PNG", transparency=(0, 0, 0))})


def _deep_images() -> Iterator[Case]:
    """Make images whose values differ, and of which one shade would be left."""
    ramp = np.linspace(0, 1, 2000).reshape(40, 50)
    for name, kind, values in (
        ("fractions", "TIFF", ramp.astype(np.float32)),
        ("below_zero", "TIFF", (-5 * ramp).astype(np.float32)),
        ("depths", "PNG", (300 + 60_000 * ramp).astype(np.uint16)),
        ("depths_wide", "TIFF", (300 + 1_000_000 * ramp).astype(np.int32)),
    ):
        file = f"a.{kind.lower()}"
        yield _image(f"deep_{name}", "D177", file, "Why?", {file: _encode(kind, Image.fromarray(values))})


def _in_mode(mode: str) -> Image.Image:
    if mode in ("RGBA", "LA"):
        glass = picture().convert(mode)
        glass.putalpha(100)
        return glass
    if mode != "LAB":
        return picture().convert(mode)
    return Image.merge("LAB", picture().split())


def _odd_texts() -> Iterator[Case]:
    marks = ("<|im_end|>", "<|im_start|>user", "</s>", "<s>", "<unk>", "<|endoftext|>", "<|eot_id|>", "[/INST]")
    more = ("<image>", "<ImageHere>", "<image_00>", "</image>", "<slice>", "<|image_pad|>", "<end_of_turn>", "<pad>")
    for mark in (*marks, *more):
        yield Case(name=f"mark_{mark}", code="D311", data=_json([{"conversations": conversation("Why?", f"a {mark}")}]))
    for character in "\x01\x07\x08\x0b\x0c\x1b\x7f\x80\x9f\ufeff\u202e\u2066":
        value = {"conversations": conversation("Why?", f"So{character}.")}
        yield Case(name=f"control_{ord(character):04x}", code="D312", data=_json([value]))
    for name, text in {"windows": "a\r\nb", "old_mac": "a\rb", "end": "a\r"}.items():
        yield Case(name=f"return_{name}", code="D313", data=_json([{"conversations": conversation(text, "So.")}]))
    yield Case(name="lost_character", code="D314", data=_json([{"conversations": conversation("Why\ufffd", "So.")}]))


def _objects() -> Iterator[Case]:
    for name, objects in {
        "too_few": {"ref": ["cat"], "bbox": []},
        "too_many": {"ref": ["cat"], "bbox": [[1, 2, 3, 4], [1, 2, 3, 4]]},
        "outside": {"ref": ["cat"], "bbox": [[1, 2, 300, 4]]},
        "turned": {"ref": ["cat"], "bbox": [[3, 2, 1, 4]]},
        "parts_as_pixels": {"ref": ["cat"], "bbox": [[0.1, 0.2, 0.3, 0.4]]},
        "beyond_one": {"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "bbox_type": "norm1"},
        "unknown_unit": {"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "bbox_type": "cm"},
        "point": {"ref": ["cat"], "bbox": [[1, 2]]},
        "huge": {"ref": ["cat"], "bbox": [[1, 2, 3, 10**400]]},
        "words": {"ref": ["cat"], "bbox": ["1 2 3 4"]},
        "no_name": {"ref": [""], "bbox": [[1, 2, 3, 4]]},
        "no_list": {"ref": "cat", "bbox": [[1, 2, 3, 4]]},
        "no_such_image": {"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "image_id": [1]},
        "images_of_others": {"ref": ["cat"], "bbox": [[1, 2, 3, 4]], "image_id": [0, 0]},
    }.items():
        value = {
            "image": "a.png",
            "conversations": conversation("Where is <ref-object>?", "<bbox>"),
            "objects": objects,
        }
        yield Case(name=f"objects_{name}", code="D165", data=_json([value]), files={"a.png": _encode("PNG")})


def _answer(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "So.", **fields}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _with(*roles: str) -> dict[str, Any]:
    return {"conversations": [{"role": role, "content": "Hm."} for role in roles]}


def _message(name: str, code: str, message: dict[str, Any]) -> Case:
    return Case(name=name, code=code, data=_json([{"conversations": [message, conversation("", "So.")[1]]}]))


def _image(name: str, code: str, image: Any, text: str = "Why?", files: dict[str, bytes] | None = None) -> Case:
    value = {"id": "a7", "image": image, "conversations": conversation(text, "So.")}
    return Case(name=name, code=code, data=_json([value]), files=files or {})


def _encode(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, format=kind, **options)
    return buffer.getvalue()


def _spoil(data: bytes, byte: bytes) -> bytes:
    """Overwrite a stretch in the middle, headers left whole."""
    start = len(data) // 2
    return data[:start] + byte * 200 + data[start + 200 :]
