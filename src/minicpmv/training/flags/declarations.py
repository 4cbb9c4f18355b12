"""Joins the declarations of our own settings. Those of transformers are in ``catalogue``.

A field says the setting's type and default, its metadata everything else: ``--help``, the ranges and the comparison of
a resumed run are made from them. Nothing is refused here (``contradictions``) or filled in (``resolution``, and
``learning.switches`` for what needs the model's modules).
"""

from __future__ import annotations

from dataclasses import dataclass

from minicpmv.training.flags.declared.course import CourseArguments
from minicpmv.training.flags.declared.inputs import InputArguments
from minicpmv.training.flags.declared.learning import LearningArguments
from minicpmv.training.flags.declared.preferences import PreferenceArguments

__all__ = ["RunArguments"]


@dataclass(frozen=True, kw_only=True)
class RunArguments(CourseArguments, PreferenceArguments, InputArguments, LearningArguments):
    """What a run needs in addition to transformers' ``TrainingArguments``."""
