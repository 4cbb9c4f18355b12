"""Trains one run from flags to a saved and usable model; this module wires all the parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed

from minicpmv.data.samples.workers import naming_dead_workers
from minicpmv.devices.inspection import inspect_machine
from minicpmv.errors import MiniCPMVError
from minicpmv.files.disk_space import explain_system
from minicpmv.files.places import check_directory
from minicpmv.machine.shortage import naming_shortage
from minicpmv.models.adapters.base_identity import follow_base
from minicpmv.models.checkpoints.downsampling import mode_in
from minicpmv.models.checkpoints.film_settings import film_settings_of
from minicpmv.models.skeleton import build_skeleton
from minicpmv.terminal.redaction import clean_text, secrets_in
from minicpmv.training.checkpoints.fingerprint import take_fingerprint
from minicpmv.training.checkpoints.lock import hold_directory, look_for_holder
from minicpmv.training.checkpoints.pickles import restrict_unpickling
from minicpmv.training.checkpoints.resume import prepare_directory
from minicpmv.training.distributed.console import complain, is_first_process, notice, say
from minicpmv.training.distributed.engine import start_engine, tell_reads
from minicpmv.training.distributed.fsdp import choose_units
from minicpmv.training.distributed.processes import LostProcessError, leave_word, naming_lost_processes, raise_together
from minicpmv.training.distributed.together import work_together
from minicpmv.training.finish.completion import complete
from minicpmv.training.finish.obstacles import refuse_obstacles
from minicpmv.training.finish.pushing import find_upload, upload_saved
from minicpmv.training.flags.arguments import Request, parse_arguments
from minicpmv.training.flags.declarations import RunArguments
from minicpmv.training.flags.resolution import describe_settings, resolve_settings
from minicpmv.training.inputs.base_checkpoint import BaseCheckpoint, check_weights, load_base, open_base
from minicpmv.training.inputs.origin import BaseReading, compare_adapter
from minicpmv.training.inputs.planned_batches import (
    BatchPlan,
    count_steps,
    describe_plan,
    describe_step,
    estimate_costs,
    plan_batches,
)
from minicpmv.training.inputs.run_inputs import RunInputs, open_inputs_together
from minicpmv.training.inputs.shared_memory import resolve_workers
from minicpmv.training.inputs.vision_cache import advise, resolve_vision_cache, use_vision_cache
from minicpmv.training.launching.caller import tell_error, tell_stop
from minicpmv.training.launching.starting import refuse_other_number
from minicpmv.training.learning.compilation import CompiledLayers
from minicpmv.training.learning.effect import describe_little_effect, refuse_no_effect
from minicpmv.training.learning.lora import add_lora
from minicpmv.training.learning.parts import (
    choose_trained_parts,
    describe_recipe,
    format_parts,
    parts_of,
    summarise_parts,
)
from minicpmv.training.learning.rates import Rates
from minicpmv.training.learning.switches import refuse_partitioned_experts, resolve_learning
from minicpmv.training.loop.early_stopping import EarlyStopping
from minicpmv.training.loop.endings import train_to_the_end
from minicpmv.training.loop.interruption import Interrupted, Interruption
from minicpmv.training.loop.trainer import MiniCPMVTrainer
from minicpmv.training.monitoring.eval_metrics import EvalMetrics
from minicpmv.training.monitoring.intervals import describe_rhythm, resolve_rhythm
from minicpmv.training.monitoring.log_file import LogFile
from minicpmv.training.monitoring.memory_advice import ways_to_need_less
from minicpmv.training.monitoring.run_record import RunFile, describe_data, describe_run, describe_split
from minicpmv.training.monitoring.run_settings import write_run_settings
from minicpmv.training.objectives.choice import check_objective, choose_objective, name_objective
from minicpmv.training.objectives.objective import Objective
from minicpmv.training.start.building import build_trainer
from minicpmv.training.start.dry_run import DryRunChecks, require_room, take_dry_run
from minicpmv.training.start.recomputing import recomputed_layers

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
    request = parse_arguments(arguments)
    refuse_other_number(request.run)
    _check_places(request)
    upload = find_upload(request.training, base=request.run.model_name_or_path, use_lora=request.run.use_lora)
    machine = inspect_machine()
    resolved = resolve_settings(request, machine)
    settings = resolved.training
    for text in resolved.notices:
        notice(text)
    base, run = _resolve_learning(resolved.run, settings, given=request.given)
    request = replace(request, run=run)
    if settings.get("fp16") and base.version.network.overflows_in_float16:
        notice(
            f"--fp16 true: {base.version.model} is known to exceed the range of float16; such a run stops with an "
            "error, and --fp16 false trains in float32"
        )
    if is_first_process():
        refuse_obstacles(settings["output_dir"], base.path, use_lora=request.run.use_lora)
    checks = DryRunChecks(is_dry=request.run.dry_run)
    checks.passed("flags", f"{base.version.model} in {base.path}")
    restrict_unpickling(deepspeed=bool(settings.get("deepspeed")))
    args = start_engine(request.run, settings)
    _occupy(settings["output_dir"], until_the_end, is_dry=request.run.dry_run)
    reading = BaseReading(request.run, base, args)
    inputs = open_inputs_together(request.run, base, args)
    checks.data(inputs)
    _tell_split(inputs, request)
    identity = reading.result()
    sources = describe_data(request.run.train_sources, inputs.contents)
    lengths = None if inputs.lengths is None else inputs.lengths.lengths
    fingerprint = take_fingerprint(request.run, args, identity, sources, lengths, compilation=resolved.compilation)
    fingerprint["validation_split"] = describe_split(inputs.split)
    own = None if objective is None else name_objective(objective)
    if own is not None:
        fingerprint["objective"] = own
    start = prepare_directory(request.run, args, fingerprint, inputs.pictures)
    if inputs.pictures is not None:
        inputs.pictures.forget_names()
    overridden = [*start.overridden]
    if request.run.lora_weight_path and start.path is None:
        overridden += compare_adapter(request.run, identity, args)
    earlier = start.path or request.run.lora_weight_path
    if earlier is not None and request.run.use_lora:
        identity = follow_base(identity, earlier)
    shown = film_settings_of(inputs.train.processor.image_processor)
    identity = replace(
        identity,
        downsample_mode=mode_in(inputs.config, inputs.version) or "",
        film_settings=json.dumps(shown) if shown else "",
    )
    checks.directory(settings["output_dir"], start)
    if args.should_save and not request.run.dry_run:
        inputs.skip_log.begin(inputs.skipped, afresh=start.path is None)

    set_seed(args.seed)  # before the model: LoRA matrices are initialised randomly
    model = _build_model(inputs, request.run, args)
    tell_reads(model)
    rates = Rates.of_run(request.run, parts_of(model), learning_rate=args.learning_rate, weight_decay=args.weight_decay)
    parts = summarise_parts(model, rates_of=rates.of)
    checks.weights(model, inputs.base)
    costs = _estimate_costs(inputs, model)
    plan = plan_batches(
        request.run, args, len(inputs.train), lengths=inputs.lengths, costs=costs, together=work_together
    )
    args, rhythm_notices = resolve_rhythm(request, args, plan, sets=list(inputs.validation))
    for text in rhythm_notices:
        notice(text)
    say(describe_settings(args, machine, use_lora=request.run.use_lora))
    checks.report("batches", describe_step(plan, args, inputs.lengths))
    recipe = describe_recipe(parts)
    checks.report("what learns", "\n".join([format_parts(parts), *([recipe] if recipe else [])]))
    if inputs.validation and not request.run.dry_run:
        say(describe_rhythm(args))
    workers, fewer = resolve_workers(
        machine,
        args,
        model.config,
        train=inputs.train,
        plan=plan,
        validation=inputs.validation,
        has_features=request.run.vision_cache is not None,
    )
    for text in fewer:
        notice(text)
    _advise(inputs, model, request.run, args, plan)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    num_steps = 0 if args.max_steps == 0 else count_steps(plan, args)
    refuse_no_effect(args, rates, trained, num_steps=num_steps)
    for text in describe_little_effect(args, rates, trained, num_steps=num_steps):
        notice(text)

    objective = objective or choose_objective(request.run, args, model)

    def build(plan: BatchPlan, args: TrainingArguments, interruption: Interruption | None = None) -> MiniCPMVTrainer:
        trainer = build_trainer(
            inputs, model, request.run, args, plan=plan, objective=objective, interruption=interruption, workers=workers
        )
        trainer.rates, trainer.fingerprint, trainer.base = rates, fingerprint, identity
        trainer.releases_gradients = request.run.release_gradients
        trainer.ways_to_need_less = ways_to_need_less(request.run, args)
        trainer.pictures = inputs.pictures
        trainer.add_callback(
            recomputed_layers(request.run, settings, base, inputs=inputs, config=model.config, plan=plan, args=args)
        )
        trainer.add_callback(CompiledLayers(resolved.compilation))
        if request.run.early_stopping and not request.run.dry_run:
            trainer.add_callback(EarlyStopping(request.run.early_stopping))
        return trainer

    if request.run.dry_run:
        return take_dry_run(checks, build, plan=plan, costs=costs, inputs=inputs, run=request.run, args=args)
    step = describe_plan(plan, args, inputs.lengths)._asdict()
    record = RunFile(
        Path(args.output_dir or ""),
        describe_run(
            request,
            args,
            base=identity,
            inputs=inputs,
            parts=parts,
            plan=step,
            overridden=overridden,
            machine=machine,
        ),
        is_writing=args.should_save,
    )
    if args.should_save:
        write_run_settings(request, Path(args.output_dir or ""), num_processes=args.world_size, own_objective=own)
    trainer = build(plan, args, interruption)
    require_room(trainer, inputs, request.run)
    for callback in (LogFile(Path(args.output_dir or "")), *callbacks):
        trainer.add_callback(callback)
    trainer.keep_features(use_vision_cache(request.run, model, (inputs.train, *inputs.validation.values()), args))
    if own is not None:
        record.note(own_objective=own)
    record.write(eval_metrics_answers=_tell_measured(trainer.eval_metrics))
    metrics = train_to_the_end(trainer, start, record, interruption)
    metrics = complete(trainer, metrics, inputs=inputs, run=request.run, record=record, interruption=interruption)
    if upload is not None:
        directory = str(Path(args.output_dir or "").resolve())
        raise_together(lambda: upload_saved(upload, directory) if is_first_process() else None)
    return metrics


def _occupy(output_dir: str, until_the_end: ExitStack, *, is_dry: bool) -> None:
    """Lock the run's directory before anything is loaded; a dry run only checks that it is free."""

    def occupy() -> None:
        if is_dry:
            look_for_holder(output_dir)
        else:
            until_the_end.enter_context(hold_directory(output_dir))

    raise_together(lambda: occupy() if is_first_process() else None)


def _check_places(request: Request) -> None:
    """Verify on rank 0, before anything is loaded, that the run can write its directories."""
    if is_first_process():
        places = {"--output_dir": request.training["output_dir"], "--logging_dir": request.run.logging_dir}
        for flag, place in places.items():
            if place is not None:
                check_directory(place, asked_by=flag)


def _resolve_learning(
    run: RunArguments, settings: Mapping[str, Any], *, given: frozenset[str]
) -> tuple[BaseCheckpoint, RunArguments]:
    """Decide what learns from the model's modules alone, before data are read."""
    base = open_base(run)
    check_weights(base.config, run)
    skeleton = build_skeleton(base.path)
    run, notices = resolve_learning(run, skeleton, given=given)
    refuse_partitioned_experts(run, skeleton, settings)
    for text in notices:
        notice(text)
    return base, resolve_vision_cache(run, skeleton, given=given)


def _advise(inputs: RunInputs, model: Any, run: RunArguments, args: TrainingArguments, plan: BatchPlan) -> None:
    batches = args.gradient_accumulation_steps * args.world_size
    num_epochs = args.max_steps * batches / plan.num_rows if args.max_steps > 0 else args.num_train_epochs
    has_images = inputs.lengths is not None and bool(inputs.lengths.num_image_tokens.any())
    text = advise(run, model, has_images=has_images, num_epochs=num_epochs)
    if text is not None:
        notice(text)


def _build_model(inputs: RunInputs, run: RunArguments, args: TrainingArguments) -> Any:
    model: PreTrainedModel = load_base(inputs.base, run, args)
    if args.fsdp:
        choose_units(args, model)
    if run.use_lora:
        set_seed(args.seed)  # under ZeRO-3 the layers of 4.6 and later draw numbers while they are built
        return add_lora(model, run, keep_dtype=bool(args.deepspeed))
    choose_trained_parts(model, run)
    return model


def _estimate_costs(inputs: RunInputs, model: Any) -> Any:
    if inputs.lengths is None:
        return None
    slicing = inputs.train.processor.image_processor
    return estimate_costs(inputs.lengths, model.config, scale_resolution=slicing.scale_resolution)


def _tell_measured(eval_metrics: Mapping[str, EvalMetrics]) -> dict[str, dict[str, int]]:
    """Report the sets in which not all answers are measured, and return the counts by set."""
    for name, each in eval_metrics.items():
        if said := str(each.share):
            say(f"--eval_metrics{f' on {name}' if name else ''}: {said}")
    counts = ("asked", "of", "of_weight_0")
    return {name: {count: getattr(each.share, count) for count in counts} for name, each in eval_metrics.items()}


def _tell_split(inputs: RunInputs, request: Request) -> None:
    """Report the validation split that is made without ``--eval_data_path``, and the flags that change it."""
    split = inputs.split
    if split is None or request.run.dry_run:
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
