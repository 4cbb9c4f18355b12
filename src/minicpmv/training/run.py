"""Trains one run from flags to a saved and usable model; this module wires all the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from minicpmv.data.samples.workers import naming_dead_workers
from minicpmv.errors import MiniCPMVError
from minicpmv.files.disk_space import explain_system
from minicpmv.machine.shortage import naming_shortage
from minicpmv.terminal.redaction import clean_text, secrets_in
from minicpmv.training.checkpoints.lock import hold_directory, look_for_holder
from minicpmv.training.checkpoints.pickles import restrict_unpickling
from minicpmv.training.distributed.console import complain, is_first_process, notice, say
from minicpmv.training.distributed.engine import start_engine
from minicpmv.training.distributed.processes import LostProcessError, leave_word, naming_lost_processes, raise_together
from minicpmv.training.finish.completion import complete
from minicpmv.training.finish.pushing import Upload, upload_saved
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.inputs.origin import BaseReading
from minicpmv.training.inputs.planned_batches import BatchPlan
from minicpmv.training.inputs.run_inputs import RunInputs, open_inputs_together
from minicpmv.training.inputs.vision_cache import use_vision_cache
from minicpmv.training.launching.caller import tell_error, tell_stop
from minicpmv.training.loop.endings import train_to_the_end
from minicpmv.training.loop.interruption import Interrupted, Interruption
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.eval_metrics import EvalMetrics
from minicpmv.training.monitoring.log_file import LogFile
from minicpmv.training.monitoring.run_record import RunFile, describe_run
from minicpmv.training.monitoring.run_settings import write_run_settings
from minicpmv.training.objectives.choice import check_objective, choose_objective, name_objective
from minicpmv.training.objectives.objective import Objective
from minicpmv.training.start.beginning import Beginning, find_beginning
from minicpmv.training.start.building import build_trainer
from minicpmv.training.start.dry_run import DryRunChecks, require_room, take_dry_run
from minicpmv.training.start.learner import Learner, build_learner
from minicpmv.training.start.planned import PlannedRun, plan_run
from minicpmv.training.start.settled import Settled, settle

__all__ = ["main", "train"]


_AFTER_A_WORKER = (
    "lower --dataloader_num_workers (0 reads in the run's own process), free memory, or enlarge /dev/shm; then resume "
    "from the newest checkpoint with --resume_from_checkpoint true"
)
_FEWER_WEIGHTS = (
    "end other programs that use the memory; --deepspeed zero3 or --fsdp true shards the weights over processes, and "
    "--use_lora true keeps frozen weights in half precision; `minicpmv estimate` with the same flags says what a "
    "run needs"
)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code.

    0: done. 2: an error that the user can fix. 128 plus a signal's number: stopped by the signal, and resumable.
    """
    try:
        _train_with_words(arguments)
    except MiniCPMVError as error:
        known = secrets_in(arguments)
        speaks = is_first_process() or error.is_of_one_process
        if not (speaks and tell_error(error, known=known)):
            complain(str(error), everywhere=error.is_of_one_process, known=known)
        return 2
    except OSError as error:
        explained = explain_system(error)
        if explained is None:
            raise
        complain(explained, everywhere=True, known=secrets_in(arguments))
        return 2
    except Interrupted as stopped:
        tell_stop(stopped.message)
        say(stopped.message)
        return stopped.exit_code
    return 0


def _train_with_words(arguments: Sequence[str]) -> None:
    """Train; what ends this process alone is left for the others, which may run where nobody sees its output."""
    try:
        train(arguments)
    except (LostProcessError, Interrupted):
        raise
    except Exception as error:
        if not isinstance(error, MiniCPMVError) or error.is_of_one_process:
            words = str(error) if isinstance(error, MiniCPMVError) else f"{type(error).__name__}: {error}"
            leave_word(clean_text(words, known=secrets_in(arguments)))
        raise


def train(
    arguments: Sequence[str], *, objective: Objective | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> dict[str, Any]:
    """Fine-tune as the flags say, in this process, and return the run's metrics.

    Args:
        arguments: The flags.
        objective: What is optimised, instead of what ``--objective`` names.
        callbacks: transformers' own, for what is to be watched or done while the run goes on.

    Raises:
        MiniCPMVError: The user can fix the fault: a flag, the data, a checkpoint.
        Interrupted: A signal stopped the run.
    """
    check_objective(objective)
    dead_workers = naming_dead_workers(_AFTER_A_WORKER)
    shortage = naming_shortage("memory", "weights, before or after training", fix=_FEWER_WEIGHTS)
    with (
        Interruption() as interruption,
        naming_lost_processes(),
        dead_workers,
        ExitStack() as until_the_end,
        shortage,
    ):
        return _train(arguments, objective, callbacks, interruption, until_the_end)


def _train(
    arguments: Sequence[str],
    objective: Objective | None,
    callbacks: Sequence[TrainerCallback],
    interruption: Interruption,
    until_the_end: ExitStack,
) -> dict[str, Any]:
    settled = settle(arguments)
    run = settled.run
    checks = DryRunChecks(is_dry=run.dry_run)
    checks.passed("flags", f"{settled.base.version.model} in {settled.base.path}")
    restrict_unpickling(deepspeed=bool(settled.settings.get("deepspeed")))
    args = start_engine(run, settled.settings)
    directory = Path(args.output_dir or "")
    _occupy(settled.output_dir, until_the_end, is_dry=run.dry_run)

    reading = BaseReading(run, settled.base, args)
    inputs = open_inputs_together(run, settled.base, args)
    checks.data(inputs)
    _tell_split(inputs, run)
    own = None if objective is None else name_objective(objective)
    beginning = find_beginning(settled, args, inputs, reading.result(), own_objective=own)
    checks.directory(settled.output_dir, beginning.point)
    if args.should_save and not run.dry_run:
        inputs.skip_log.begin(inputs.skipped, afresh=beginning.point.path is None)

    learner = build_learner(inputs, run, args)
    checks.weights(learner.model, inputs.base)
    planned = plan_run(settled, args, inputs, learner, checks)
    objective = objective or choose_objective(run, planned.args, learner.model)

    def build(plan: BatchPlan, args: TrainingArguments, interruption: Interruption | None = None) -> MiniCPMVTrainer:
        return build_trainer(
            settled,
            inputs,
            beginning,
            learner,
            plan=plan,
            args=args,
            objective=objective,
            interruption=interruption,
            workers=planned.workers,
        )

    args = planned.args
    if run.dry_run:
        return take_dry_run(checks, build, plan=planned.batches, costs=planned.costs, inputs=inputs, run=run, args=args)
    record = _open_record(directory, settled, inputs, beginning, learner, planned, own_objective=own)
    trainer = build(planned.batches, args, interruption)
    require_room(trainer, inputs, run)
    for callback in (LogFile(directory), *callbacks):
        trainer.add_callback(callback)
    trainer.keep_features(use_vision_cache(run, learner.model, (inputs.train, *inputs.validation.values()), args))
    record.write(eval_metrics_answers=_tell_measured(trainer.eval_metrics))
    metrics = train_to_the_end(trainer, beginning.point, record, interruption)
    metrics = complete(trainer, metrics, inputs=inputs, run=run, record=record, interruption=interruption)
    if settled.upload is not None:
        _upload(settled.upload, directory)
    return metrics


def _occupy(output_dir: str, until_the_end: ExitStack, *, is_dry: bool) -> None:
    """Lock the run's directory before anything is loaded; a dry run only checks that it is free."""

    def occupy() -> None:
        if is_dry:
            look_for_holder(output_dir)
        else:
            until_the_end.enter_context(hold_directory(output_dir))

    raise_together(lambda: occupy() if is_first_process() else None)


def _open_record(
    directory: Path,
    settled: Settled,
    inputs: RunInputs,
    beginning: Beginning,
    learner: Learner,
    planned: PlannedRun,
    *,
    own_objective: str | None,
) -> RunFile:
    """Write the files that say what the run is: ``run.json``, and settings that repeat it."""
    args = planned.args
    described = describe_run(
        settled.request,
        args,
        base=beginning.base,
        inputs=inputs,
        parts=learner.parts,
        plan=planned.step,
        overridden=beginning.overridden,
        machine=settled.machine,
    )
    record = RunFile(directory, described, is_writing=args.should_save)
    if args.should_save:
        write_run_settings(settled.request, directory, num_processes=args.world_size, own_objective=own_objective)
    if own_objective is not None:
        record.note(own_objective=own_objective)
    return record


def _upload(upload: Upload, directory: Path) -> None:
    """Upload what was saved from the first process; its fault is one of all."""
    raise_together(lambda: upload_saved(upload, str(directory.resolve())) if is_first_process() else None)


def _tell_measured(eval_metrics: Mapping[str, EvalMetrics]) -> dict[str, dict[str, int]]:
    """Report the sets in which not all answers are measured, and return the counts by set."""
    for name, each in eval_metrics.items():
        if said := str(each.share):
            say(f"--eval_metrics{f' on {name}' if name else ''}: {said}")
    counts = ("asked", "of", "of_weight_0")
    return {name: {count: getattr(each.share, count) for count in counts} for name, each in eval_metrics.items()}


def _tell_split(inputs: RunInputs, run: RunArguments) -> None:
    """Report the validation split that is made without ``--eval_data_path``, and the flags that change it."""
    split = inputs.split
    if split is None or run.dry_run:
        return
    held_out, of = len(split.records), split.num_records
    if held_out:
        notice(
            f"validation: {held_out:,} of {of:,} records ({held_out / of:.1%}) are used for validation instead of "
            "training, as there is no --eval_data_path; records that share a picture stay together. "
            "--validation_split 0 trains on all"
        )
    else:
        say(
            f"validation: none; all {of:,} records are trained on. --validation_split 0.1 would use a tenth for "
            "validation, --eval_data_path FILE other records"
        )
