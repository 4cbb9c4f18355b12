"""What a launcher is told, and what one has left in the environment, is refused where no run can come of it."""

from __future__ import annotations

import pytest

from minicpmv.errors import UsageError
from minicpmv.training.distributed.network import complete_group_of_one
from minicpmv.training.launching.launched import refuse_wrong_launch, refuse_wrong_variables

_WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "6001"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        _WHOLE,
        {"WORLD_SIZE": "1"},
        {"RANK": "0", "LOCAL_RANK": "0"},
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "6001"},
        {"OMP_NUM_THREADS": "4"},
    ],
)
def test_whole_places_and_groups_of_one_are_accepted(variables: dict[str, str]) -> None:
    refuse_wrong_variables(variables)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "two"}, "found WORLD_SIZE='two', expected a whole number"),
        ({"RANK": ""}, "found RANK='', expected a whole number"),
        ({"OMP_NUM_THREADS": "many"}, "found OMP_NUM_THREADS='many', expected a whole number"),
        ({"WORLD_SIZE": "2"}, "found WORLD_SIZE=2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, expected all"),
        ({"RANK": "1"}, "found RANK=1 without LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, expected all"),
        ({**_WHOLE, "RANK": "2"}, "found RANK=2, LOCAL_RANK=1, WORLD_SIZE=2, expected a RANK from 0 to 1"),
    ],
)
def test_variables_that_describe_no_place_are_named(variables: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        refuse_wrong_variables(variables)
    assert str(refused.value).startswith(f"environment: {said}")


def test_a_group_of_one_gets_what_it_lacks_and_keeps_what_it_has() -> None:
    added = complete_group_of_one({"LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.1"})
    assert int(added.pop("MASTER_PORT")) > 0
    assert added == {"RANK": "0", "WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    "arguments",
    [
        "--standalone --nproc_per_node 2 -m -- minicpmv.training --node_rank x",
        "--nproc_per_node 8 --nnodes 2 --node_rank 1 --master_addr first.of.several --master_port 6001 -m -- m",
        "--nproc-per-node auto --nnodes 1:4 -m -- m",
    ],
)
def test_launches_that_can_work_are_accepted(arguments: str) -> None:
    refuse_wrong_launch(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--nproc_per_node 0", "GPUS_PER_NODE, --num_processes: found '0', expected a whole number from 1 to "),
        ("--nproc_per_node many", "GPUS_PER_NODE, --num_processes: found 'many', expected a whole number from 1 to "),
        ("--nproc_per_node 100000", "GPUS_PER_NODE, --num_processes: found '100000', expected a whole number from 1 "),
        ("--nnodes two", "NNODES: found 'two', expected a whole number of at least 1"),
        ("--nnodes 2 --node_rank 2", "NODE_RANK: found '2', expected a whole number from 0 to 1"),
        ("--master_port many", "MASTER_PORT: found 'many', expected a whole number from 0 to 65535"),
        ("--master_port 99999", "MASTER_PORT: found '99999', expected a whole number from 0 to 65535"),
        ("--master_addr no..host", "MASTER_ADDR: found 'no..host', which is no address that this machine knows"),
    ],
)
def test_numbers_with_which_no_launcher_starts_are_named(arguments: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        refuse_wrong_launch([*arguments.split(), "-m", "--", "minicpmv.training"])
    assert str(refused.value).startswith(said)
