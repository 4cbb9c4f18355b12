"""Writes the chat template of a GGUF file: the checkpoint's own, preceded by code that adds the marks around pictures.

llama.cpp inserts only the tokens of slices in the place of a picture. Where training numbered pictures and put a line
break between picture and text, the model has never seen a prompt without them.
"""

from __future__ import annotations

from minicpmv.processing.processor import MiniCPMVProcessor

__all__ = ["PICTURE_MARK", "chat_template"]

PICTURE_MARK = "<__media_"
"""Beginning of llama.cpp's placeholder for a picture; its tools end it in different ways, all with ``>``."""

# A content is a text with marks for pictures, or a list of parts. Line breaks are added as between the parts of a
# message in training, unless the text already has them. Only messages with a picture are rewritten.
_PICTURES = """\
{%- set given = namespace(messages=[], pictures=0) -%}
{%- for message in messages -%}
  {%- set text = namespace(whole='') -%}
  {%- if message.content is string -%}
    {%- set text.whole = message.content -%}
  {%- else -%}
    {%- for part in message.content or [] -%}
      {%- if part.text -%}
        {%- if text.whole and not text.whole.endswith('\\n') -%}{%- set text.whole = text.whole ~ '\\n' -%}{%- endif -%}
        {%- set text.whole = text.whole ~ part.text -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if 'MARK' in text.whole -%}
    {%- set pieces = text.whole.split('MARK') -%}
    {%- set text.whole = pieces[0] -%}
    {%- for piece in pieces[1:] -%}
      {%- set parts = piece.split('>', 1) -%}
      {%- if text.whole and not text.whole.endswith('\\n') -%}{%- set text.whole = text.whole ~ '\\n' -%}{%- endif -%}
      {%- set text.whole = text.whole ~ NUMBER'MARK' ~ parts[0] ~ '>' -%}
      {%- set given.pictures = given.pictures + 1 -%}
      {%- if parts[1] and not parts[1].startswith('\\n') -%}{%- set text.whole = text.whole ~ '\\n' -%}{%- endif -%}
      {%- set text.whole = text.whole ~ parts[1] -%}
    {%- endfor -%}
    {%- set given.messages = given.messages + [{'role': message.role, 'content': text.whole}] -%}
  {%- elif message.content is string or not text.whole -%}
    {%- set given.messages = given.messages + [message] -%}
  {%- else -%}
    {%- set given.messages = given.messages + [{'role': message.role, 'content': text.whole}] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = given.messages -%}
"""
_NUMBER = "'<image_id>' ~ given.pictures ~ '</image_id>' ~ "


def chat_template(processor: MiniCPMVProcessor) -> str | None:
    """Return the template to write into the file; None where the checkpoint has none."""
    own = getattr(processor.tokenizer, "chat_template", None)
    if not isinstance(own, str):
        return None
    number = _NUMBER if processor.use_image_id else ""
    return _PICTURES.replace("MARK", PICTURE_MARK).replace("NUMBER", number) + own
