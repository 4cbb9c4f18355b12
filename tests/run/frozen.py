"""Imported last by the process that all others fork from: no garbage collection looks again at what is there then.

Looking means touching, and the system copies what a forked process touches: without this, 50,000 pages in a run of four
steps instead of 28,000. Before that it imports what a training imports when it begins, 0.3 s in every process, and 2 s
with ZeRO; not where there is a GPU, which DeepSpeed's import would open for the server alone.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module

from minicpmv.machine.system import shown_devices

_AT_THE_BEGINNING = (
    "deepspeed.runtime.zero.muon.muon_optimizer",  # and with it torch's compiler
    "deepspeed.module_inject",
    "deepspeed.ops.adam",
    "peft.utils.save_and_load",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "transformers.models.qwen2.modeling_qwen2",
)

if not shown_devices():
    os.environ["DS_ACCELERATOR"] = "cpu"  # as a training says, or a warning is printed
    for name in _AT_THE_BEGINNING:
        import_module(name)
    del os.environ["DS_ACCELERATOR"]
gc.collect()
gc.freeze()
