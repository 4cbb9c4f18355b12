"""Finishes a run after training: evaluates, saves, verifies, and prints the next steps."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from pathlib import Path

import torch

from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.errors import DataError, MiniCPMVError, NotFiniteError, UsageError
from minicpmv.models.checkpoints.reference import discard
from minicpmv.report.writing import write_report
from minicpmv.training.distributed.console import notice, say
from minicpmv.training.distributed.processes import gather
from minicpmv.training.finish.rounding import Kept, describe_kept, warn_of_loss
from minicpmv.training.finish.saving import AllLostError, TooLargeError, save_adapter, save_full
from minicpmv.training.finish.verification import choose_batch, verify_saved
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.base_checkpoint import dtype_to_save
from minicpmv.training.inputs.run_inputs import RunInputs
from minicpmv.training.loop.interruption import Interruption
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.epoch_loss import EPOCH_LOSS
from minicpmv.training.monitoring.run_record import RunFile, chat_command, minicpmv_command

__all__ = ["complete"]

_EXAMPLES = 100
"""Number of records among which the printed chat command looks for a question."""


def complete(
    trainer: MiniCPMVTrainer,
    metrics: dict[str, float],
    *,
    inputs: RunInputs,
    run: RunArguments,
    record: RunFile,
    interruption: Interruption,
) -> dict[str, float]:
    """Finish a run. Every process must call it.

    Args:
        trainer: The trainer, after training.
        metrics: Metrics of training.
        inputs: The run's inputs.
        run: The flags.
        record: Gets the results. Its status is ``finished`` only if nothing failed.
        interruption: Stops the run immediately once everything is saved.

    Returns:
        The metrics, with those of validation.

    Raises:
        MiniCPMVError: Nothing was trained, weights are not finite, there is no room to save, or what was saved is not
            what was trained.
    """
    if inputs.validation:
        metrics = metrics | _evaluate(trainer)
    metrics = metrics | _tell_losses(trainer)
    trainer.measure_after()
    if trainer.features is not None:
        say(trainer.features.finish(trainer.args.device))  # verification computes without cached features
    record.note(metrics=metrics, log=trainer.state.log_history)
    _refuse_unchanged(trainer, record)
    dataset = inputs.train if inputs.first_validation is None else inputs.first_validation
    try:
        if not run.verify_saved:
            _try_once(trainer, inputs, dataset, run)
        saved, kept = _save(trainer, inputs, run)
    except NotFiniteError:
        record.write(status="not finite", step=trainer.state.global_step)
        raise
    except AllLostError:
        record.write(status="unchanged", step=trainer.state.global_step)
        raise
    if kept:
        _tell_kept(kept, record, run, dtype_to_save(run, inputs.config))
    if run.verify_saved:
        record.write(status="saved")
        try:
            collator = inputs.collator
            verify_saved(trainer, run, saved, kept, dataset=dataset, collator=collator, interruption=interruption)
        except MiniCPMVError:
            record.write(status="not verified")
            raise
    record.write(status="finished")
    if run.report and trainer.is_world_process_zero():
        _write_report(trainer.args.output_dir or "")
    _tell(inputs, run, trainer.args.output_dir or "")
    return metrics


def _evaluate(trainer: MiniCPMVTrainer) -> dict[str, float]:
    """Evaluate the model that will be saved, unless it was evaluated at its own step: the last one, or the best."""
    state = trainer.state
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    entries = [entry for entry in state.log_history if entry["step"] == (best or state.global_step)]
    logged = {name: value for entry in entries for name, value in entry.items() if name.startswith("eval_")}
    return logged or trainer.evaluate()


def _tell_losses(trainer: MiniCPMVTrainer) -> dict[str, float]:
    """Report the final losses, and the step of the saved weights if it is not the last."""
    state, args = trainer.state, trainer.args
    epochs = [entry[EPOCH_LOSS] for entry in state.log_history if EPOCH_LOSS in entry]
    if state.global_step < state.max_steps:
        say(f"early stopping: ended after step {state.global_step} of {state.max_steps}")
    if args.load_best_model_at_end and state.best_global_step:
        say(
            f"best: step {state.best_global_step} of {state.global_step}, {args.metric_for_best_model} "
            f"{state.best_metric:.4f}; its weights are saved"
        )
    if not epochs:
        return {}
    if len(epochs) > 1:
        say(f"training loss {epochs[0]:.4f} in the first epoch, {epochs[-1]:.4f} in the last (means over its tokens)")
    else:
        say(f"training loss {epochs[0]:.4f} (mean over the epoch's tokens)")
    return {"first_epoch_loss": epochs[0], "last_epoch_loss": epochs[-1]}


def _refuse_unchanged(trainer: MiniCPMVTrainer, record: RunFile) -> None:
    """Refuse to save a model that equals its base; warn of single parts that have not changed."""
    assert trainer.model is not None, "it was built with one"
    parts, number = trainer.changes.unchanged_parts(trainer.model)
    steps = f"{trainer.state.global_step:,} steps"
    if parts and len(parts) == number:
        record.write(status="unchanged", step=trainer.state.global_step)
        raise UsageError(
            f"Nothing was trained: after {steps} found all trained weights ({', '.join(parts)}) unchanged, expected "
            "some to have changed; nothing is saved\n"
            "  fix: raise --learning_rate (in bfloat16 or float16 small updates vanish), and make sure that "
            "--lora_alpha is not 0"
        )
    for part in parts:
        notice(
            f"{part}: unchanged after {steps}, although it is trained: no record uses it, or its updates are too small"
        )


def _try_once(trainer: MiniCPMVTrainer, inputs: RunInputs, dataset: ConversationDataset, run: RunArguments) -> None:
    """Compute one loss with the model to be saved, where no verification will do so.

    Raises:
        NotFiniteError: The loss is not finite.
    """
    batch = None
    try:
        batch, _ = choose_batch(dataset, inputs.collator, most_tokens=run.model_max_length)
    except DataError as fault:  # the model is saved anyway
        notice(f"the trained model could not be tried on a record before saving: {fault}")
    if all(gather(batch is not None)) and batch is not None:
        trainer.refuse_no_number(batch)


def _tell_kept(kept: dict[str, Kept], record: RunFile, run: RunArguments, dtype: torch.dtype) -> None:
    """Report how much of the training rounding has kept, which the unrounded model's numbers do not show."""
    say(describe_kept(kept, dtype))
    text = warn_of_loss(kept, dtype) if run.save_rounding == "nearest" else None  # stochastic: it varies around 1
    if text is not None:
        notice(text)
    parts = {part: dataclasses.asdict(each) for part, each in kept.items()}
    record.note(rounding={"dtype": str(dtype).removeprefix("torch."), "how": run.save_rounding, "parts": parts})


def _save(
    trainer: MiniCPMVTrainer, inputs: RunInputs, run: RunArguments
) -> tuple[dict[str, torch.Tensor], dict[str, Kept]]:
    """Save the result; return its tensors, by their names in the loaded model, and what rounding has kept."""
    directory = Path(trainer.args.output_dir or "")
    if trainer.args.should_save:
        discard(directory)
    if run.use_lora:
        return save_adapter(trainer, directory), {}
    dtype = dtype_to_save(run, inputs.config)
    try:
        return save_full(
            trainer,
            directory,
            base=inputs.base,
            dtype=dtype,
            rounding=run.save_rounding,
            may_lose_all=run.save_dtype != "auto" or run.save_rounding == "stochastic",  # varies around 1
        )
    except (TooLargeError, AllLostError):
        trainer.save_now()  # so that the training is not lost
        raise


def _write_report(output_dir: str) -> None:
    """Write the run's report. A failure costs only a notice, since the model is already saved."""
    try:
        written = write_report([output_dir])
    except (MiniCPMVError, OSError) as error:
        command = shlex.join([minicpmv_command(), "report", output_dir])
        notice(f"the report was not written ({error}); `{command}` tries again")
    else:
        say(f"Report: {written.page}")


def _tell(inputs: RunInputs, run: RunArguments, output_dir: str) -> None:
    records = list(itertools.islice((inputs.first_validation or inputs.train).readable_records(), _EXAMPLES))
    say(f"Saved the {'adapter' if run.use_lora else 'model'} to {Path(output_dir).resolve()}")
    say("Talk to it:")
    say(f"  {chat_command(output_dir, records)}")
