"""Walks a model through a training step and the beginning of an answer, on a device that only watches.

Nothing of this package is replaced: flags and their defaults, the model, LoRA, collators, the end of a step and the
drawing of answers are those of a run. What is replaced is the machine: torch is told that it has one GPU.
"""

from __future__ import annotations

import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils.data._utils.pin_memory import pin_memory
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    TrainerControl,
    TrainerState,
)
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import import_utils

from minicpmv.errors import MiniCPMVError
from minicpmv.losses.batch import PreferenceLoss
from minicpmv.losses.mixture import parse_mixture
from minicpmv.losses.preference import How
from minicpmv.models.answering.answers import end_token_ids, generate_answers
from minicpmv.models.attention import kernel
from minicpmv.models.configuration import read_model_config
from minicpmv.models.skeleton import model_class
from minicpmv.training.flags.arguments import parse_arguments
from minicpmv.training.flags.resolution import resolve_settings
from minicpmv.training.inputs.record_ids import take_numbers
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import choose_trained_parts
from minicpmv.training.learning.recomputation import RecomputedLayers, asked_of_parts
from minicpmv.training.learning.switches import resolve_learning
from minicpmv.training.loop.boundary import StepBoundary
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.epoch_loss import EpochLoss
from minicpmv.training.monitoring.throughput import count_work
from minicpmv.training.objectives.objective import Objective
from minicpmv.training.objectives.preference import Preference
from minicpmv.training.objectives.supervised import Supervised
from tests.gpu_walk.batches import RunInputs
from tests.gpu_walk.device import WatchedDevice, mark_pixels
from tests.gpu_walk.report import Case, Report
from tests.machines import GPU

__all__ = ["Walk", "pretend_gpu"]

_DEVICE = torch.device("cuda:0")
_CARD = SimpleNamespace(name="NVIDIA H100 80GB HBM3", major=9, minor=0, total_memory=80 * 2**30)
_RECOMPUTE = next(  # transformers 5.20, the last for Python 3.10, has the old name only
    name
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    if hasattr(PreTrainedModel, name)
)
_ALONE = {"average_tokens_across_devices": True, "world_size": 1}
_DECODED = 2
"""Steps of decoding, behind the one that reads the prompt."""


_FAULTS = (AssertionError, AttributeError, LookupError, MiniCPMVError, RuntimeError, TypeError, ValueError)
"""What ends a walk and is its finding: tensors that do not go together, arguments that a torch does not know."""


def pretend_gpu() -> None:
    """Let torch tell of one GPU that has all of today's kernels; nothing can be computed on it."""
    machine: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (_CARD.major, _CARD.minor),
        "get_device_properties": lambda device=None: _CARD,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
    }
    for name, answer in machine.items():
        setattr(torch.cuda, name, answer)
    fake_tensor.init_gpu_context = lambda device: None  # which would make a real tensor there
    kernel.find_fault_of_kernel = lambda device, *, is_branched=False: None  # tried on data, which are not here
    # transformers asks less of tensors without data, as if it were being compiled. A run's tensors have data.
    import_utils.is_fake_tensor = lambda x: False


class Walk:
    """One case, from its model to two decoded tokens.

    Args:
        case: What is walked.
        inputs: Batches of the case's release.
        device: Where.
    """

    def __init__(self, case: Case, inputs: RunInputs, device: WatchedDevice) -> None:
        self._case = case
        self._material = inputs
        self._device = device
        request = parse_arguments(_flags(case, inputs.checkpoint))
        resolved = resolve_settings(request, GPU)
        self._run, self._settings = resolved.run, resolved.training
        self._half = torch.bfloat16 if self._settings.get("bf16") else torch.float16
        self._by_autocast = not self._settings.get("deepspeed")
        self._without_gradient: list[str] = []

    def report(self) -> Report:
        """Walk as far as it goes, and say what was seen."""
        started, stopped = time.perf_counter(), ""
        try:
            model = self._build()
            rows, records = self._case.rows, self._case.records
            first, batch = self._material.first_batch(rows), self._material.batch(rows, records)
            with self._device:
                move_to_device(model)
                self._device.watch(model)
                self._train(model, first, batch)
                self._answer(model)
        except _FAULTS:
            stopped = traceback.format_exc()
        return Report(
            case=self._case,
            stopped=stopped,
            crossings=self._device.crossings,
            kernels={phase: dict(calls) for phase, calls in self._device.kernels.items()},
            sdpa={phase: dict(calls) for phase, calls in self._device.sdpa.items()},
            attentions=self._device.attentions,
            without_gradient=tuple(self._without_gradient),
            seconds=time.perf_counter() - started,
        )

    # ------------------------------------------------------------------------------------------------------- the model

    def _build(self) -> Any:
        """Make the model as ``training.base`` and ``training.run`` do, its weights empty instead of loaded."""
        run = self._run
        dtype = torch.float32 if self._by_autocast and not run.use_lora else self._half
        with torch.device("meta"):
            config: Any = read_model_config(self._material.checkpoint)
            model: Any = model_class(config)._from_config(config, dtype=dtype)
            model.generation_config = GenerationConfig.from_pretrained(self._material.checkpoint)
            run, _ = resolve_learning(run, model, given=set())
            if run.use_lora:
                model = add_lora(model, run, keep_dtype=not self._by_autocast)
            else:
                choose_trained_parts(model, run)
        if self._case.recomputes:
            getattr(model, _RECOMPUTE)(**{f"{_RECOMPUTE.removesuffix('_enable')}_kwargs": {"use_reentrant": False}})
            RecomputedLayers(asked=asked_of_parts(run)).on_train_begin(*[cast("Any", None)] * 3, model=model)
        return model

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=self._half) if self._by_autocast else nullcontext()

    # --------------------------------------------------------------------------------------------------------- training

    def _train(self, model: Any, first: dict[str, Any], batch: dict[str, Any]) -> None:
        device = self._device
        trained = {name: each for name, each in model.train().named_parameters() if each.requires_grad}
        scaler = torch.amp.GradScaler("cuda", enabled=self._half == torch.float16 and self._by_autocast)
        optimizer = torch.optim.AdamW(trained.values(), fused=True)  # transformers' default
        boundary = StepBoundary(None, describe=str, was_skipped=lambda: False, make_up=lambda: None)
        epoch_loss = EpochLoss()
        args: Any = SimpleNamespace(device=_DEVICE, fp16=scaler.is_enabled(), save_only_model=False, **_ALONE)
        with device.during("first batch"), torch.no_grad(), self._autocast():  # what is kept for all others is made
            first = self._send(first)
            take_numbers(first)
            model(**first)
        with device.during("batch"):
            batch = self._send(batch)
            objective = _objective(self._case)
            trainer = cast("Any", SimpleNamespace(args=args, _objective=objective))
            total = MiniCPMVTrainer._get_num_items_in_batch(trainer, [batch], _DEVICE)
            assert total is not None, "there is a batch"
            numbers = take_numbers(batch)
            count_work(batch["layout"])
        # Anomaly detection lets the gradient of an operation know the line of the operation.
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            with device.during("forward"), self._autocast():
                loss = objective.loss(model, batch, total)
            with device.during("backward"):
                scaler.scale(loss).backward()
        self._without_gradient = [name for name, each in trained.items() if each.grad is None]
        with device.during("update"):
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(trained.values(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        with device.during("end of step"):
            epoch_loss.add(loss, total[0])
            epoch_loss.end_step()
            boundary.note_loss(loss, numbers)
            boundary.note_gradient(norm)
            boundary.on_step_end(args, TrainerState(), TrainerControl())

    def _send(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Bring a batch to the device as torch's loader and accelerate do, with what the run tells them."""
        if "pixel_values" in batch:
            mark_pixels(batch["pixel_values"])
        config = AcceleratorConfig(**self._settings.get("accelerator_config", {}))
        is_pinned = self._settings.get("dataloader_pin_memory", True)
        sent: Any = send_to_device(pin_memory(batch) if is_pinned else batch, _DEVICE, non_blocking=config.non_blocking)
        return sent

    # -------------------------------------------------------------------------------------------------------- answering

    def _answer(self, model: Any) -> None:
        model.eval()
        processor, device = self._material.processor, self._device
        with device.during("prompt"):
            inputs = self._material.questions()
            mark_pixels(inputs["pixel_values"])
            inputs = inputs.to(_DEVICE)
        with device.during("prefill"), self._autocast():
            options = {"max_new_tokens": 10, "stopping_criteria": StoppingCriteriaList([_EachToken(device)])}
            ends = end_token_ids(processor.tokenizer, processor.version)
            try:
                generate_answers(model, inputs, options=options, end_ids=ends)
            except _Enough:
                return


def _objective(case: Case) -> Objective:
    if case.records != "pairs":
        return Supervised()
    mixture = parse_mixture("sigmoid", flag="--preference_loss")
    return Preference(PreferenceLoss(mixture=mixture, how=How()), is_exact=False)


def _flags(case: Case, checkpoint: Path) -> list[str]:
    flags = ["--model_name_or_path", str(checkpoint), "--data_path", "none", "--output_dir", "none"]
    flags += ["--gradient_accumulation_steps", "1"]
    flags += ["--report_to", "none", "--activation_checkpointing", str(case.recomputes).lower()]
    flags += ["--use_lora", str(case.method != "full").lower()]
    flags += ["--lora_preset", "adapters_only"] if case.method == "adapters" else []
    flags += ["--deepspeed", "zero2"] if case.precision.startswith("zero2") else []
    return flags + (["--fp16", "true"] if case.precision.endswith(" float16") else [])


def move_to_device(model: nn.Module) -> None:
    """Put a model without weights on the device, in the precisions that it has."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                made = torch.empty(weight.shape, dtype=weight.dtype, device=_DEVICE)
                module._parameters[name] = nn.Parameter(made, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=_DEVICE)


class _Enough(BaseException):
    """The walk has decoded what it wanted to."""


class _EachToken(StoppingCriteria):
    """Tells the device which token is being computed; it is asked after each."""

    def __init__(self, device: WatchedDevice) -> None:
        self._device = device
        self._num_tokens = 0

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._num_tokens += 1
        self._device.phase = f"decode {self._num_tokens}"
        if self._num_tokens > _DECODED:
            raise _Enough
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
