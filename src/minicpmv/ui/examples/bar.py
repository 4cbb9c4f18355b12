"""Lays out the choice of a record above the conversation."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio

from minicpmv.ui.examples.records import Example, Examples

__all__ = ["ExampleBar"]


class ExampleBar:
    """Lays out two buttons and a number where it is constructed.

    Args:
        examples: The records.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        with gradio.Row(elem_id="example"):
            self._previous = gradio.Button("Previous", size="sm", interactive=False)
            self._number = gradio.Textbox(
                placeholder=f"0 to {len(examples) - 1:,}",
                label="Number of the record",
                show_label=False,
                container=False,
                max_lines=1,
                min_width=90,
                elem_id="record-number",
            )
            self._next = gradio.Button("Next", size="sm")
            self._name = gradio.HTML(self._word(None), elem_id="record-name")
        self.components = [self._previous, self._number, self._next, self._name]

    def wire(
        self, choose: Callable[..., Any], step: Callable[[int], Callable[..., Any]], outputs: Iterable[Any], **how: Any
    ) -> None:
        """Connect the components with what happens.

        Args:
            choose: Called with the number that was typed.
            step: Returns what is called to go on by so many records.
            outputs: Components that these change.
            how: More arguments of Gradio's events.
        """
        changed = list(outputs)
        self._number.submit(choose, self._number, changed, **how)
        self._previous.click(step(-1), None, changed, **how)
        self._next.click(step(1), None, changed, **how)

    def open(self, typed: object) -> Example:
        """Return the record of a number.

        Raises:
            UsageError: It is no number of a record, or the record cannot be asked here.
        """
        return self._examples.open(self._examples.read_number(typed))

    def step(self, chosen: Example | None, by: int) -> Example:
        """Return the record that is so many before or after the chosen one; without one, the first.

        Raises:
            UsageError: There is none, or it cannot be asked here.
        """
        return self._examples.open(0 if chosen is None else chosen.number + by)

    def show(self, chosen: Example | None, *, is_active: bool = True) -> dict[Any, Any]:
        """Return the components' updates: which record is chosen, and whether another one may be."""
        number = -1 if chosen is None else chosen.number
        text: dict[str, Any] = {} if chosen is None else {"value": str(chosen.number)}
        return {
            self._previous: gradio.Button(interactive=is_active and number > 0),
            self._number: gradio.Textbox(interactive=is_active, **text),
            self._next: gradio.Button(interactive=is_active and number < len(self._examples) - 1),
            self._name: gradio.HTML(self._word(chosen)),
        }

    def _word(self, chosen: Example | None) -> str:
        count = f"of {len(self._examples):,} in {html.escape(Path(self._examples.source).name)}"
        if chosen is None:
            return f"<p>{count}</p>"
        remarks = "".join(f" {html.escape(remark)}" for remark in chosen.remarks)
        return f"<p>{count}: <b>{html.escape(chosen.name)}</b>.{remarks}</p>"
