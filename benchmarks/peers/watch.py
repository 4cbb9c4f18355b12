"""Runs a training command of anyone in this process, and writes a line of JSON at each step it takes.

    python watch.py EVENTS.jsonl MODULE [ARGUMENT ...]

runs ``python -m MODULE ARGUMENT ...`` in an environment that has transformers and psutil, and nothing of this project.
What trains through transformers' Trainer, as this package and all peers do, is seen from there: what a micro-batch
holds, when an optimizer step ended, what processor time the tree of processes had taken by then, and the logged loss.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

_IGNORED = -100
PROFILE = "MINICPMV_PEERS_PROFILE"
"""Variable: if set, the first step is profiled."""
_OPERATIONS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_convolution", "convolution_backward"),
    "attention kernels": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "copies and casts": ("copy_", "cat", "fill_", "zero_", "clone", "index", "_index_put_impl_", "masked_fill_"),
    "optimizer": ("_fused_adamw_", "_fused_adam_"),
    "dropout": ("bernoulli_", "native_dropout", "native_dropout_backward"),
}
"""What is not here is elementwise, a sum, a norm or an activation."""


class Events:
    """A file of lines, each complete as soon as it is written: some commands end their process without a goodbye.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115  open until the process ends

    def write(self, kind: str, **facts: Any) -> None:
        """Add a line, with the time in seconds since 1970."""
        self._file.write(json.dumps({"event": kind, "time": time.time(), **facts}) + "\n")


def count_batch(inputs: Any) -> dict[str, int]:
    """Count a micro-batch: positions with padding, and tokens that are trained on.

    Args:
        inputs: What Trainer's ``training_step`` gets. Some put the model's arguments into ``data``.
    """
    inner = inputs["data"] if "input_ids" not in inputs else inputs
    labels = inputs["labels"] if "labels" in inputs else inner["labels"]
    return {"positions": inner["input_ids"].numel(), "trained": int((labels[..., 1:] != _IGNORED).sum())}


def tree_seconds() -> float:
    """Return the processor seconds that this process, its children and their children have taken, ended ones too."""
    import psutil  # noqa: PLC0415  in the environment of the command

    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # it ended just now, and its parent has its time
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Profile:
    """Where the time of one step goes, by kind of operation.

    Args:
        events: Get it.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._recorder: Any = None
        self._is_over = PROFILE not in os.environ

    def begin(self) -> None:
        """Begin with the first micro-batch."""
        if self._is_over or self._recorder is not None:
            return
        from torch.profiler import profile  # noqa: PLC0415

        self._recorder = profile()
        self._recorder.start()

    def end(self) -> None:
        """End with the optimizer's step."""
        if self._recorder is None or self._is_over:
            return
        self._recorder.stop()
        self._is_over = True
        spent: dict[str, float] = {}
        for event in self._recorder.key_averages():
            name = event.key.removeprefix("aten::")
            kind = next((kind for kind, names in _OPERATIONS.items() if name in names), "everything else")
            spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total / 1e6
        self._events.write("profile", seconds=spent)


class Device:
    """The time and memory of a CUDA device, asked for without waiting for it; knows nothing where there is none."""

    def __init__(self) -> None:
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Remember this place in the device's work."""
        import torch  # noqa: PLC0415  not before the command has prepared its process

        if torch.cuda.is_available():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)

    def facts(self) -> dict[str, Any]:
        """Return seconds between marks and the peak of memory, once all that was launched has ended."""
        if not self._marks:
            return {}
        import torch  # noqa: PLC0415

        torch.cuda.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {
            "device_seconds": [before.elapsed_time(after) / 1000 for before, after in pairs],
            "device_memory": torch.cuda.max_memory_allocated(),
            "device_reserved": torch.cuda.max_memory_reserved(),
        }


def watch_trainer(events: Events) -> None:
    """Have every Trainer of this process report."""
    import transformers.trainer as module  # noqa: PLC0415
    from transformers import TrainerCallback  # noqa: PLC0415

    device, profile = Device(), Profile(events)
    prepare, training_step = module.Trainer.__init__, module.Trainer.training_step

    def reporting_step(self: Any, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        events.write("batch", **count_batch(inputs))
        profile.begin()
        return training_step(self, model, inputs, *more, **named)

    class Reporter(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            weights = [each for each in model.parameters() if each.requires_grad]
            dtypes = sorted({str(each.dtype).removeprefix("torch.") for each in weights})
            events.write("begin", learning=sum(each.numel() for each in weights), dtypes=dtypes)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            profile.end()
            device.mark()
            events.write("step", step=state.global_step, processor=tree_seconds())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if "loss" in (logs or {}):
                events.write("loss", step=state.global_step, loss=float(logs["loss"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            events.write("end", **device.facts())

    @functools.wraps(prepare)
    def reporting_init(self: Any, *more: Any, **named: Any) -> None:
        prepare(self, *more, **named)
        self.add_callback(Reporter)  # ms-swift has a list of default callbacks of its own

    module.Trainer.__init__ = reporting_init
    module.Trainer.training_step = reporting_step  # pyright: ignore[reportAttributeAccessIssue]


def main(events_file: str, module: str, *arguments: str) -> None:
    """Run the module, watched."""
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != Path(__file__).parent]
    sys.argv = [module, *arguments]
    watch_trainer(Events(events_file))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
