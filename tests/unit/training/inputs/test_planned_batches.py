"""Planned batches through real data loaders, dealt out by accelerate as in a run of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import Dataset
from transformers import TrainerControl, TrainerState, TrainingArguments

from minicpmv.data.batches import row_planner
from minicpmv.data.batches.grouping import BatchPlanner, LengthGrouper
from minicpmv.data.batches.row_planner import RowPlanner
from minicpmv.data.samples.length_report import LengthReport
from minicpmv.data.sharing import Sharing
from minicpmv.errors import ConfigError
from minicpmv.models.configuration import MiniCPMVConfig
from minicpmv.models.native.configuration import MiniCPMV4_7Config
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.planned_batches import (
    EpochTeller,
    PlannedBatches,
    describe_step,
    estimate_costs,
    make_loader,
    plan_batches,
)
from tests.ranks import on_ranks
from tests.released_sizes import NATIVE
from tests.tiny import FIXTURES

LENGTHS = np.random.default_rng(0).integers(1, 60, 50).tolist()


def lengths_of(lengths: Sequence[int], num_image_tokens: Sequence[int]) -> LengthReport:
    return LengthReport(
        lengths=np.array(lengths, np.int32),
        num_trained=np.ones(len(lengths), np.int32),
        num_image_tokens=np.array(num_image_tokens, np.int32),
        num_patches=np.zeros(len(lengths), np.int32),
        patches_per_token=None,
        num_reduced=0,
        num_thinned=0,
        num_cut=0,
        left_out={},
    )


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> int:
        return index


def as_list(items: Sequence[Any]) -> Any:
    return {"ids": list(items)}


def loader(plan: Any, *, rank: int, ranks: int, workers: int, output: Path) -> tuple[Any, PlannedBatches]:
    args = TrainingArguments(output_dir=str(output), dataloader_num_workers=workers, use_cpu=True)
    sampler = PlannedBatches(plan)
    made = make_loader(Numbers(), sampler, args, as_list)
    return prepare_data_loader(made, num_processes=ranks, process_index=rank, put_on_device=False), sampler


def plans(ranks: int) -> list[Any]:
    return [
        RowPlanner(LENGTHS, capacity=100, num_ranks=ranks),
        LengthGrouper(LENGTHS, batch_size=4, num_ranks=ranks),
        BatchPlanner(len(LENGTHS), batch_size=4, num_ranks=ranks),
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # torch, where there are fewer cores
@pytest.mark.parametrize(
    ("ranks", "workers"),
    [
        (1, 0),
        (2, 1),
        (3, 0),
        *(pytest.param(ranks, workers, marks=pytest.mark.slow) for ranks in (1, 2, 3) for workers in (1, 4)),
    ],
)
def test_every_record_is_seen_once_in_an_epoch(ranks: int, workers: int, tmp_path: Path) -> None:
    for plan in plans(ranks):
        seen: list[list[list[int]]] = []
        for rank in range(ranks):
            batches, _ = loader(plan, rank=rank, ranks=ranks, workers=workers, output=tmp_path)
            seen.append([batch["ids"] for batch in batches])
        assert {len(rows) for rows in seen} == {plan.num_rows // ranks}, "every process takes as many steps"
        assert sorted(i for rows in seen for row in rows for i in row) == list(range(len(LENGTHS)))
        dealt = [row for rows in zip(*seen, strict=True) for row in rows]
        assert dealt == list(plan.rows(0)), "whatever the number of workers"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_no_worker_is_started_that_would_have_no_batch(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), dataloader_num_workers=1000, use_cpu=True)
    plan = BatchPlanner(len(LENGTHS), batch_size=4)
    assert make_loader(Numbers(), PlannedBatches(plan), args, as_list).num_workers == 13


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_resumed_in_a_later_epoch_the_rest_is_seen(ranks: int, tmp_path: Path) -> None:
    for plan in plans(ranks):
        for rank in range(ranks):
            batches, sampler = loader(plan, rank=rank, ranks=ranks, workers=0, output=tmp_path)
            rest: Any = skip_first_batches(batches, 3)
            args: Any = None
            EpochTeller(sampler).on_epoch_begin(args, TrainerState(epoch=2.37), TrainerControl())
            rest.set_epoch(2)
            assert [batch["ids"] for batch in rest] == list(plan.rows(2))[rank::ranks][3:]


TWO = lengths_of((5, 9), (0, 0))


def arguments(flags: str, **fields: Any) -> tuple[RunArguments, Any]:
    """Say what a run was asked for: its own flags as typed, transformers' as they end up."""
    needed = ["--model_name_or_path", "m", "--data_path", "d.json", "--output_dir", "o"]
    run = parse_arguments([*needed, *flags.split()]).run
    args: Any = SimpleNamespace(
        seed=1,
        data_seed=None,
        world_size=2,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=3,
        train_sampling_strategy="random",
        dataloader_drop_last=False,
    )
    vars(args).update(fields)
    return run, args


def plan_of(flags: str, **fields: Any) -> Any:
    return plan_batches(*arguments(flags, **fields), 2, lengths=TWO, costs=np.array([5.0, 9.0]))


def test_a_row_has_as_many_tokens_as_the_rows_of_a_batch() -> None:
    assert plan_of("").capacity == 2048
    assert plan_of("--pack_length 3000", per_device_train_batch_size=4).capacity == 12000


def test_runs_without_packing_follow_a_plan_too() -> None:
    assert type(plan_of("--packing false")) is BatchPlanner
    assert list(plan_of("--packing false", train_sampling_strategy="sequential").rows(3)) == [[0], [1]]
    assert type(plan_of("--packing false", train_sampling_strategy="group_by_length")) is LengthGrouper
    assert plan_of("--packing false", world_size=1, per_device_train_batch_size=2).num_rows == 1


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_a_last_step_is_dropped_on_request(strategy: str) -> None:
    flags = {"dataloader_drop_last": True, "train_sampling_strategy": strategy}
    with pytest.raises(ConfigError, match="found 2 records, fewer than the 6 of the only step"):
        plan_of("--packing false", per_device_train_batch_size=3, **flags)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("", "2 packed rows of up to 2048 tokens (0.3% full), about 2 records and 14 tokens; an epoch has 1 step"),
        ("--packing false", "2 records in padded batches of 1, about 14 tokens; an epoch has 1 step"),
    ],
)
def test_a_step_is_told_in_one_line(flags: str, told: str) -> None:
    run, args = arguments(flags)
    plan = plan_batches(run, args, 2, lengths=TWO, costs=np.array([5.0, 9.0]))
    assert describe_step(plan, args, TWO) == f"each step: {told}"


def test_images_cost_what_the_tower_does_for_them_and_tokens_what_they_read() -> None:
    """By hand: of the tower each patch reads 1,024 patches of its slice, and of the language model half the tokens."""
    config: Any = MiniCPMVConfig.from_pretrained(FIXTURES / "v2_6")
    lengths = lengths_of((10, 100), (0, 64))
    text, vision = config.text_config, config.vision_config
    width, head = text.hidden_size, text.hidden_size // text.num_attention_heads
    of_token = (
        2 * width * head * (text.num_attention_heads + text.num_key_value_heads) + 3 * width * text.intermediate_size
    )
    of_layer = [number * of_token + number**2 * width for number in (10, 100)]
    of_patch = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * (vision.intermediate_size + 1024)
    patches = 64 * 1024 / config.query_num
    tower = patches * of_patch * vision.num_hidden_layers / text.num_hidden_layers
    expected = np.array([of_layer[0], of_layer[1] + tower]) / of_token
    assert estimate_costs(lengths, config, scale_resolution=448) == pytest.approx(expected)


def test_a_token_of_experts_costs_those_that_are_chosen_for_it() -> None:
    """8 of 512 wide and a shared one are as much as 4,608 of a dense layer."""
    fields = NATIVE["4.7-A3B"]
    dense = fields["text_config"] | {"model_type": "qwen3_5_text", "intermediate_size": 9 * 512}
    lengths = lengths_of((10, 100), (0, 64))
    first, second = (
        estimate_costs(lengths, MiniCPMV4_7Config(**each), scale_resolution=448)
        for each in (fields, fields | {"text_config": dense})
    )
    assert first.tolist() == second.tolist()


def test_a_process_that_shares_the_planning_has_its_own_batches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_planner, "_BLOCK", 10)
    alone = list(RowPlanner(LENGTHS, capacity=100, num_ranks=3).rows(2))

    def batches(sharing: Sharing) -> list[list[int]]:
        planner = RowPlanner(LENGTHS, capacity=100, num_ranks=3, together=lambda work: work(sharing))
        planned = PlannedBatches(planner, rank=sharing.rank)
        planned.set_epoch(2)
        return list(planned)

    for rank, given in enumerate(on_ranks(3, batches)):
        assert given == [row if place % 3 == rank else [] for place, row in enumerate(alone)]
