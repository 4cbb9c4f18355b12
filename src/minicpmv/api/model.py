"""Opens a model from Python, to talk to it, to have it answer records and to measure it, as the commands do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from transformers.utils import logging

from minicpmv.data.records.answers import Answers
from minicpmv.data.sources.in_memory import are_paths, load_held
from minicpmv.data.sources.loading import Records, load_records
from minicpmv.errors import UsageError
from minicpmv.evaluation.measuring.asking import ask, sample_of
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.evaluation.scores import Result, Scorer
from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.inference.generation import GenerationSettings, answer, answer_in_pieces
from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.inference.model_processes import ThisProcess
from minicpmv.inference.predicting import Prediction, predict

__all__ = ["Model", "load"]

Messages = Sequence[Mapping[str, Any]]
"""A conversation in OpenAI's form, the last message the user's."""


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    allow_other_base: bool = False,
) -> Model:
    """Load a base model, a fully tuned model, or an adapter with its base.

    Args:
        path: Its directory, or a name on the hub.
        device: By default the first GPU, or the CPU if there is none.
        dtype: Of the weights; by default float32 on a CPU, elsewhere the checkpoint's.
        allow_other_base: Whether an adapter may be put on other weights than those it was trained on.

    Raises:
        CheckpointError: There is no model, or an adapter's base is missing or another model.
        MachineError: The machine has an unusable device, and none was named.
    """
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded = load_model(os.fspath(path), device=device, dtype=dtype, allow_other_base=allow_other_base)
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
    return Model(loaded)


class Model:
    """A model that answers, on one device. ``minicpmv predict`` and ``eval`` use all GPUs.

    Args:
        loaded: The model with its processor.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        """The parts: ``loaded.model``, a torch module, and ``loaded.processor``."""

    def __repr__(self) -> str:
        return f"Model({self.loaded.path!r}, {self.loaded.processor.version.model}, {self.loaded.device})"

    @overload
    def chat(
        self,
        messages: str | Messages,
        images: Any = (),
        *,
        stream: Literal[False] = False,
        seed: int | None = None,
        **settings: Any,
    ) -> str: ...

    @overload
    def chat(
        self,
        messages: str | Messages,
        images: Any = (),
        *,
        stream: Literal[True],
        seed: int | None = None,
        **settings: Any,
    ) -> Iterator[str]: ...

    def chat(
        self,
        messages: str | Messages,
        images: Any = (),
        *,
        stream: bool = False,
        seed: int | None = None,
        **settings: Any,
    ) -> str | Iterator[str]:
        """Answer a question, or the last message of a conversation.

        Args:
            messages: A question, or messages in OpenAI's form.
            images: Pictures before the question: paths, addresses or Pillow's images, one or a list. Messages hold
                their own.
            stream: Whether to return the answer piece by piece while it is written, for a ``for`` loop.
            seed: With ``sample=True``, of this answer.
            **settings: Fields of ``GenerationSettings``: ``max_new_tokens``, ``sample``, ``temperature``, ``top_p``,
                ``top_k``, ``repetition_penalty``, ``max_slice_nums``, ``enable_thinking``.

        Returns:
            The answer; with thinking it begins with ``<think>``.

        Raises:
            UsageError: A setting is unknown, a message is malformed, or the conversation is too long.
            ImageError: A picture cannot be read.
        """
        said = _messages(messages, images)
        chosen = _generation(settings, max_new_tokens=1024)
        if stream:
            return answer_in_pieces(self.loaded, said, settings=chosen, seed=seed)
        return answer(self.loaded, said, settings=chosen, seed=seed)

    def predict(self, records: Any, *, image_root: str | None = None, **settings: Any) -> list[Prediction]:
        """Answer the last question of every record, in their order, as ``minicpmv predict``.

        Args:
            records: A file, or records in memory: a list of dicts, a ``datasets.Dataset`` or a pandas table.
            image_root: Folder at which relative paths start; by default a file's own, or the working directory.
            **settings: As for :meth:`chat`, and ``batch_size`` (16) and ``seed`` (0).

        Raises:
            DataError: Records cannot be read; all are named.
            MiniCPMVError: A record cannot be answered.
        """
        asked = Answers(self._read(records, image_root, for_training=False))
        batch_size, seed = settings.pop("batch_size", BATCH_SIZE), settings.pop("seed", 0)
        chosen = _generation(settings, max_new_tokens=1024)
        answered = predict(self.loaded, asked, settings=chosen, batch_size=batch_size, seed=seed)
        return sorted(answered, key=lambda each: each.index)

    def evaluate(
        self,
        records: Any,
        metrics: str | Sequence[Any] = "exact_match",
        *,
        image_root: str | None = None,
        **settings: Any,
    ) -> dict[str, Result]:
        """Measure the answers to records against the known ones, as ``minicpmv eval``.

        Args:
            records: As for :meth:`predict`.
            metrics: Names, as ``minicpmv eval --metrics list`` lists them, or metrics of your own.
            image_root: As for :meth:`predict`.
            **settings: As for :meth:`chat`, with answers of at most 64 tokens, and ``batch_size`` (16), ``seed`` (0, of
                the intervals) and ``max_length`` (2048, tokens of a record whose loss is measured).

        Returns:
            The value of each metric with its 95 % interval.

        Raises:
            UsageError: There is no such metric, or none of the records can be measured by one.
            DataError: Records cannot be read; all are named.
        """
        named = split_names(metrics) if isinstance(metrics, str) else metrics
        found = [each for one in named for each in (find_metrics([one]) if isinstance(one, str) else [one])]
        asked = Answers(self._read(records, image_root, for_training=True))
        scorer = Scorer(found, seed=settings.pop("seed", 0))
        how = {"batch_size": settings.pop("batch_size", BATCH_SIZE), "max_length": settings.pop("max_length", 2048)}
        chosen = _generation(settings, max_new_tokens=64)
        for metric in found:
            for record in asked if metric.sees_all_first else ():
                metric.prepare(sample_of(record))
        for _, sample in ask(ThisProcess(self.loaded), asked, found, settings=chosen, **how):
            scorer.add(sample)
        return dict(scorer.results())

    def _read(self, records: Any, image_root: str | None, *, for_training: bool) -> Records:
        version = self.loaded.processor.version
        if are_paths(records):
            if not isinstance(records, str | os.PathLike):
                raise UsageError("records: found a list of paths, expected one path\n  fix: call once for each")
            return load_records(records, image_root=image_root, version=version, for_training=for_training)
        return load_held(records, name="records", image_root=image_root, version=version, for_training=for_training)


def _messages(messages: str | Messages, images: Any) -> list[dict[str, Any]]:
    pictures = list(images) if isinstance(images, list | tuple) else [images]
    if not isinstance(messages, str):
        if pictures:
            raise UsageError(
                "images: found with messages, expected them in a message's content\n"
                '  fix: {"role": "user", "content": [{"type": "image", "image": PICTURE}, ...]}'
            )
        return [dict(message) for message in messages]
    shown = [{"type": "image", "image": str(each) if isinstance(each, Path) else each} for each in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": messages}]}]


def _generation(settings: Mapping[str, Any], *, max_new_tokens: int) -> GenerationSettings:
    try:
        return GenerationSettings(**{"max_new_tokens": max_new_tokens, **settings})
    except TypeError as error:
        known = ", ".join(GenerationSettings.__dataclass_fields__)
        raise UsageError(
            f"settings: found {error.args[0]}, expected some of {known}\n  fix: correct the name"
        ) from None
