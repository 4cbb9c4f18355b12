"""``python -m tests.run.counted_gathers FILE FLAGS``: the training command, counting how often the head is gathered.

For each micro-batch it adds a line to FILE: how often the weights of the output head came together from the processes,
in a loss of four chunks, under FSDP2 or ZeRO-3.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import deepspeed.runtime.zero.partitioned_param_coordinator as zero
import torch.distributed.fsdp._fully_shard._fsdp_param_group as fsdp

import minicpmv.models.joining.forward as modeling
from minicpmv.training.__main__ import main
from minicpmv.training.distributed.console import is_first_process
from minicpmv.training.loop.trainer import MiniCPMVTrainer

NUM_CHUNKS = 4
_GATHER = "foreach_all_gather"
_FETCH = "_PartitionedParameterCoordinator__all_gather_params_"


class _Counter:
    """Counts gatherings of any of the head's own weights."""

    def __init__(self) -> None:
        self.modules: set[Any] = set()
        self.weights: set[int] = set()
        self.number = 0

    def count_fsdp(self, gather: Any) -> Any:
        def counted(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            self.number += any(parameter._module_info.module in self.modules for parameter in parameters)
            return gather(parameters, *args, **kwargs)

        return counted

    def count_zero(self, gather: Any) -> Any:
        def counted(coordinator: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
            parameters = list(parameters)
            self.number += any(id(parameter) in self.weights for parameter in parameters)
            return gather(coordinator, parameters, *args, **kwargs)

        return counted

    def count_step(self, step: Any, file: Path) -> Any:
        def counted(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            head = trainer.model.get_output_embeddings()
            self.modules = set(head.modules())
            self.weights = {id(parameter) for parameter in head.parameters()}
            self.number = 0
            loss = step(trainer, model, *args, **kwargs)
            if is_first_process():
                with file.open("a") as lines:
                    lines.write(f"{self.number}\n")
            return loss

        return counted


if __name__ == "__main__":
    name, *flags = sys.argv[1:]
    counter, loose, coordinator = _Counter(), (modeling, fsdp, MiniCPMVTrainer), zero.PartitionedParameterCoordinator
    setattr(modeling, "count_chunks", lambda vocabulary: NUM_CHUNKS)  # noqa: B010  it is typed as what it was
    setattr(fsdp, _GATHER, counter.count_fsdp(getattr(fsdp, _GATHER)))
    setattr(coordinator, _FETCH, counter.count_zero(getattr(coordinator, _FETCH)))
    setattr(MiniCPMVTrainer, "training_step", counter.count_step(MiniCPMVTrainer.training_step, Path(name)))  # noqa: B010
    sys.exit(main(flags))
