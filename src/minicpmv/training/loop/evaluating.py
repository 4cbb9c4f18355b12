"""Extends the trainer with all that is asked of a model besides training it: losses, answers and metrics of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.integrations.integration_utils import TensorBoardCallback

from minicpmv.data.batches.grouping import BatchPlanner
from minicpmv.errors import NotFiniteError
from minicpmv.machine.shortage import naming_shortage
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.processes import add_up, gather, raise_together
from minicpmv.training.inputs.planned_batches import PlannedBatches, make_loader
from minicpmv.training.inputs.shared_memory import Workers
from minicpmv.training.inputs.vision_cache import FeatureWriter
from minicpmv.training.loop.boundary import StepBoundary
from minicpmv.training.loop.checkpointing import CheckpointingTrainer
from minicpmv.training.loop.interruption import shelter
from minicpmv.training.loop.last_good import way_out
from minicpmv.training.monitoring.before_and_after import Measurement
from minicpmv.training.monitoring.eval_metrics import EvalMetrics
from minicpmv.training.monitoring.memory_advice import describe_batch
from minicpmv.training.monitoring.samples import Samples
from minicpmv.training.objectives.objective import Objective

__all__ = ["EvaluatingTrainer"]

_C = TypeVar("_C")
_T = TypeVar("_T")


class EvaluatingTrainer(CheckpointingTrainer):
    """Evaluates a model in training, without changing training's random numbers.

    Args:
        objective: What is optimised, and measured.
        samples: Questions to the model before the first step and at each evaluation.
        eval_metrics: Metrics of its answers at each evaluation, in addition to the loss, by set.
        measurement: Questions before the first step, and again in :meth:`measure_after`.
        workers: Numbers of data workers; by default as the flags say.
        kwargs: Arguments of ``CheckpointingTrainer``.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        samples: Samples | None = None,
        eval_metrics: Mapping[str, EvalMetrics] | None = None,
        measurement: Measurement | None = None,
        workers: Workers | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._objective = objective
        self._samples = samples
        self.eval_metrics = eval_metrics or {}
        self._measurement = measurement
        self._workers = workers or Workers(*[self.args.dataloader_num_workers] * 2)
        self._is_evaluating = False
        self._measured: Tensor | None = None
        """What the objective adds up in this evaluation on this process."""
        self.ways_to_need_less = "lower --per_device_train_batch_size"
        """Advice for when memory runs out."""
        self.features: FeatureWriter | None = None
        """Stores image features of frozen modules; see :meth:`keep_features`."""

    def keep_features(self, writer: FeatureWriter | None) -> None:
        """Store features that are not in the cache yet; None if there is nothing to store."""
        self.features = writer
        if writer is not None:
            self.add_callback(writer)

    def _find(self, kind: type[_C]) -> _C:
        """Return a callback of the run; transformers replaces those whose state it has read from a checkpoint."""
        return next(each for each in self.callback_handler.callbacks if isinstance(each, kind))

    def _naming_shortage(self, what: str | Callable[[], str]) -> AbstractContextManager[None]:
        """Translate out-of-memory errors into a message with the step."""

        def where() -> str:
            if torch.is_grad_enabled():
                return f"step {self.state.global_step + 1} of {self.state.max_steps}"
            return f"evaluation after step {self.state.global_step}"

        return naming_shortage(where, what, fix=self.ways_to_need_less)

    @contextmanager
    def asking(self) -> Iterator[nn.Module]:
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

    # ------------------------------------------------------------------------------------------------------ evaluations

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
        number = self._workers.evaluation
        loader = make_loader(dataset, PlannedBatches(plan), self.args, collate, num_workers=number)
        return shelter(self.accelerator.prepare(loader))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Override transformers: leave training's random numbers and throughput alone, and measure metrics."""
        if self._is_evaluating:  # one of several sets
            return super().evaluate(*args, **kwargs)
        if self.features is not None:
            self.features.wait()
        self._is_evaluating = True
        try:
            with self._random_numbers_kept():
                metrics = super().evaluate(*args, **kwargs)
        finally:
            self._is_evaluating = False
        if self.is_in_train or not self.args.load_best_model_at_end:  # the best one was sampled at its own step
            self._ask_samples()
        return metrics

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

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Override transformers: the objective measures, so that the batch size does not change a mean."""
        inputs = self._prepare_inputs(inputs)
        if self.features is not None:
            self.features.expect(inputs)
        with torch.no_grad(), self.accelerator.autocast(), self._naming_shortage(lambda: describe_batch(inputs)):
            sums = self._objective.measure(model, inputs)
        self._measured = sums.cpu() if self._measured is None else self._measured + sums.cpu()
        return sums[0].float().to(self.args.device), None, None

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

    # --------------------------------------------------------------------------------------------------- single batches

    def measure(self, batch: dict[str, Tensor]) -> float:
        """Return the supervised loss of one batch in evaluation mode, whatever the objective is.

        Every process must call it, with the same batch.
        """
        with self.asking() as model:
            return float(model(**self._prepare_inputs(dict(batch)))["loss"])

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

    # ---------------------------------------------------------------------------------------------------------- answers

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
        samples = self._samples
        lines: list[str] = []
        step, is_leader = self.state.global_step, self.is_world_process_zero()
        with self.asking() as model:
            raise_together(lambda: lines.extend(samples.take(model, step=step, is_leader=is_leader)))
        for line in lines:
            say(line)
        for callback in self.callback_handler.callbacks:
            if lines and isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("samples", "\n\n".join(lines), step)

    def _measure_answers(self, measure: Callable[..., _T]) -> _T:
        """Have the model answer, on all processes alike, without changing training's random numbers."""
        boundary = self._find(StepBoundary)
        with self.asking() as model:
            return measure(
                model,
                rank=self.args.process_index,
                num_processes=self.args.world_size,
                between=lambda: boundary.on_prediction_step(self.args, self.state, self.control),
            )
