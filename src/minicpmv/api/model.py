"""Opens a model from Python, to talk to it, to have it answer records and to measure it, as the commands do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from transformers.utils import logging

from minicpmv.api.paths import path_of
from minicpmv.api.spelling import of_answering
from minicpmv.data.records.answers import Answers
from minicpmv.data.sources.in_memory import are_paths, load_held
from minicpmv.data.sources.loading import Records, load_records
from minicpmv.errors import UsageError
from minicpmv.evaluation.measuring.asking import ask, prepare
from minicpmv.evaluation.metrics.base import Metric
from minicpmv.evaluation.metrics.registry import find_metrics, split_names
from minicpmv.evaluation.scores import Result, Scorer
from minicpmv.inference.batching import BATCH_SIZE
from minicpmv.inference.generation import GenerationSettings, answer, answer_in_pieces
from minicpmv.inference.loading import LoadedModel, load_model
from minicpmv.inference.model_processes import ThisProcess
from minicpmv.inference.predicting import Prediction, predict
from minicpmv.models.answering.limits import COUNT, SEED, Limit, refuse_idle
from minicpmv.wording import name_type, suggest

__all__ = ["Model", "load"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Messages = Sequence[Mapping[str, Any]]
"""A conversation in OpenAI's form, the last message the user's."""


@of_answering()
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
        UsageError: ``path`` is no path, or ``dtype`` none that these models compute in.
        CheckpointError: There is no model, or an adapter's base is missing or another model.
        MachineError: The machine has an unusable device, and none was named.
    """
    named = path_of(path, "path")
    if dtype is not None and dtype not in _DTYPES:
        raise UsageError(
            f"dtype: found {dtype!r}, expected one of {', '.join(map(str, _DTYPES))}\n  fix: dtype=torch.float32"
        )
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded = load_model(named, device=device, dtype=dtype, allow_other_base=allow_other_base)
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
            **settings: Fields of ``GenerationSettings``; None leaves one at its default. They are ``max_new_tokens``,
                ``sample``, ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``max_slice_nums`` and
                ``enable_thinking``.

        Returns:
            The answer; with thinking it begins with ``<think>``.

        Raises:
            UsageError: A setting is unknown, cannot be or cannot act, a message is malformed, the last is the
                assistant's, or the conversation is too long.
            ImageError: A picture cannot be read.
        """
        said = _messages(messages, images)
        chosen = _generation(settings, max_new_tokens=1024)
        _check_seed(seed, chosen)
        if stream:
            return _yield_spelled(answer_in_pieces(self.loaded, said, settings=chosen, seed=seed))
        with of_answering():
            return answer(self.loaded, said, settings=chosen, seed=seed)

    @of_answering()
    def predict(self, records: Any, *, image_root: str | None = None, **settings: Any) -> list[Prediction]:
        """Answer the last question of every record, in their order, as ``minicpmv predict``.

        Args:
            records: A file, or records in memory: a list of dicts, a ``datasets.Dataset`` or a pandas table.
            image_root: Folder at which relative paths start; by default a file's own, or the working directory.
            **settings: As for :meth:`chat`, and ``batch_size`` (16) and, with ``sample=True``, ``seed`` (0).

        Raises:
            UsageError: A setting is unknown, cannot be or cannot act.
            DataError: Records cannot be read; all are named.
            MiniCPMVError: A record cannot be answered.
        """
        batch_size, seed = _take(settings, "batch_size", COUNT, BATCH_SIZE), settings.pop("seed", None)
        chosen = _generation(settings, max_new_tokens=1024)
        _check_seed(seed, chosen)
        asked = Answers(self._read(records, image_root, for_training=False))
        answered = predict(self.loaded, asked, settings=chosen, batch_size=batch_size, seed=0 if seed is None else seed)
        return sorted(answered, key=lambda each: each.index)

    @of_answering()
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
            UsageError: There is no such metric, a setting is unknown, cannot be or cannot act, or none of the records
                can be measured by a metric.
            DataError: Records cannot be read; all are named.
        """
        found = _metrics(metrics)
        seed = _take(settings, "seed", SEED, 0)
        batch_size = _take(settings, "batch_size", COUNT, BATCH_SIZE)
        max_length = _take(settings, "max_length", COUNT, 2048)
        chosen = _generation(settings, max_new_tokens=64)
        asked = Answers(self._read(records, image_root, for_training=True), as_references=True)
        scorer = Scorer(found, seed=seed)
        prepare(found, asked)
        answered = ask(
            ThisProcess(self.loaded), asked, found, settings=chosen, batch_size=batch_size, max_length=max_length
        )
        for _, sample in answered:
            scorer.add(sample)
        return dict(scorer.results())

    def _read(self, records: Any, image_root: str | None, *, for_training: bool) -> Records:
        version = self.loaded.processor.version
        if are_paths(records):
            if not isinstance(records, str | os.PathLike):
                raise UsageError("records: found a list of paths, expected one path\n  fix: call once for each")
            return load_records(records, image_root=image_root, version=version, for_training=for_training)
        return load_held(records, name="records", image_root=image_root, version=version, for_training=for_training)


def _yield_spelled(pieces: Iterator[str]) -> Iterator[str]:
    with of_answering():  # as a decorator it would end before the first piece
        yield from pieces


def _messages(messages: str | Messages, images: Any) -> list[dict[str, Any]]:
    pictures = list(images) if isinstance(images, list | tuple) else [] if images is None else [images]
    if isinstance(messages, str):
        if not messages.strip() and not pictures:
            raise UsageError("messages: found no text and no picture, expected a question\n  fix: write one")
        shown = [{"type": "image", "image": str(each) if isinstance(each, Path) else each} for each in pictures]
        return [{"role": "user", "content": [*shown, {"type": "text", "text": messages}]}]
    if pictures:
        raise UsageError(
            "images: found with messages, expected them in a message's content\n"
            '  fix: {"role": "user", "content": [{"type": "image", "image": PICTURE}, ...]}'
        )
    return _conversation(messages)


def _conversation(messages: object) -> list[dict[str, Any]]:
    wanted = 'a question, or a list of {"role": "user", "content": QUESTION}'
    if not isinstance(messages, list | tuple):
        raise UsageError(f"messages: found {name_type(messages)}, expected {wanted}\n  fix: give one of these")
    said = cast("Sequence[object]", messages)
    for position, message in enumerate(said):
        if not isinstance(message, Mapping):
            raise UsageError(
                f"messages[{position}]: found {name_type(message)}, expected a dict with role and content\n"
                '  fix: {"role": "user", "content": QUESTION}'
            )
    turns = [dict(cast("Mapping[str, Any]", message)) for message in said]
    if not turns:
        raise UsageError(f"messages: found none, expected {wanted}\n  fix: add a question")
    if turns[-1].get("role") in ("assistant", "system"):
        raise UsageError(
            f"messages[{len(turns) - 1}].role: found {turns[-1]['role']!r} in the last message, expected the user's, "
            "which is answered\n  fix: add a question, or leave that message out"
        )
    return turns


def _metrics(metrics: object) -> list[Metric]:
    """Return the metrics that are named, or given themselves."""
    named = split_names(metrics) if isinstance(metrics, str) else metrics
    if not isinstance(named, list | tuple) or not named:
        raise UsageError(
            f"metrics: found {metrics!r}, expected names such as 'exact_match,anls', or a list of names and metrics\n"
            "  fix: give at least one (`minicpmv eval --metrics list` lists all)"
        )
    found: list[Metric] = []
    for one in cast("Sequence[object]", named):
        if isinstance(one, str):
            found += find_metrics(split_names(one), flag="metrics")
        elif isinstance(one, Metric):
            found.append(one)
        else:
            fix = f"write {one.__name__}()" if isinstance(one, type) else "see docs/evaluation.md"
            raise UsageError(f"metrics: found {one!r}, expected a name or a metric of your own\n  fix: {fix}")
    return found


def _generation(settings: Mapping[str, Any], *, max_new_tokens: int) -> GenerationSettings:
    """Return settings of generation; None leaves one at its default, as for ``minicpmv.train``."""
    known = tuple(GenerationSettings.__dataclass_fields__)
    for name in settings:
        if name not in known:
            raise UsageError(
                f"{name}: found as a setting, expected some of {', '.join(known)}\n"
                f"  fix: {suggest(name, known, otherwise='remove it')}"
            )
    given = {name: value for name, value in settings.items() if value is not None}
    return GenerationSettings(**{"max_new_tokens": max_new_tokens, **given})


def _take(settings: dict[str, Any], name: str, limit: Limit, default: int) -> int:
    """Take a number out of settings; its default where it is missing or None."""
    value = settings.pop(name, None)
    if value is None:
        return default
    limit.check(name, value)
    return int(value)


def _check_seed(seed: object, chosen: GenerationSettings) -> None:
    if seed is not None:
        SEED.check("seed", seed)
    refuse_idle({"seed": seed}, sample=chosen.sample)
