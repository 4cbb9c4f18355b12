"""Renders a chat template that somebody else wrote, as a program of its own: ``python -I template_child.py``.

It reads a JSON object from its input, ``{"template": text, "cases": [[messages, options], ...], "tokens": {...}}``, and
writes a list of ``{"text": ...}`` or ``{"error": ...}``. jinja2's sandbox keeps a template from attributes that lead to
the program; limits of the system keep it from time and memory, before the template is even parsed. Nothing of this
package is imported.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

_SECONDS = 10
"""Of the processor."""
_BYTES = 2**30
"""Of address space."""
_MOST_CHARACTERS = 1_000_000


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


def main() -> None:
    """Render every case."""
    given = json.load(sys.stdin)
    _limit()
    # As transformers sets it up, so that what is rendered is what it would render.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    rendered: list[dict[str, Any]] = []
    for messages, options in given["cases"]:
        try:
            template = environment.from_string(given["template"])
            text = template.render(messages=messages, **given["tokens"], **options)
            rendered.append({"text": text[:_MOST_CHARACTERS]})
        except MemoryError:
            rendered.append({"error": "it takes more than 1 GiB of memory"})
        except Exception as error:  # noqa: BLE001  of a template, which may raise anything
            rendered.append({"error": f"{type(error).__name__}: {str(error)[:300]}"})
    json.dump(rendered, sys.stdout)


if __name__ == "__main__":
    main()
