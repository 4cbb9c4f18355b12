"""A chat template of 4.6 that announces tools, in words of our own: the fixtures' one knows none."""

from __future__ import annotations

from tests.parity.cases import FIXTURES

_ANNOUNCED = r"""{%- if tools -%}
{{- '<|im_start|>system\nYou may call:\n<tools>' -}}
{%- for tool in tools -%}{{- '\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\n</tools>\nA call is <tool_call>...</tool_call>.' -}}
{%- if messages[0].role == 'system' -%}{{- '\n\n' + (text_of(messages[0].content, true) | trim) -}}{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set content"""
_CALLED = r"""{%- for call in message.tool_calls or [] -%}
{%- set call = call.function -%}
{{- ('\n' if not loop.first else '\n\n' if content else '') + '<tool_call>\n<function=' + call.name + '>\n' -}}
{%- for name, value in call.arguments | items -%}
{{- '<parameter=' + name + '>\n' + (VALUE) + '\n</parameter>\n' -}}
{%- endfor -%}
{{- '</function>\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- elif message.role == 'tool' -%}
{{- '<|im_start|>user' if messages[loop.index0 - 1].role != 'tool' -}}
{{- '\n<tool_response>\n' + content + '\n</tool_response>' -}}
{{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' -}}
{%- else -%}
{{- raise_exception"""
AS_JSON = "value if value is string else value | tojson"
AS_PYTHON = "value | tojson if value is mapping or (value is sequence and value is not string) else value | string"


def with_tools(*, value: str = AS_JSON, instruction_first: bool = False) -> str:
    """Return the fixtures' template with tools.

    Args:
        value: How an argument is written, in Jinja's language.
        instruction_first: Whether the instruction stands before the tools.
    """
    template = (FIXTURES / "v4_6" / "chat_template.jinja").read_text(encoding="utf-8")
    head, loop = (
        "{%- for message in messages -%}\n{%- set content",
        "+ '<|im_end|>\\n' -}}\n{%- endif -%}\n{%- else -%}",
    )
    assert template.count(head) == template.count(loop) == 1
    template = template.replace(head, _ANNOUNCED)
    template = template.replace(
        "{{- '<|im_start|>system\\n' + content", "{%- if not tools -%}{{- '<|im_start|>system\\n' + content", 1
    ).replace("{%- elif message.role == 'user' -%}", "{%- endif -%}{%- elif message.role == 'user' -%}", 1)
    answer, _, rest = template.partition(loop)
    answer = answer.replace("content + '<|im_end|>\\n' -}}\n{%- else -%}", "content -}}\n{%- else -%}")
    template = answer + "-}}\n{%- endif -%}\n" + _CALLED.replace("VALUE", value) + rest.partition("raise_exception")[2]
    if instruction_first:
        condition = "{%- if messages[0].role == 'system' -%}"
        said = "(text_of(messages[0].content, true) | trim) -}}{%- endif -%}\n"
        template = template.replace(condition + "{{- '\\n\\n' + " + said, "")
        moved = "{{- '<|im_start|>system\\n' -}}" + condition + "{{- " + said.replace(" -}}", " + '\\n\\n' -}}")
        template = template.replace("{{- '<|im_start|>system\\nYou", moved + "{{- 'You")
    return template
