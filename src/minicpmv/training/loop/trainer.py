"""Extends transformers' Trainer with atomic checkpoints and per-token numbers; everything else is inherited.

The model normalises the loss: it divides by the total label weight of the whole optimizer step over all micro-batches
and processes (``num_items_in_batch``); Trainer compensates for the averaging between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, ProgressCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

from minicpmv.models.networks.flops import flops_of_each
from minicpmv.report.evaluations import key_of
from minicpmv.training.checkpoints.trained_weights import ChangeWatch
from minicpmv.training.distributed.console import notice
from minicpmv.training.distributed.fsdp import check_sharded, gather_idle, hand_out, hold_head, keep_whole, whole
from minicpmv.training.inputs.planned_batches import (
    BatchPlan,
    Collate,
    EpochTeller,
    PlannedBatches,
    count_steps,
    make_loader,
)
from minicpmv.training.inputs.record_ids import NumberedCollator, NumberedDataset, take_numbers
from minicpmv.training.learning.gradient_release import GradientRelease
from minicpmv.training.learning.rates import Rates, follow_schedule, split_groups
from minicpmv.training.learning.targets import network_of
from minicpmv.training.loop.best_evaluation import follow_metric
from minicpmv.training.loop.boundary import AlreadyTrained, EvaluationStopped, StepBoundary, Stopped
from minicpmv.training.loop.early_stopping import EarlyStopping
from minicpmv.training.loop.evaluating import EvaluatingTrainer
from minicpmv.training.loop.interruption import Interruption, shelter
from minicpmv.training.loop.moments import AtEndOfStep, AtStart, BeforeFirstStep, StateOfObjective
from minicpmv.training.monitoring.epoch_loss import EPOCH_LOSS, EpochLoss
from minicpmv.training.monitoring.gradients import before_each_step, part_norms, part_norms_of, total_norm
from minicpmv.training.monitoring.memory_advice import describe_batch
from minicpmv.training.monitoring.progress import RunProgress, memory_gib
from minicpmv.training.monitoring.throughput import Throughput
from minicpmv.training.objectives.choice import is_own, name_objective
from minicpmv.training.objectives.objective import Batch, Start, check_loss

__all__ = ["MiniCPMVTrainer"]


class MiniCPMVTrainer(EvaluatingTrainer):
    """Trains a MiniCPM-V model, bare or wrapped by PEFT.

    Args:
        plan: The records of each training batch.
        train_collator: Joins the records of a planned batch; evaluation uses ``data_collator``.
        interruption: Its signals end training at a step boundary, with a checkpoint.
        kwargs: Arguments of ``EvaluatingTrainer`` and of what it extends.
    """

    def __init__(
        self,
        *,
        plan: BatchPlan,
        train_collator: Collate | None = None,
        interruption: Interruption | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._train_collator: Any = train_collator or self.data_collator
        self._batches = PlannedBatches(plan, rank=self.args.process_index)
        self._steps_per_epoch = count_steps(plan, self.args, epochs=1)
        self._boundary = StepBoundary(
            interruption,
            describe=self._describe_record,
            was_skipped=lambda: bool(self.accelerator.optimizer_step_was_skipped),
            make_up=self._make_up_evaluation,
            measured=[key_of(name, "loss") for name in self._set_names],
            own_loss=name_objective(self._objective) if is_own(self._objective) else None,
        )
        self._throughput = Throughput(
            flops_of_each(self._live_model.config, self._live_model.named_parameters(remove_duplicate=False))
        )
        self._part_norms: dict[str, float] = {}
        self._held: FSDPModule | None = None
        """Under FSDP, the module that stays gathered until the end of a backward pass."""
        self._to_hand_out: dict[str, Tensor] | None = None
        """Under FSDP, the tensors that rank 0 distributes as soon as the model is sharded."""
        self.rates: Rates | None = None
        """Learning rates of each part; None uses transformers' two groups, with and without decay."""
        self.releases_gradients = False
        """Whether each weight is updated as soon as its gradient is complete, and the gradient freed."""
        self._release: GradientRelease | None = None
        self._patience = 0
        self.changes = ChangeWatch()
        """Detects unchanged parts at the end."""
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        for callback in (  # the objective is ready when the boundary makes up for an evaluation
            EpochTeller(self._batches),
            StateOfObjective(),
            AtStart(self._follow_arguments, self._begin_objective),  # before anything asks how often
            self._boundary,
            EpochLoss(),
            AtEndOfStep(self._end_step),
            BeforeFirstStep(self._ask_before),
            self.changes,
            RunProgress(bar=not self.args.disable_tqdm),
        ):
            self.add_callback(callback)

    def stop_early(self, patience: int) -> None:
        """End training after this many evaluations in a row without improvement."""
        self._patience = patience
        self.add_callback(EarlyStopping(patience))

    def _follow_arguments(self) -> None:
        """Log, evaluate, save, compare and stop as this run is asked to; transformers asks the checkpoint."""
        self.state.compute_steps(self.args, self.state.max_steps)
        states: Any = self.state.stateful_callbacks
        for each in [*self.callback_handler.callbacks, self.control]:
            if isinstance(each, ExportableState):  # transformers knows only those that the earlier run had
                states.setdefault(type(each).__name__, each.state())
        follow_schedule(self.lr_scheduler)
        if 0 < self.state.max_steps <= self.state.global_step:
            taken = f"{self.state.global_step:,} of {self.state.max_steps:,} steps"
            notice(f"the checkpoint has taken {taken}, so nothing is left to train; its weights are saved")
        num_since_best = follow_metric(self.state, self.args)
        if self._patience:
            stopping = self._find(EarlyStopping)
            stopping.early_stopping_patience = self._patience
            if num_since_best is not None:
                stopping.early_stopping_patience_counter = num_since_best

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
            return self._load_training(records, PlannedBatches(plan), self._train_collator)

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
            asking=self.asking,
            compute=compute,
        )
        self._objective.begin(start)
        if self.features is not None:
            self.features.wait()

    # ------------------------------------------------------------------------------------------------------- batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Override transformers: batches follow our plan, and carry the numbers of their records."""
        dataset: Any = NumberedDataset(self.train_dataset)
        collate = NumberedCollator(self._train_collator)
        return self._load_training(dataset, self._batches, collate)

    def _load_training(self, records: Dataset[Any], batches: PlannedBatches, collate: Collate) -> DataLoader[Any]:
        loader = make_loader(records, batches, self.args, collate, num_workers=self._workers.training)
        return shelter(self.accelerator.prepare(loader))

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
            if self.releases_gradients:
                self._release = GradientRelease(cast("Any", self.optimizer).optimizer, self._live_model)
        numbers = take_numbers(inputs)
        self._throughput.count(inputs, num_records=len(numbers))
        if self.features is not None:
            self.features.expect(inputs)
        if self._release is not None:
            self._release.begin()
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
        loss = check_loss(self._objective, self._objective.loss(model, inputs, num_items_in_batch))
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
        if self._release is not None:
            norm = total_norm(self._release.norms().values())
        else:
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
        if self._release is not None:
            self._part_norms = part_norms_of(self._release.norms(), self._live_model)
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
        finally:
            if self._release is not None:
                self._release.end()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, which takes no time of the steps."""
        with self._throughput.paused():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self._boundary.is_stopping:  # weights alone cannot be resumed; transformers reads the switch from args only
            self.args.save_only_model = False
        self._epoch_loss.settle()
        with self._throughput.paused():
            super()._save_checkpoint(model, trial)
