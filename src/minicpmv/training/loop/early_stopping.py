"""Ends a run early, once its evaluations no longer improve (``--early_stopping``)."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from minicpmv.training.loop.boundary import AlreadyTrained

__all__ = ["EarlyStopping"]


class EarlyStopping(EarlyStoppingCallback):
    """Stops early as transformers does; a run that it has ended trains no further when it is resumed."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a resumed run that had stopped early already; transformers would train on.

        Raises:
            AlreadyTrained: Patience was used up before.
        """
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            raise AlreadyTrained
