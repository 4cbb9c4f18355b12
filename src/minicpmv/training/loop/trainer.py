"""Extends transformers' Trainer with atomic checkpoints and per-token numbers; everything else is inherited.

The model normalises the loss: it divides by the total label weight of the whole optimizer step over all micro-batches
and processes (``num_items_in_batch``); Trainer compensates for the averaging between processes.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import TrainOutput

from minicpmv.data.batches.grouping import BatchPlanner
from minicpmv.data.media.image_digests import PictureDigests
from minicpmv.errors import CheckpointError, NotFiniteError
from minicpmv.files.atomic_files import STAGING
from minicpmv.files.disk_space import check_space, writing
from minicpmv.machine.shortage import naming_shortage
from minicpmv.models.adapters.base_identity import BaseIdentity, write_base
from minicpmv.models.networks.flops import flops_of_each
from minicpmv.report.evaluations import key_of
from minicpmv.training.checkpoints.checkpoint_size import estimate_bytes
from minicpmv.training.checkpoints.manifest import find_fault, num_bytes, seal
from minicpmv.training.checkpoints.pickles import find_foreign_object
from minicpmv.training.checkpoints.restoring import restore_weights
from minicpmv.training.checkpoints.resume import PICTURES
from minicpmv.training.checkpoints.staging import list_checkpoints, publish, rotate
from minicpmv.training.checkpoints.trained_weights import ChangeWatch, refuse_not_finite
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.engine import name_engine
from minicpmv.training.distributed.fsdp import check_sharded, gather_idle, hand_out, hold_head, keep_whole, whole
from minicpmv.training.distributed.processes import (
    add_up,
    gather,
    num_processes,
    raise_together,
    take_maximum,
    wait_for_all,
)
from minicpmv.training.inputs.planned_batches import (
    BatchPlan,
    Collate,
    EpochTeller,
    PlannedBatches,
    count_steps,
    make_loader,
)
from minicpmv.training.inputs.record_ids import NumberedCollator, NumberedDataset, take_numbers
from minicpmv.training.inputs.shared_memory import Workers
from minicpmv.training.inputs.vision_cache import FeatureWriter
from minicpmv.training.learning.rates import Rates, split_groups
from minicpmv.training.learning.targets import network_of
from minicpmv.training.loop.boundary import AlreadyTrained, EvaluationStopped, StepBoundary, Stopped
from minicpmv.training.loop.interruption import Interruption, ShelteringContext, WorkerStart
from minicpmv.training.loop.last_good import way_out
from minicpmv.training.loop.moments import AtEndOfStep, AtStart, BeforeFirstStep, StateOfObjective
from minicpmv.training.monitoring.before_and_after import Measurement
from minicpmv.training.monitoring.epoch_loss import EPOCH_LOSS, EpochLoss
from minicpmv.training.monitoring.eval_metrics import EvalMetrics
from minicpmv.training.monitoring.gradients import before_each_step, part_norms
from minicpmv.training.monitoring.memory_advice import describe_batch
from minicpmv.training.monitoring.progress import RunProgress, memory_gib
from minicpmv.training.monitoring.samples import Samples
from minicpmv.training.monitoring.throughput import Throughput
from minicpmv.training.objectives.objective import Batch, Objective, Start

__all__ = ["MiniCPMVTrainer", "is_peft"]

_C = TypeVar("_C")
_T = TypeVar("_T")


class MiniCPMVTrainer(Trainer):
    """Trains a MiniCPM-V model, bare or wrapped by PEFT.

    Args:
        plan: The records of each training batch.
        objective: What is optimised.
        write_companions: Called on the writing process with each new checkpoint's directory, to add the small files
            that make a full checkpoint usable by itself.
        train_collator: Joins the records of a planned batch; evaluation uses ``data_collator``.
        interruption: Its signals end training at a step boundary, with a checkpoint.
        samples: Questions to the model before the first step and at each evaluation.
        eval_metrics: Metrics of its answers at each evaluation, in addition to the loss, by set.
        measurement: Questions before the first step, and again in :meth:`measure_after`.
        workers: Numbers of data workers; by default as the flags say.
        kwargs: Arguments of ``Trainer``.
    """

    def __init__(
        self,
        *,
        plan: BatchPlan,
        objective: Objective,
        write_companions: Callable[[Path], None] | None = None,
        train_collator: Collate | None = None,
        interruption: Interruption | None = None,
        samples: Samples | None = None,
        eval_metrics: Mapping[str, EvalMetrics] | None = None,
        measurement: Measurement | None = None,
        workers: Workers | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._workers = workers or Workers(*[self.args.dataloader_num_workers] * 2)
        self._train_collator: Any = train_collator or self.data_collator
        self._batches = PlannedBatches(plan)
        self.add_callback(EpochTeller(self._batches))
        self._write_companions = write_companions
        self._staging: str | None = None
        self.last_saved = -1
        """Step of the newest checkpoint that this process wrote; -1 for none."""
        self._bytes_needed: int | None = None
        self._objective = objective
        self.add_callback(StateOfObjective())
        self.add_callback(AtStart(self._begin_objective))
        self._boundary = StepBoundary(
            interruption,
            describe=self._describe_record,
            was_skipped=lambda: bool(self.accelerator.optimizer_step_was_skipped),
            make_up=self._make_up_evaluation,
            measured=[key_of(name, "loss") for name in self._set_names],
        )
        self.add_callback(self._boundary)
        self._throughput = Throughput(
            flops_of_each(self._live_model.config, self._live_model.named_parameters(remove_duplicate=False))
        )
        self._part_norms: dict[str, float] = {}
        self._held: FSDPModule | None = None
        """Under FSDP, the module that stays gathered until the end of a backward pass."""
        self._to_hand_out: dict[str, Tensor] | None = None
        """Under FSDP, the tensors that rank 0 distributes as soon as the model is sharded."""
        self._steps_per_epoch = count_steps(plan, self.args, epochs=1)
        self.add_callback(EpochLoss())
        self.add_callback(AtEndOfStep(self._end_step))
        self._samples = samples
        self.eval_metrics = eval_metrics or {}
        self._measurement = measurement
        self.add_callback(BeforeFirstStep(self._ask_before))
        self._is_evaluating = False
        self._measured: Tensor | None = None
        """What the objective adds up in this evaluation on this process."""
        self.ways_to_need_less = "lower --per_device_train_batch_size"
        """Advice for when memory runs out."""
        self.rates: Rates | None = None
        """Learning rates of each part; None uses transformers' two groups, with and without decay."""
        self.fingerprint: Mapping[str, Any] = {}
        """Settings that determine the run's numbers, stored in each checkpoint."""
        self.base: BaseIdentity | None = None
        """Identity of the base weights, stored with each adapter."""
        self.pictures: PictureDigests | None = None
        """Digests of the training images, stored in each checkpoint."""
        self.features: FeatureWriter | None = None
        """Stores image features of frozen modules; see :meth:`keep_features`."""
        self.changes = ChangeWatch()
        """Detects unchanged parts at the end."""
        self.add_callback(self.changes)
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        self.add_callback(RunProgress(bar=not self.args.disable_tqdm))

    def _begin_objective(self) -> None:
        """Tell the objective what a checkpoint has kept, and have it prepare for the first step."""
        kept = self._find(StateOfObjective)
        if kept.kept:
            self._objective.restore(kept.kept)
        kept.read = self._objective.state
        sets: Any = self.eval_dataset
        validation = list(sets.values()) if isinstance(sets, dict) else [] if sets is None else [sets]
        datasets: list[Any] = [self.train_dataset, *validation]

        def load(records: Dataset[Any], plan: BatchPlan) -> DataLoader[Any]:
            return self._load(records, PlannedBatches(plan), self._train_collator, self._workers.training)

        def compute(function: Callable[[Batch], Tensor], batch: dict[str, Any]) -> Tensor:
            if self.features is not None:
                self.features.expect(batch)
            with self._naming_shortage(lambda: describe_batch(batch)):
                return function(self._prepare_inputs(batch))

        start = Start(
            model=self._live_model,
            args=self.args,
            step=self.state.global_step,
            datasets=datasets,
            load=load,
            asking=self._asking,
            compute=compute,
        )
        self._objective.begin(start)
        if self.features is not None:
            self.features.wait()

    def _find(self, kind: type[_C]) -> _C:
        """Return a callback of the run; transformers replaces those whose state it has read from a checkpoint."""
        return next(each for each in self.callback_handler.callbacks if isinstance(each, kind))

    def keep_features(self, writer: FeatureWriter | None) -> None:
        """Store features that are not in the cache yet; None if there is nothing to store."""
        self.features = writer
        if writer is not None:
            self.add_callback(writer)

    # ------------------------------------------------------------------------------------------------------- batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Override transformers: batches follow our plan, and carry the numbers of their records."""
        dataset: Any = NumberedDataset(self.train_dataset)
        collate = NumberedCollator(self._train_collator)
        return self._load(dataset, self._batches, collate, self._workers.training)

    @property
    def _set_names(self) -> list[str]:
        """The names of the validation sets; a single set has an empty name."""
        sets: Any = self.eval_dataset
        return list(sets) if isinstance(sets, dict) else [""]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Override transformers: every process gets equally many batches, in the order of the records."""
        sets: Any = self.eval_dataset
        dataset: Any = sets if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            dataset = sets[eval_dataset]
        size = self.args.per_device_eval_batch_size
        plan = BatchPlanner(len(dataset), batch_size=size, num_ranks=self.args.world_size, shuffle=False)
        collate: Any = self.data_collator
        return self._load(dataset, PlannedBatches(plan), collate, self._workers.evaluation)

    def _load(
        self, records: Dataset[Any], batches: PlannedBatches, collate: Collate, num_workers: int
    ) -> DataLoader[Any]:
        """Make a loader of planned batches, whose workers leave signals to the run."""
        loader = make_loader(records, batches, self.args, collate, num_workers=num_workers)
        return _sheltered(self.accelerator.prepare(loader))

    def _describe_record(self, number: int) -> str:
        dataset: Any = self.train_dataset
        return dataset.records[number].where()

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Override transformers: a packed row holds several records, so this is an average."""
        dataset: Any = self.train_dataset  # Trainer makes samples per second of this
        return max(1, round(len(dataset) * args.gradient_accumulation_steps * args.world_size / len(self._batches)))

    # ----------------------------------------------------------------------------------------------------- optimizer

    # Trainer has the model sharded between these two, and reads a checkpoint after them.

    def create_optimizer(self, model: Any = None) -> Any:
        """Override transformers: each part has its own rate and decay. FSDP2 shards here, so weights are kept."""
        if self.args.fsdp and not isinstance(self._live_model, FSDPModule):
            self._to_hand_out = keep_whole(self._live_model)
        made = self.optimizer is None
        optimizer = super().create_optimizer(
            *(() if model is None else (model,))
        )  # transformers 5.20 takes no argument
        if made and self.rates is not None:
            owner: Any = self.model if model is None else model
            split_groups(optimizer, owner, self.rates, decaying=self.get_decay_parameter_names(owner))
        return optimizer

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Override transformers: a release may have more that must not decay than biases and norms."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not name.endswith(network_of(model).undecayed)]

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Override transformers: this is the first call after sharding, when the kept weights are handed out."""
        if self._to_hand_out is not None:
            hand_out(self._live_model, self._to_hand_out.__getitem__)
            self._to_hand_out = None
        return super().create_scheduler(*args, **kwargs)

    # ------------------------------------------------------------------------------------------------------- numbers

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Override transformers: count the work, keep features, and name the records of what fails.

        Returns:
            The micro-batch's share of the loss of the step, a scalar on the device.
        """
        if not self._throughput.is_running:  # not earlier: setting up an engine takes longer than many steps
            self._throughput.start()
            if self.is_deepspeed_enabled:
                before_each_step(model, self._measure_parts)
            if self.args.fsdp:
                check_sharded(model, self.args)
                gather_idle(model)
                self._held = hold_head(model)
        numbers = take_numbers(inputs)
        self._throughput.count(inputs, num_records=len(numbers))
        if self.features is not None:
            self.features.expect(inputs)
        with self._naming_shortage(lambda: describe_batch(inputs)):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if self._held is not None:
            self._held.reshard()
        self._boundary.note_loss(loss, numbers)
        total: Tensor = args[0] if args else kwargs["num_items_in_batch"]
        self._epoch_loss.add(loss, total[0])
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Override transformers: the objective computes the loss, divided by what the whole step counts."""
        assert not return_outputs, "only losses are asked for"
        assert isinstance(num_items_in_batch, Tensor), "counted below"
        loss = self._objective.loss(model, inputs, num_items_in_batch)
        # The gradients of processes are averaged, and the step's loss is their sum.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        """Sum what the objective counts over the batches of a step and all processes; transformers counts labels.

        Every process sums floats, whether its own batches have weights or not, so that the sums can be added.
        """
        if not batch_samples:
            return None
        counts = self._objective.count([batch["layout"] for batch in batch_samples]).to(device, non_blocking=True)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            counts = cast("Tensor", self.accelerator.gather(counts[None])).sum(dim=0)
        return counts

    @property
    def _epoch_loss(self) -> EpochLoss:
        """The sums of this epoch; transformers replaces the object when it resumes from a checkpoint."""
        return self._find(EpochLoss)

    def _end_step(self) -> None:
        self._objective.end_step()
        sums, step = self._epoch_loss, self.state.global_step
        sums.end_step()
        is_over = step % self._steps_per_epoch == 0
        if is_over or step >= self.state.max_steps:
            mean = sums.mean()
            if is_over:  # a partial epoch at the end of a run is kept for a longer run that resumes from it
                sums.end_epoch()
            if mean is not None:
                is_due = self.control.should_log
                self.log({EPOCH_LOSS: mean})
                self.control.should_log = is_due  # logging has switched it off, but the step's own numbers come later

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if not self.is_deepspeed_enabled:  # its step is done by now, and the gradients are gone
            self._measure_parts()
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None and not self.is_deepspeed_enabled:  # nothing is clipped
            self._measure_parts()
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        norm = whole(norm) if isinstance(norm, Tensor) else norm
        self._boundary.note_gradient(norm)
        return norm

    def _measure_parts(self) -> None:
        """Compute the gradient norm of each part, if the current step will be logged."""
        args, step = self.args, self.state.global_step + 1
        is_due = args.logging_strategy == "steps" and step % self.state.logging_steps == 0
        if not (is_due or args.logging_strategy == "epoch" or (step == 1 and args.logging_first_step)):
            return
        scaler, engine = self.accelerator.scaler, self.deepspeed
        scale = 1.0 if scaler is None else scaler.get_scale()
        if engine is not None:
            scale = float(getattr(engine.optimizer, "loss_scale", 1.0))
        self._part_norms = part_norms(self._live_model, device=args.device, scale=scale)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Override transformers: add norms of parts, throughput and memory to a line with a training loss."""
        if "loss" in logs:
            logs |= self._objective.read(self.state.global_step)
            logs |= self._part_norms | self._throughput.read(self.args.device) | {"memory_gib": memory_gib()}
            self._part_norms = {}
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Override transformers: leave training's random numbers and throughput alone, and measure metrics."""
        if self._is_evaluating:  # one of several sets
            return super().evaluate(*args, **kwargs)
        started = time.perf_counter()
        if self.features is not None:
            self.features.wait()
        self._is_evaluating = True
        try:
            with self._random_numbers_kept():
                metrics = super().evaluate(*args, **kwargs)
        finally:
            self._is_evaluating = False
        self._throughput.leave_out(started)
        if self.is_in_train or not self.args.load_best_model_at_end:  # the best one was sampled at its own step
            self._ask_samples()
        return metrics

    def _ask_before(self) -> None:
        if self._measurement is not None:
            self._measure_answers(self._measurement.before)
        self._ask_samples()

    def measure_after(self) -> None:
        """Answer the validation records again, and report the change. Every process must call it."""
        if self._measurement is None:
            return
        self._measure_answers(self._measurement.after)
        for line in self._measurement.describe() if self.is_world_process_zero() else ():
            say(line)

    def _ask_samples(self) -> None:
        if self._samples is None:
            return
        samples, started = self._samples, time.perf_counter()
        lines: list[str] = []
        step, is_leader = self.state.global_step, self.is_world_process_zero()
        with self._asking() as model:
            raise_together(lambda: lines.extend(samples.take(model, step=step, is_leader=is_leader)))
        for line in lines:
            say(line)
        for callback in self.callback_handler.callbacks:
            if lines and isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("samples", "\n\n".join(lines), step)
        self._throughput.leave_out(started)

    @contextmanager
    def _asking(self) -> Iterator[nn.Module]:
        """Yield the model for questions outside a step: in evaluation mode, computing as in a training step.

        accelerate puts autocast around the outermost module's forward only, while generation and the vision side
        call inner modules, whose weights have several precisions. So all questions are asked in this context.
        """
        model = self._live_model
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast(), self._random_numbers_kept():
                yield model
        finally:
            for module, is_training in modes:
                module.training = is_training

    def _random_numbers_kept(self) -> Any:
        """Return a context that keeps the random state: an evaluation draws random numbers for its data loader.

        So a run that was stopped before an evaluation and evaluates after resuming gives the same numbers.
        """
        return torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else [])

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Have the objective add up over all processes; transformers averages batches, however small they are."""
        self._measured = None
        output = super().evaluation_loop(*args, **kwargs)
        assert self._measured is not None, "every process gets batches"
        sums: list[float] = add_up(self._measured.float().to(self.args.device)).tolist()
        found = self._objective.describe(sums)
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics: Any = output.metrics
        mean = found.get("loss", math.nan)
        if not math.isfinite(mean):
            why = "the loss of some record is not finite" if "loss" in found else "no record has a trained token"
            notice(f"step {self.state.global_step}: {prefix}_loss is {mean}: {why}; no checkpoint is the best by it")
        eval_metrics = self.eval_metrics.get(prefix.removeprefix("eval").removeprefix("_"))
        if eval_metrics is not None:
            of_tokens = self._objective.perplexity_of(sums)
            found |= eval_metrics.of_loss(*of_tokens) if of_tokens is not None else {}
            found |= self._measure_answers(eval_metrics.measure)
        metrics |= {f"{prefix}_{name}": value for name, value in (found | {"loss": mean}).items()}
        return output

    def _measure_answers(self, measure: Callable[..., _T]) -> _T:
        """Have the model answer, on all processes alike, without changing training's random numbers."""
        with self._asking() as model:
            return measure(
                model,
                rank=self.args.process_index,
                num_processes=self.args.world_size,
                between=lambda: self._boundary.on_prediction_step(self.args, self.state, self.control),
            )

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Override transformers: the objective measures, so that the batch size does not change a mean."""
        inputs = self._prepare_inputs(inputs)
        if self.features is not None:
            self.features.expect(inputs)
        with torch.no_grad(), self.accelerator.autocast(), self._naming_shortage(lambda: describe_batch(inputs)):
            sums = self._objective.measure(model, inputs)
        self._measured = sums.cpu() if self._measured is None else self._measured + sums.cpu()
        return sums[0].float().to(self.args.device), None, None

    def measure(self, batch: dict[str, Tensor]) -> float:
        """Return the supervised loss of one batch in evaluation mode, whatever the objective is.

        Every process must call it, with the same batch.
        """
        with self._asking() as model:
            return float(model(**self._prepare_inputs(dict(batch)))["loss"])

    def _make_up_evaluation(self) -> None:
        self.state.log_history = [  # left by an evaluation that was stopped between two sets
            entry
            for entry in self.state.log_history
            if entry["step"] != self.state.global_step or not any(key.startswith("eval_") for key in entry)
        ]
        metrics = self._evaluate(None, None)
        checkpoint = self._checkpoint_path()
        if self._determine_best_metric(metrics, None) and checkpoint.is_dir():
            self.state.best_model_checkpoint = str(checkpoint)

    # --------------------------------------------------------------------------------------------------- checkpoints
    # The following overrides private methods. Trainer writes a checkpoint's files directly under its final name and has
    # no public hook around that: `_get_output_dir` and `_save_checkpoint` may go when transformers writes checkpoints
    # atomically. It lets rank 0 write all weights alone between two collectives, whose timeout is short: `_save` and
    # `_save_optimizer_and_scheduler` may go when the others wait for as long as that takes. It loads weights key by key
    # and ignores unknown ones: `_load_from_checkpoint` and `_load_best_model` may go when it loads through
    # `from_pretrained`, which converts MiniCPM-V-2's keys.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as ``Trainer`` does, with this package's errors.

        Raises:
            Stopped: A signal asked for it; the newest checkpoint holds everything.
            NotFiniteError: A loss, a gradient, or a weight to be saved is NaN or infinite.
            DiskError: A checkpoint could not be written.
            MemoryShortageError: Memory ran out.
        """
        try:
            with self._naming_shortage("weights, gradients and optimizer, besides what a batch needs"):
                return super().train(*args, **kwargs)
        except EvaluationStopped:  # weights, optimizer and schedule are at the end of a step
            self.save_now()
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise
        except Stopped:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise
        except AlreadyTrained:
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
                self._load_best_model()
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            self.is_in_train = False
            self.last_saved = self.state.global_step
            return TrainOutput(self.state.global_step, 0.0, {})

    def _naming_shortage(self, what: str | Callable[[], str]) -> AbstractContextManager[None]:
        """Translate out-of-memory errors into a message with the step."""

        def where() -> str:
            if torch.is_grad_enabled():
                return f"step {self.state.global_step + 1} of {self.state.max_steps}"
            return f"evaluation after step {self.state.global_step}"

        return naming_shortage(where, what, fix=self.ways_to_need_less)

    @property
    def _live_model(self) -> nn.Module:
        assert self.model is not None, "it was built with one"
        return self.model

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _checkpoint_path(self) -> Path:
        return Path(self.args.output_dir or "") / f"checkpoint-{self.state.global_step}"

    def refuse_not_finite(self, *, with_optimizer: bool = False) -> None:
        """Verify before saving that all trained weights are finite. Every process must call it.

        Args:
            with_optimizer: Whether the optimizer's state is saved as well.

        Raises:
            NotFiniteError: A trained weight, or a value of that state, is NaN or infinite.
        """
        refuse_not_finite(
            self._live_model,
            where=f"step {self.state.global_step} of {self.state.max_steps}",
            fix=way_out(self.args, before=self.state.global_step),
            optimizer=self.optimizer if with_optimizer else None,
        )

    def refuse_no_number(self, batch: dict[str, Tensor]) -> None:
        """Verify that the weights of the last update, which no step has used yet, compute a finite loss.

        Every process must call it, with the same batch.

        Raises:
            NotFiniteError: The loss is NaN or infinite.
        """
        loss = self.measure(batch)
        if any(not math.isfinite(each) for each in gather(loss)):
            raise NotFiniteError(
                f"step {self.state.global_step} of {self.state.max_steps}: found finite weights that compute a loss of "
                f"{loss}, expected a finite number; nothing of this step was saved as a model\n"
                f"  fix: {way_out(self.args, before=self.state.global_step)}"
            )

    def save_now(self) -> None:
        """Write a checkpoint of the last step, unless there is one. Every process must call it."""
        if self.last_saved != self.state.global_step:
            self.args.save_only_model = False
            self._save_checkpoint(self._live_model, None)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self._boundary.is_stopping:  # weights alone cannot be resumed; transformers reads the switch from args only
            self.args.save_only_model = False
        self.refuse_not_finite(with_optimizer=not self.args.save_only_model)
        final = self._checkpoint_path()
        staged = final.parent / STAGING / final.name
        started = time.perf_counter()
        needed = self._bytes_needed or estimate_bytes(
            self._live_model, None if self.is_deepspeed_enabled else self.optimizer
        )

        def write() -> None:
            with writing(staged, needed=needed):
                self._write_checkpoint(model, trial, staged)

        def finish() -> None:
            if self.args.should_save:
                with writing(staged, needed=needed):
                    self._finish(staged)
                publish(staged, final)

        self._epoch_loss.settle()
        raise_together(lambda: check_space(final.parent, self._bytes_needed or 0))
        self._join_pictures()
        if self._writes_in_turns:
            write()  # a process with a fault must leave, not wait here
            wait_for_all()
        else:
            raise_together(write)
        raise_together(finish)
        if self.args.local_process_index == 0 and staged.exists():  # on another machine with its own disk
            publish(staged, final)
        if self.args.should_save:
            keep = (str(final), self.state.best_model_checkpoint)
            rotate(final.parent, limit=self.args.save_total_limit, keep=keep)
            with suppress(OSError):  # another machine is still writing
                staged.parent.rmdir()
        wait_for_all()
        self.last_saved = self.state.global_step
        self._throughput.leave_out(started)

    @property
    def _writes_in_turns(self) -> bool:
        """Return whether the processes wait for each other while they write a checkpoint."""
        return bool(self.is_deepspeed_enabled or self.is_fsdp_enabled or self.state.best_global_step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as transformers does, and have every process wait for the one that writes."""
        super().save_model(output_dir, _internal_call)  # rank 0 writes all weights
        if self._writes_in_turns:  # not in _save: transformers before 5.23 calls it in the first process alone
            wait_for_all()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict:  # DeepSpeed copies tied weights apart, and both would be written
            tied: dict[str, str] = getattr(self._live_model, "all_tied_weights_keys", {})
            pairs = {name: same for name, same in tied.items() if {name, same} <= state_dict.keys()}
            state_dict = state_dict | {name: state_dict[same] for name, same in pairs.items()}
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled or is_peft(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # transformers would first write all weights once more, which nothing reads.
        plugin: Any = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self._live_model, output_dir)
        schedule: Any = self.lr_scheduler
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _join_pictures(self) -> None:
        """Merge the image digests of all processes' data workers on every process."""
        if self.pictures is not None and len(self.pictures) and num_processes() > 1:
            known = torch.from_numpy(self.pictures.digests.copy()).to(self.args.device)
            self.pictures.digests[:] = take_maximum(known).cpu().numpy()

    def _write_checkpoint(self, model: nn.Module, trial: Any, staged: Path) -> None:
        self._staging = str(staged.parent)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(self._checkpoint_path())

    def _finish(self, staged: Path) -> None:
        self.state.save_to_json(
            str(staged / TRAINER_STATE_NAME)
        )  # again, since it now names the best checkpoint's final path
        (staged / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # an unused pickle; run.json has the settings
        if self._write_companions is not None:
            self._write_companions(staged)
        if is_peft(self.model) and self.base is not None:
            write_base(staged, self.base)
        if self.pictures is not None and len(self.pictures):
            np.savez(staged / PICTURES, states=self.pictures.states, digests=self.pictures.digests)
        seal(
            staged,
            step=self.state.global_step,
            world_size=self.args.world_size,
            engine=name_engine(self.args),
            fingerprint=self.fingerprint,
        )
        self._bytes_needed = num_bytes(staged)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        live: Any = model if model is not None else self.model
        if is_peft(live):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        restore_weights(live, Path(resume_from_checkpoint))

    def _own_checkpoint(self, named: Path) -> Path:
        """Return this run's checkpoint of that name, once verified as complete and free of foreign objects."""
        own = Path(self.args.output_dir or "") / named.name
        found = "no checkpoint of this run" if own not in list_checkpoints(own.parent) else find_fault(own)
        found = found or find_foreign_object(own)
        if found is not None:
            raise CheckpointError(
                f"{own}: found {found}, expected the best checkpoint of this run\n"
                "  fix: start with --keep_best false, or put the checkpoint back"
            )
        return own

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint or "")
        # A resumed run has this name from a file of the checkpoint, which may be forged.
        self.state.best_model_checkpoint = str(self._own_checkpoint(best))
        if is_peft(self.model) or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        assert self.state.best_model_checkpoint is not None, "Trainer calls it only if there is one"
        notice(f"loading the best checkpoint, {self.state.best_model_checkpoint}")
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def _sheltered(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Make a loader's workers leave signals to the run."""
    # accelerate's loaders wrap the one that starts the workers, and copy the outer one to skip batches.
    for each in (loader, getattr(loader, "base_dataloader", loader)):
        if each.num_workers and not isinstance(each.worker_init_fn, WorkerStart):
            each.worker_init_fn = WorkerStart(each.worker_init_fn)
            if (each.multiprocessing_context or multiprocessing).get_start_method() == "fork":
                each.multiprocessing_context = ShelteringContext()
    return loader


def is_peft(model: Any) -> bool:
    """Return whether PEFT has wrapped a model."""
    return hasattr(model, "peft_config")
