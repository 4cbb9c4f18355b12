"""The comparison with other trainers, without their environments."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import FIXTURES
from benchmarks.peers.__main__ import main
from benchmarks.peers.environments import pins_of
from benchmarks.peers.inputs import KINDS, RECORDS_OF_A_STEP, ROW, Places, make_inputs, write_records
from benchmarks.peers.released import MissingCode, find_code, lay_code, mend
from benchmarks.peers.running import RunFailed, figures_of, run_watched
from benchmarks.peers.table import write_table
from benchmarks.peers.ways import LEFT_OUT, METHODS, WAYS, Run, environment_name, plan, words_of
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.data.sources.loading import load_records
from minicpmv.processing.processor import MiniCPMVProcessor

_PEERS = {(way.peer, kind) for way in WAYS.values() for kind in way.kinds if way.peer != "ours"}
_PLACES = Places(*(Path(name) for name in ("model", "ours", "swift", "factory", "trl")))
_RUNS = list(plan(list(KINDS), METHODS, list(WAYS), rounds=1))


def test_each_round_begins_a_kind_and_method_with_ours_and_ends_before_the_next() -> None:
    runs = list(plan(["2.6", "4.6"], METHODS, list(WAYS), rounds=2))
    groups = list(dict.fromkeys((run.round, run.kind, run.method) for run in runs))
    assert groups == sorted(groups, key=lambda group: (group[0], group[1], METHODS.index(group[2])))
    for group in groups:
        ways = [run.way for run in runs if (run.round, run.kind, run.method) == group]
        expected = [name for name, way in WAYS.items() if group[1] in way.kinds and (*group[1:], name) not in LEFT_OUT]
        assert ways == expected
        assert ways[0] == "ours"


@pytest.mark.parametrize("run", [run for run in _RUNS if WAYS[run.way].peer != "ours"], ids=str)
def test_a_peer_is_told_the_same_step_as_all_others(run: Run) -> None:
    words = words_of(run, _PLACES, Path("output"), device="cpu", precision="fp32")

    def told(flag: str) -> str:
        return words[words.index(flag) + 1]

    batch, accumulated = told("--per_device_train_batch_size"), told("--gradient_accumulation_steps")
    assert int(batch) * int(accumulated) == RECORDS_OF_A_STEP
    ours = words_of(Run(1, run.kind, run.method, "ours"), _PLACES, Path("output"), device="cpu", precision="fp32")
    for flag in ("--learning_rate", "--max_steps", "--weight_decay", "--adam_beta2", "--lr_scheduler_type", "--bf16"):
        assert told(flag) == ours[ours.index(flag) + 1], flag


@pytest.mark.parametrize("name", sorted({environment_name(*each) for each in _PEERS}))
def test_pins_are_exact(name: str) -> None:
    pins = pins_of(name).read_text(encoding="utf-8").splitlines()
    assert not [line for line in pins if not re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert {"torch==2.13.0", "torchvision==0.28.0"} <= set(pins)  # 0.28 is made for 2.13


@pytest.mark.parametrize(
    ("peer", "kind", "pin"),
    [
        ("ms_swift", "2.6", "ms-swift==4.6.0"),
        ("ms_swift", "4.6", "ms-swift==4.6.0"),
        ("llama_factory", "2.6", "llamafactory==0.9.5"),
        ("trl", "4.6", "trl==1.16.0"),
    ],
)
def test_labels_name_the_pinned_version(peer: str, kind: str, pin: str) -> None:
    assert pin in pins_of(environment_name(peer, kind)).read_text(encoding="utf-8").splitlines()
    version = pin.partition("==")[2]
    assert all(version in way.label for way in WAYS.values() if way.peer == peer)


def _records(folder: Path) -> Places:
    return write_records(folder, FIXTURES / "v2_6")


def test_every_format_holds_the_same_records_in_the_same_order(tmp_path: Path) -> None:
    places = _records(tmp_path)
    ours = [json.loads(line) for line in places.ours.read_text(encoding="utf-8").splitlines()]
    pictures = [places.ours.parent / record["image"] for record in ours]
    asked = [record["conversations"][0]["content"].removeprefix("<image>\n") for record in ours]
    answers = [record["conversations"][1]["content"] for record in ours]

    swift = [json.loads(line) for line in places.swift.read_text(encoding="utf-8").splitlines()]
    assert [each["messages"][0]["content"] for each in swift] == [f"<image>{text}" for text in asked]
    factory = json.loads((places.factory / "records.json").read_text(encoding="utf-8"))
    assert [each["messages"][0]["content"] for each in factory] == [f"<image>\n{text}" for text in asked]
    for theirs in (swift, factory):
        assert [each["messages"][1]["content"] for each in theirs] == answers
        assert [Path(each["images"][0]) for each in theirs] == pictures

    trl = [json.loads(line) for line in (places.trl / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["prompt"][0]["content"] for each in trl] == asked
    assert [each["completion"][0]["content"] for each in trl] == answers
    for each, picture in zip(trl, pictures, strict=True):
        assert (places.trl / each["images_file_names"][0]).read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_row_holds_the_records_of_one_step(kind: str, tmp_path: Path) -> None:
    places = make_inputs(tmp_path, kind, small=True)
    dataset = ConversationDataset(
        load_records(places.ours), MiniCPMVProcessor.from_pretrained(places.model), max_length=ROW
    )
    lengths = [len(sample["input_ids"]) for sample in dataset]
    assert len(lengths) == 2 * RECORDS_OF_A_STEP
    for start in (0, RECORDS_OF_A_STEP):
        assert sum(lengths[start : start + RECORDS_OF_A_STEP]) <= ROW
    assert sum(lengths[: RECORDS_OF_A_STEP + 1]) > ROW
    assert lengths[0] + sum(lengths[RECORDS_OF_A_STEP:]) > ROW  # the third step begins again with the first record


def _events(**last: Any) -> list[dict[str, Any]]:
    batches = [(100, 10), (120, 12)]
    lines: list[dict[str, Any]] = [{"event": "begin", "time": 5.0, "learning": 7, "dtypes": ["float32"]}]
    for step, (time, processor) in enumerate([(10.0, 8.0), (14.0, 20.0), (18.0, 24.0)], start=1):
        for positions, trained in batches:
            lines.append({"event": "batch", "time": time, "positions": positions, "trained": trained * step})
        lines.append({"event": "step", "time": time, "step": step, "processor": processor})
        lines.append({"event": "loss", "time": time, "step": step, "loss": 3.0 - step})
    return [*lines, {"event": "end", "time": 18.5, **last}]


def test_rates_leave_the_first_step_out() -> None:
    figures = figures_of(_events(), started=1.0, memory=3 * 2**30, records_of_a_step=4)
    assert figures.samples_per_second == 8 / 8
    assert figures.trained_tokens_per_second == (44 + 66) / 8
    assert figures.processor_seconds == 16 / 8
    assert (figures.first_step_seconds, figures.first_step_processor_seconds) == (9.0, 8.0)
    assert figures.memory_gib == 3
    assert figures.losses == [2.0, 1.0, 0.0]
    assert figures.trained_tokens == [22, 44, 66]
    assert figures.positions == [220, 220, 220]


def test_a_device_measures_its_own_time_and_memory() -> None:
    lines = _events(device_seconds=[1.5, 2.5], device_memory=5 * 2**30)
    figures = figures_of(lines, started=1.0, memory=3 * 2**30, records_of_a_step=4)
    assert figures.samples_per_second == 8 / 4
    assert figures.memory_gib == 5


def test_a_profiled_training_has_rates_but_no_peak_of_memory() -> None:
    lines = [*_events(), {"event": "profile", "time": 10.0, "seconds": {"softmax": 1.0}}]
    figures = figures_of(lines, started=1.0, memory=3 * 2**30, records_of_a_step=4)
    assert figures.processor_seconds == 16 / 8
    assert figures.profile == {"softmax": 1.0}
    assert [figures.memory_gib, figures.first_step_seconds, figures.first_step_processor_seconds] == [None] * 3


def _run(number: int, way: str, seconds: float, **changes: Any) -> dict[str, Any]:
    figures = {
        "samples_per_second": 1 / seconds,
        "trained_tokens_per_second": 100 / seconds,
        "processor_seconds": seconds,
        "memory_gib": seconds / 2,
        "first_step_seconds": 20.0,
        "first_step_processor_seconds": 15.0,
        "losses": [8.0, 7.5],
        "trained_tokens": [400, 410],
        "positions": [2700, 2720],
        "learning": 1,
        "dtypes": ["float32"],
        "profile": {},
    }
    return {"round": number, "kind": "2.6", "method": "full", "way": way, "figures": figures | changes}


def test_the_table_takes_ratios_within_a_round_and_shows_where_we_lose() -> None:
    runs = [
        _run(1, "ours", 2.0),
        _run(1, "ms_swift", 5.0),
        _run(1, "ours_recomputed", 3.0),
        _run(2, "ours", 4.0),
        _run(2, "ms_swift", 3.0),
    ]
    runs.append({"round": 1, "kind": "2.6", "method": "full", "way": "llama_factory", "failed": "words\nKeyError: 'x'"})
    assert write_table(runs).splitlines() == [
        "**2.6, full**",
        "",
        "|  | samples/s | trained tokens/s | processor-s a sample | times ours as it comes "
        "| times ours, nothing recomputed | peak memory, GiB | to the end of step 1, s: clock, processor "
        "| loss of each step | trained tokens and positions of a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| this package: nothing recomputed | 0.375 | 37.5 | 3.00 | 0.67 | 1.00 (1.00, 1.00) | 1.50 | 20, 15 "
        "| 8.000, 7.500 | 405, 2,710 |",
        "| ms-swift 4.6.0, as it comes: batch 1, recomputed | 0.267 | 26.7 | 4.00 | 1.67 | 1.62 (2.50, 0.75) | 2.00 "
        "| 20, 15 | 8.000, 7.500 | 405, 2,710 |",
        "| this package, as it comes: recomputed | 0.333 | 33.3 | 3.00 | 1.00 | 1.50 | 1.50 | 20, 15 "
        "| 8.000, 7.500 | 405, 2,710 |",
        "| LLaMA-Factory 0.9.5, as it comes: batch 1, recomputed | failed: KeyError: 'x' |  |  |  |  |  |  |  |  |",
    ]


def test_a_way_that_trains_other_weights_is_named() -> None:
    runs = [_run(1, "ours", 2.0, learning=1200), _run(1, "ms_swift", 5.0, learning=1000)]
    label = "ms-swift 4.6.0, as it comes: batch 1, recomputed"
    named = f"**Not comparable**: {label} trains 1,000 weights, this package 1,200."
    assert named in write_table(runs).splitlines()
    assert "Not comparable" not in write_table([_run(1, "ours", 2.0), _run(1, "ms_swift", 5.0)])


def test_a_profile_is_shown_side_by_side() -> None:
    runs = [
        _run(1, "ours", 2.0, profile={"softmax": 0.5, "matrix products": 1.0}),
        _run(1, "ms_swift_best", 4.0, profile={"matrix products": 2.0, "dropout": 0.25}),
    ]
    assert write_table(runs).splitlines()[7:] == [
        "| seconds of the first step | this package: nothing recomputed "
        "| ms-swift 4.6.0: batch 4, nothing recomputed |",
        "| --- | --- | --- |",
        "| matrix products | 1.0 | 2.0 |",
        "| softmax | 0.5 | 0.0 |",
        "| dropout | 0.0 | 0.2 |",
        "| together | 1.5 | 2.2 |",
    ]


def test_a_recorded_file_is_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = tmp_path / "peers.json"
    recorded.write_text(json.dumps({"runs": [_run(1, "ours", 2.0)]}), encoding="utf-8")
    assert main(["--table-of", str(recorded)]) == 0
    assert capsys.readouterr().out == write_table([_run(1, "ours", 2.0)])


def test_without_released_code_the_command_says_what_is_missing_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MINICPMV_RELEASED_CODE", raising=False)
    assert main(["--kinds", "2.6", "--cache", str(tmp_path / "cache")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("left out: 2.6: found no MINICPMV_RELEASED_CODE, expected a folder with the released .py")
    assert "fix: download the .py files of openbmb/MiniCPM-V-2_6" in said
    assert not (tmp_path / "cache").exists()


def test_a_folder_without_all_released_files_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "resampler.py").touch()
    with pytest.raises(MissingCode, match=r"found no configuration_minicpm\.py, .*, processing_minicpmv\.py, token"):
        find_code({"MINICPMV_RELEASED_CODE": str(tmp_path)})


def test_released_code_lies_mended_beside_the_weights(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for name in (
        "configuration_minicpm.py",
        "image_processing_minicpmv.py",
        "modeling_navit_siglip.py",
        "processing_minicpmv.py",
        "resampler.py",
        "tokenization_minicpmv_fast.py",
    ):
        (code / name).write_text("def f() -> List[int]: ...\n", encoding="utf-8")
    released = "import torchvision\n\nclass A:\n    def forward(self, data, **kwargs):\n        return kwargs\n"
    (code / "modeling_minicpmv.py").write_text(released, encoding="utf-8")
    laid = lay_code(code, FIXTURES / "v2_6", tmp_path / "laid")
    assert (laid / "model.safetensors").read_bytes() == (FIXTURES / "v2_6" / "model.safetensors").read_bytes()
    config = json.loads((laid / "config.json").read_text(encoding="utf-8"))
    assert config["auto_map"]["AutoModel"] == "modeling_minicpmv.MiniCPMV"

    space: dict[str, Any] = {}
    exec((laid / "resampler.py").read_text(encoding="utf-8"), space)  # `List` is there
    exec((laid / "modeling_minicpmv.py").read_text(encoding="utf-8"), space)  # without torchvision
    assert space["A"]().forward({}, input_ids=1, position_ids=2, labels=3) == {"labels": 3}
    assert mend("processing_minicpmv.py", released) == released


def test_a_failed_training_shows_its_last_lines(tmp_path: Path) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho 'no memory left' >&2\nexit 3\n", encoding="utf-8")
    failing.chmod(0o755)
    events = tmp_path / "events.jsonl"
    with pytest.raises(RunFailed, match=r"(?s)^some\.module --flag\nended with 3; .*events\.log:\nno memory left$"):
        run_watched(failing, ["some.module", "--flag"], events=events, variables={}, records_of_a_step=1)
