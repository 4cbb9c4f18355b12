"""Makes the processes of a run agree at the end of each optimizer step: to continue, to stop, or to fail.

One small collective answers both questions: has a signal asked any process to stop, and is any process's loss or
gradient no longer finite. All of them act at the same step, so none waits for another that has left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minicpmv.errors import NotFiniteError
from minicpmv.training.distributed.processes import gather, take_maximum
from minicpmv.training.loop.interruption import Interruption
from minicpmv.training.loop.last_good import way_out
from minicpmv.wording import list_few

__all__ = [
    "MOST_SKIPPED",
    "AlreadyTrained",
    "EvaluationStopped",
    "StepBoundary",
    "Stopped",
    "misses_evaluation",
]

MOST_SKIPPED = 50
"""Consecutive steps that float16's loss scaling may skip. It halves its factor each time, and after some 20 it is 0."""

_SHOWN = 20


class Stopped(BaseException):
    """Training has stopped at a step boundary with a checkpoint, because a signal asked for it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class EvaluationStopped(Stopped):
    """A signal came during an evaluation between two steps; the last step is not saved yet."""


class AlreadyTrained(BaseException):
    """A run resumes from the checkpoint of its last step; Trainer would take one more step before it checks."""


class _Batch(NamedTuple):
    loss: Tensor
    numbers: list[int]
    """Numbers of its records, [records] int64."""


class StepBoundary(TrainerCallback):
    """Ends a run at the end of an optimizer step, the same step on all processes.

    Args:
        interruption: Records signals; None if signals are not handled.
        describe: Returns the name of a record number.
        was_skipped: Returns whether float16's loss scaling has skipped the last step.
        make_up: Called if a resumed run begins at a step whose evaluation was due and did not finish.
        measured: Log keys that a finished evaluation leaves.
        own_loss: Name of the class whose loss is optimised, where it is not this package's.
    """

    def __init__(
        self,
        interruption: Interruption | None,
        *,
        describe: Callable[[int], str],
        was_skipped: Callable[[], bool],
        make_up: Callable[[], None],
        measured: Sequence[str] = ("eval_loss",),
        own_loss: str | None = None,
    ) -> None:
        self._interruption = interruption
        self._describe = describe
        self._was_skipped = was_skipped
        self._make_up = make_up
        self._measured = measured
        self._own_loss = own_loss
        self._batches: list[_Batch] = []
        self._gradient: Any = None
        self._num_skipped = 0
        self._stopping = 0
        self._is_training = False

    @property
    def is_stopping(self) -> bool:
        """True if the run ends after the next checkpoint."""
        return bool(self._stopping)

    def note_loss(self, loss: Tensor, numbers: list[int]) -> None:
        """Record a batch of the step: its loss, of any shape, and the numbers of its records."""
        self._batches.append(_Batch(loss.detach(), numbers))

    def note_gradient(self, norm: Any) -> None:
        """Record the norm of the step's gradient, a number or a tensor of one; None if there is none."""
        self._gradient = norm

    # ---------------------------------------------------------------------------------------- called by the trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make up for an evaluation that was due when the run ended.

        Raises:
            AlreadyTrained: Every step was trained before.
        """
        if misses_evaluation(args, state, self._measured):
            self._make_up()
        if state.global_step >= state.max_steps:
            raise AlreadyTrained
        self._is_training = True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let a signal wait for the end of the step."""
        if self._interruption is not None:
            self._interruption.defer("finishing this step, then saving a checkpoint")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Agree with all processes on a stop, and check loss and gradient.

        Raises:
            NotFiniteError: The loss or the gradient is NaN or infinite.
        """
        batches, self._batches = self._batches, []
        gradient, self._gradient = self._gradient, None
        losses = torch.stack([batch.loss.float().mean() for batch in batches])
        norm = _on_device(1.0 if gradient is None else gradient, args)
        checked = [self._asked(), ~losses.isfinite().all(), ~norm.isfinite()]
        found = take_maximum(torch.stack([_on_device(each, args).int() for each in checked]))
        asked, bad_loss, bad_gradient = found.tolist()  # the only point at which a step waits for the device
        if bad_gradient and args.fp16 and self._was_skipped():
            self._num_skipped += 1
            bad_gradient = self._num_skipped > MOST_SKIPPED
        else:
            self._num_skipped = 0
        if bad_loss or bad_gradient:
            self._fail(batches, gradient, args, state, only_bad=bool(bad_loss))
        if asked:
            self._stopping = asked
            control.should_log = control.should_save = True
            control.should_evaluate = False  # the time may be short; the resumed run makes up for it

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop once the checkpoint is written, if that was asked for.

        Raises:
            Stopped: It was.
        """
        # A signal that came while saving stops here as well, unless only weights were saved: they cannot be resumed.
        asked = self._stopping or (0 if args.save_only_model else self._agree(args))
        if asked:
            raise Stopped(asked)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop between two batches of an evaluation, if that was asked for.

        Raises:
            EvaluationStopped: It was.
        """
        if not self._is_training:
            return
        asked = self._agree(args)
        if asked:
            raise EvaluationStopped(asked)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember that evaluations from now on are not within a step."""
        self._is_training = False

    # -------------------------------------------------------------------------------------------------------- inside

    def _asked(self) -> int:
        return (self._interruption.requested or 0) if self._interruption is not None else 0

    def _agree(self, args: TrainingArguments) -> int:
        return int(take_maximum(_on_device(self._asked(), args).int()))

    def _fail(
        self, batches: list[_Batch], gradient: Any, args: TrainingArguments, state: TrainerState, *, only_bad: bool
    ) -> NoReturn:
        """Name the records of the batches whose loss is not finite; if only the gradient is not, of all batches."""
        mine = [(float(batch.loss.float().mean()), batch.numbers) for batch in batches]
        found = [each for process in gather(mine) for each in process]
        bad = [each for each in found if not only_bad or not math.isfinite(each[0])]
        numbers = sorted({number for _, batch in bad for number in batch})
        what = f"a loss of {bad[0][0]}" if only_bad else f"a gradient of norm {float(gradient)} with finite losses"
        own = f"see whether the loss of {self._own_loss} divides by 0 or takes log(0), and " if self._own_loss else ""
        names = list_few([self._describe(number) for number in numbers], most=_SHOWN, indent="  ")
        raise NotFiniteError(
            f"step {state.global_step} of {state.max_steps}: found {what}, expected a finite number; nothing of this "
            "step was saved. Its records:\n"
            f"{names}\n"
            f"  fix: {own}look at these records (minicpmv show). If they are fine, the weights had already grown too "
            f"large{', or the values exceed the range of float16 (use --bf16)' if args.fp16 else ''}: "
            f"{way_out(args, before=state.global_step - 1)}"
        )


def misses_evaluation(args: TrainingArguments, state: TrainerState, measured: Sequence[str] = ("eval_loss",)) -> bool:
    """Return whether a resumed run must make up for an evaluation: due at its first step, and not in its log."""
    logged = {key for entry in state.log_history if entry["step"] == state.global_step for key in entry}
    if not state.global_step or logged.issuperset(measured):
        return False
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    if strategy == "steps":
        return state.global_step % max(int(state.eval_steps), 1) == 0 and args.eval_delay <= state.global_step
    epoch = state.epoch or 0
    return strategy == "epoch" and epoch > 0 and epoch == int(epoch) and args.eval_delay <= epoch


def _on_device(value: Any, args: TrainingArguments) -> Tensor:
    """Return a number as a tensor on the device; a host number is filled in there, since a copy would synchronize."""
    return value.to(args.device) if isinstance(value, Tensor) else torch.full((), value, device=args.device)
