"""Checks a source, or recalls that the same one has been checked before.

Only a source without problems is recalled: one with a fault is checked again each time. The content of its images
is identified by their sizes and modification times, since opening them all is what the cache saves.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minicpmv.data.machine_copies import from_first
from minicpmv.data.media.film_facts import FilmFactsList
from minicpmv.data.media.image_sizes import ImageSizes
from minicpmv.data.records.file_state import FileStates, are_unchanged
from minicpmv.data.records.folders import data_folder
from minicpmv.data.records.record import Kind, RawRecord
from minicpmv.data.sharing import ALONE, Sharing
from minicpmv.data.sources.cache import DataCache, Entry
from minicpmv.data.sources.loading import Checked, check_image_root, check_records
from minicpmv.data.sources.source_digests import Content
from minicpmv.errors import Problem
from minicpmv.releases.table import Version

__all__ = ["check_or_recall"]

_OF_FILMS = ("film_ends", "film_numbers", "film_time_ends", "film_times")
"""Names of the arrays of ``FilmFactsList``."""


def check_or_recall(
    raw: Sequence[RawRecord],
    content: Content,
    path: str,
    *,
    image_root: str | os.PathLike[str] | None,
    version: Version | None,
    cache: DataCache | None,
    kind: Kind | None = None,
    sharing: Sharing = ALONE,
) -> tuple[Checked, FileStates, bool]:
    """Return what ``check_records`` finds, the image files as they are, and whether all that is recalled.

    Args:
        raw: All records of the source.
        content: Of its files.
        path: Of the source.
        image_root: As for ``check_records``.
        version: As there.
        cache: Where results are; None checks, and keeps nothing.
        kind: As for ``check_records``.
        sharing: Processes of which each checks, or compares, a part. The first one's cache is used, and serves all.

    Raises:
        UsageError: ``image_root`` is not a folder.
    """

    def check() -> tuple[Checked, FileStates]:
        states = FileStates()
        checked = check_records(raw, image_root=image_root, version=version, states=states, kind=kind, sharing=sharing)
        return checked, states.joined(sharing)

    if cache is None:
        return *check(), False
    check_image_root(image_root, name="image root")
    # Where relative images start, as it is spelled: image files are known by their names.
    folder = os.path.join(os.getcwd(), Path(data_folder(path) if image_root is None else image_root))
    entry = cache.entry(
        "checked",
        content=content,
        folder=[folder, os.path.realpath(folder)],
        version=None if version is None else version.name,
        reads=kind,
    )
    recalled = _recall(entry, raw, sharing)
    if recalled is not None:
        return *recalled, True
    checked, states = check()
    if not len(checked.bad) and sharing.rank == 0:
        (ends, pixels), (paths, numbers) = checked.sizes.as_arrays(), states.as_arrays()
        said = json.dumps([dataclasses.astuple(notice) for notice in checked.notices]).encode()
        films = dict(zip(_OF_FILMS, checked.films.as_arrays(), strict=True))
        told = np.frombuffer(said, np.uint8)
        entry.store(ends=ends, pixels=pixels, paths=paths, states=numbers, notices=told, **films)
    return checked, states, False


def _recall(entry: Entry, raw: Sequence[RawRecord], sharing: Sharing) -> tuple[Checked, FileStates] | None:
    found = from_first(entry.load, sharing)
    if found is None or len(found["ends"]) != len(raw):
        return None
    states = FileStates.from_arrays(found["paths"], found["states"])
    if not all(sharing.gather(are_unchanged(*states.part(sharing)))):
        return None
    notices = tuple(Problem(*said) for said in json.loads(found["notices"].tobytes()))
    sizes = ImageSizes.from_arrays(found["ends"], found["pixels"])
    films = FilmFactsList.from_arrays(*(found[name] for name in _OF_FILMS))
    checked = Checked(raw=raw, sizes=sizes, films=films, problems=[], bad=np.zeros(0, np.int64), notices=notices)
    return checked, states
