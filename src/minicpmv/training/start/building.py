"""Builds the trainer of a run from its inputs, its model and the flags."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from minicpmv.data.samples.collation import PackedCollator
from minicpmv.errors import UsageError
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.models.checkpoints.companions import copy_companions
from minicpmv.models.checkpoints.downsampling import state_downsample_mode
from minicpmv.models.checkpoints.film_settings import film_settings_of, state_film_settings
from minicpmv.report.run_directory import SAMPLES
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.planned_batches import BatchPlan
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.inputs.shared_memory import Workers
from minicpmv.training.learning.compilation import CompiledLayers
from minicpmv.training.loop.interruption import Interruption
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.before_and_after import Measurement
from minicpmv.training.monitoring.eval_metrics import EvalMetrics
from minicpmv.training.monitoring.memory_advice import ways_to_need_less
from minicpmv.training.monitoring.samples import Samples
from minicpmv.training.objectives.objective import Objective
from minicpmv.training.start.beginning import Beginning
from minicpmv.training.start.learner import Learner
from minicpmv.training.start.recomputing import recomputed_layers
from minicpmv.training.start.settled import Settled

__all__ = ["build_trainer"]


def build_trainer(
    settled: Settled,
    inputs: RunInputs,
    beginning: Beginning,
    learner: Learner,
    *,
    plan: BatchPlan,
    args: TrainingArguments,
    objective: Objective,
    interruption: Interruption | None,
    workers: Workers,
) -> MiniCPMVTrainer:
    """Build the trainer, with all that is asked of the model besides training it.

    Args:
        settled: The run.
        inputs: Data and base checkpoint.
        beginning: Where it begins.
        learner: What learns.
        plan: The records of each training batch.
        args: transformers' arguments.
        objective: What is optimised.
        interruption: Its signals end training at a step boundary; None: they end it at once.
        workers: Numbers of data workers.

    Raises:
        UsageError: transformers refuses an argument, or a metric does not apply to the records.
    """
    run, model = settled.run, learner.model

    def write_companions(directory: Path) -> None:
        copy_companions(inputs.base, directory, dtype=model.dtype)
        state_downsample_mode(directory, run.downsample_mode)
        state_film_settings(directory, film_settings_of(inputs.train.processor.image_processor))

    packed = PackedCollator(inputs.collator.pad_token_id, compares=objective.compares_answers)
    try:
        trainer = MiniCPMVTrainer(
            model=model,
            args=args,
            train_dataset=inputs.train,
            eval_dataset=inputs.first_validation if "" in inputs.validation else dict(inputs.validation) or None,
            data_collator=packed if objective.compares_answers else inputs.collator,
            plan=plan,
            objective=objective,
            train_collator=packed if run.packing or objective.compares_answers else None,
            write_companions=None if run.use_lora else write_companions,
            interruption=interruption,
            samples=_samples(inputs, run, args),
            eval_metrics=_eval_metrics(inputs, run),
            measurement=_measurement(inputs, run, args),
            workers=workers,
        )
    except (ImportError, RuntimeError, ValueError) as error:  # such as a tracker that lacks its settings
        raise UsageError(
            f"training arguments: found what transformers' Trainer refuses ({error}), expected what it accepts\n"
            "  fix: change or remove the flag that it names (`minicpmv train --help` explains each)"
        ) from error
    trainer.rates, trainer.fingerprint, trainer.base = learner.rates, beginning.fingerprint, beginning.base
    trainer.releases_gradients = run.release_gradients
    trainer.ways_to_need_less = ways_to_need_less(run, args)
    trainer.pictures = inputs.pictures
    trainer.add_callback(recomputed_layers(settled, inputs=inputs, config=model.config, plan=plan, args=args))
    trainer.add_callback(CompiledLayers(settled.compilation))
    if run.early_stopping and not run.dry_run:
        trainer.stop_early(run.early_stopping)
    return trainer


def _eval_metrics(inputs: RunInputs, run: RunArguments) -> dict[str, EvalMetrics]:
    if run.eval_metrics is None:
        return {}
    return {
        name: EvalMetrics(
            dataset,
            find_metrics(split_names(run.eval_metrics), flag="--eval_metrics"),
            num_records=run.eval_metrics_records,
            max_new_tokens=run.eval_max_new_tokens,
            batch_size=run.answer_batch_size,
        )
        for name, dataset in inputs.validation.items()
    }


def _samples(inputs: RunInputs, run: RunArguments, args: TrainingArguments) -> Samples | None:
    if not inputs.validation or not run.eval_samples or run.dry_run:
        return None
    return Samples(
        list(inputs.validation.values()),
        num_records=run.eval_samples,
        max_new_tokens=run.eval_sample_tokens,
        batch_size=run.answer_batch_size,
        path=Path(args.output_dir or "") / SAMPLES,
    )


def _measurement(inputs: RunInputs, run: RunArguments, args: TrainingArguments) -> Measurement | None:
    if not inputs.validation or not run.measure or run.dry_run:
        return None
    return Measurement(
        inputs.validation,
        num_records=run.measure,
        batch_size=run.answer_batch_size,
        directory=Path(args.output_dir or ""),
    )
