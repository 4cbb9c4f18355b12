"""Trains to the end, and records how a run ends that does not get there: by a fault, or by a signal."""

from __future__ import annotations

import signal
from pathlib import Path

from transformers import TrainingArguments

from minicpmv.errors import DataError, NotFiniteError
from minicpmv.files.checkpoint_folders import list_checkpoints
from minicpmv.training.checkpoints.resume import ResumePoint
from minicpmv.training.distributed.processes import wait_for_all
from minicpmv.training.loop.boundary import Stopped
from minicpmv.training.loop.interruption import Interrupted, Interruption
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.run_record import RunFile

__all__ = ["train_to_the_end"]


def train_to_the_end(
    trainer: MiniCPMVTrainer, start: ResumePoint, record: RunFile, interruption: Interruption
) -> dict[str, float]:
    """Train, and return transformers' metrics; a signal ends the run immediately while nothing would be lost.

    Raises:
        Interrupted: A signal stopped it, at the end of a step.
        MiniCPMVError: The run cannot go on.
    """
    interruption.act_at_once(_how_to_go_on(trainer.args))
    try:
        metrics = dict(trainer.train(resume_from_checkpoint=start.path).metrics)
    except DataError as error:  # such as an image that has changed since it was checked
        error.is_of_one_process = True
        raise
    except NotFiniteError:
        record.write(status="not finite", step=trainer.state.global_step, log=trainer.state.log_history)
        raise
    except Stopped as stop:
        raise _interrupted(stop, trainer, record) from None
    if trainer.last_saved == trainer.state.global_step:
        interruption.act_at_once(_how_to_go_on(trainer.args))
    else:
        interruption.defer("training is over, but its result is not in a checkpoint yet: saving first")
    return metrics


def _how_to_go_on(args: TrainingArguments) -> str:
    checkpoints = list_checkpoints(args.output_dir or "")
    if not checkpoints:
        return "nothing was trained yet; the same command starts again"
    return (
        f"nothing was lost, the newest checkpoint is {checkpoints[-1]}\n"
        "resume: the same command with --resume_from_checkpoint true"
    )


def _interrupted(stop: Stopped, trainer: MiniCPMVTrainer, record: RunFile) -> Interrupted:
    """Record where a run stopped, and return the error that says how to resume it."""
    state, args = trainer.state, trainer.args
    name = signal.Signals(stop.signal_number).name
    record.write(status="stopped", stopped_by=name, step=state.global_step, log=state.log_history)
    wait_for_all()  # once one process exits, the launcher ends the others
    return Interrupted(
        stop.signal_number,
        f"stopped by {name} after step {state.global_step} of {state.max_steps}, saved in "
        f"{Path(args.output_dir or '') / f'checkpoint-{state.global_step}'}\n"
        "resume: the same command with --resume_from_checkpoint true",
    )
