"""All that is ours of a model, whatever network it is: a release's class has this before its network's bases."""

from __future__ import annotations

from minicpmv.models.answering.official_chat import OfficialChat
from minicpmv.models.checkpoints.loading import StrictLoading
from minicpmv.models.checkpoints.permissions import OrdinaryFiles
from minicpmv.models.joining.drawing import DrawsTokens
from minicpmv.models.joining.steps import HasSteps
from minicpmv.models.networks.rotary import ExactRotary

__all__ = ["JoinedModel"]


class JoinedModel(  # pyright: ignore[reportIncompatibleMethodOverride]  StrictLoading is no model
    StrictLoading, OrdinaryFiles, OfficialChat, ExactRotary, HasSteps, DrawsTokens
):
    """Loads strictly, saves the released layout, is shown pictures, learns from labelled tokens and answers."""
