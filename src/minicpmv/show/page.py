"""Writes the page of ``minicpmv show``: one self-contained file that needs neither network nor other files.

The template engine escapes everything that comes from the data; the style sheet and the script are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jinja2

from minicpmv import __version__
from minicpmv.data.samples.dataset import ConversationDataset
from minicpmv.pages.templates import make_environment
from minicpmv.show.films import Film, describe_frames
from minicpmv.show.record_views import view_record
from minicpmv.show.sequence import ImageRun
from minicpmv.show.spelling import TokenSpelling

__all__ = ["Header", "render_page"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Holds what the head of a page says."""

    data: str
    """The data file, as the user wrote it."""
    model: str
    """The model, as the user wrote it."""
    num_records: int
    """Records in the file, shown or not."""
    choice: str
    """How the records were chosen, in words; empty if all are shown."""
    num_faulty: int = 0
    """Records in the file that have problems; none of them is shown."""


def render_page(dataset: ConversationDataset, header: Header) -> str:
    """Return the page for all records of a data set.

    Args:
        dataset: Holds the chosen records, with the limits of the training that they are meant for.
        header: The head of the page.

    Raises:
        DataError: An image has changed since it was checked.
    """
    processor = dataset.processor
    spelling = TokenSpelling(processor.tokenizer)
    views = [view_record(dataset, index, spelling) for index in range(len(dataset))]
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            header=header,
            version=processor.version,
            views=views,
            has_weights=any(message.remark for view in views for message in view.messages),
            max_length=dataset.limits.max_length,
            max_slice_nums=dataset.limits.max_slice_nums,
            query_num=None if processor.token_rule.is_uneven else processor.query_num,
            package_version=__version__,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = make_environment("minicpmv.show")
    environment.filters["length_in_pixels"] = _length
    environment.filters["frames"] = describe_frames
    environment.tests["film"] = lambda value: isinstance(value, Film)
    environment.tests["image_run"] = lambda value: isinstance(value, ImageRun)
    return environment


def _length(pixels: float) -> str:
    """Write pixels, with one decimal where they are not whole."""
    return f"{pixels:,.1f}".removesuffix(".0")
