"""Hides secrets wherever a command line, a setting or a message is repeated: in files, on pages, on the terminal.

A secret is recognised by its name (``--hub_token X``, ``{"api_key": X}``, ``?sig=X``), by its place in an
address (``https://user:X@host``), by its shape (``hf_...``, ``Bearer ...``), or because an environment variable
with such a name holds it. Values that a program works with stay as they are: only repeated text is cleaned.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from minicpmv.wording import FALSE, TRUE

__all__ = [
    "HIDDEN",
    "clean_command",
    "clean_command_line",
    "clean_settings",
    "clean_text",
    "is_secret_name",
    "secrets_in",
]

HIDDEN = "***"
"""Placeholder that replaces a secret."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET_WORDS = re.compile(
    "apikey|auth|authentication|authorization|bearer|cookies?|credentials?|key|pass|passphrase|passwd|passwords?|pat|"
    "pwd|sas|secrets?|sig|signature|token"
)
_SECRET_ENDINGS = ("apikey", "accesskey", "authkey", "credential", "passwd", "password", "secret", "secretkey", "token")
_SECRET_LISTS = ("keys", "tokens")
"""Words that mark a secret at the end of a name, unless they count: ``--api_keys a b``, not ``--batch_tokens 4096``."""
_NO_SECRET = (*TRUE, *FALSE, "", "auto", "none", "null", HIDDEN)

_USERINFO = re.compile(r"(?<=://)[^\s/?#]*@")
_QUERY = re.compile(r"(?<=[?&;#])([^=&\s#]+)=([^&\s#'\"]+)")
_PAIR = re.compile(r"(?<![\w?&;#.-])(-{0,2}[A-Za-z][\w.-]*)=([^\s,;&'\"{}\[\]]+)")
_QUOTED_PAIR = re.compile(r"(?P<a>\\?['\"])(?P<name>[\w.-]+)(?P=a)\s*:\s*(?P<b>\\?['\"])(?P<value>.*?)(?P=b)")
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"  # an underscore may precede it, as in a folder's name
    r"hf_(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{8,}|hf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|sk-[\w-]{12,}|AIza[\w-]{30,}"  # OpenAI and its kin, Google
    r"|gh[oprsu]_[A-Za-z0-9]{12,}|github_pat_\w{12,}|glpat-[\w-]{12,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"  # Amazon
    r"|xox[a-z]-[\w-]{10,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{20,}|dckr_pat_[\w-]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+)?"  # JSON web tokens
    r")"
)
_SCHEMES = re.compile(r"\b(Bearer|Basic)\s+(?=\S*[^a-z\s])([\w.~+/=-]{6,})", re.IGNORECASE)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL)

_LEAST_OF_ENVIRONMENT = 8
"""Fewest characters of a variable's value that counts as a secret: `1` and `yes` are switches."""
_LEAST_REPEATED = 5
"""Fewest characters of a command-line value that is hidden wherever it occurs: shorter ones may be part of any word."""


@lru_cache(maxsize=4096)  # each cleaned text looks up every name in the environment
def is_secret_name(name: str) -> bool:
    """Return whether a flag, key or variable of this name holds a secret, judging by the name alone."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words:
        return False
    return words[-1] in _SECRET_LISTS or any(
        _SECRET_WORDS.fullmatch(word) or (len(word) > 6 and word.endswith(_SECRET_ENDINGS)) for word in words
    )


def clean_command(words: Sequence[str]) -> list[str]:
    """Return a command line, or its flags, with every secret hidden and the same number of words."""
    cleaned: list[str] = []
    name, num_values = "", 0
    secrets = _longest_first(())
    for word in words:
        flag, equals, value = word.partition("=")
        if word.startswith("--") and len(word) > 2:
            name, num_values = flag, 0
            cleaned.append(f"{flag}={_clean_value(flag, value, secrets)}" if equals else _clean(word, secrets))
            continue
        # Only a list takes several values; after the one value of another flag, words belong to the command.
        belongs = name and (num_values == 0 or _is_list(name))
        cleaned.append(_clean_value(name if belongs else "", word, secrets))
        num_values += 1
    return cleaned


def clean_command_line(text: str) -> str:
    """Return a shell command with every secret hidden."""
    try:
        words = shlex.split(text)
    except ValueError:  # not a valid shell command
        return clean_text(text)
    cleaned = clean_command(words)
    return text if cleaned == words else shlex.join(cleaned)


def secrets_in(words: Sequence[str]) -> frozenset[str]:
    """Return the values of a command line whose flags are named like secrets."""
    found: set[str] = set()
    name = ""
    for word in words:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            name = "" if equals else flag
            value = value if equals else ""
        else:
            flag, value, name = name, word, name if _is_list(name) else ""
        if is_secret_name(flag) and not _is_harmless(flag, value):
            found.add(value)
    return frozenset(value for value in found if len(value) >= _LEAST_REPEATED)


def clean_settings(value: Any, *, name: str = "", known: Iterable[str] = ()) -> Any:
    """Return settings, as JSON has them, with every secret hidden.

    Args:
        value: A mapping, list, text or anything else.
        name: Name of the value; everything under a secret's name is hidden.
        known: Secrets that are hidden wherever they occur.
    """
    return _clean_all(value, name, _longest_first(known))


def clean_text(text: str, *, known: Iterable[str] = ()) -> str:
    """Return a text with every secret hidden that its shape, its place or the environment reveals.

    Args:
        text: A message, a path, an address, one word of a command.
        known: Secrets that are hidden wherever they occur.
    """
    return _clean(text, _longest_first(known))


def _longest_first(known: Iterable[str]) -> list[str]:
    """List what is hidden wherever it occurs: what is known and what the environment holds."""
    return sorted({*known, *_of_environment()}, key=len, reverse=True)


def _clean(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _PRIVATE_KEY.sub(rf"\1{HIDDEN}\2", text)
    text = _USERINFO.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(_hide_pair, text)
    text = _PAIR.sub(_hide_pair, text)
    text = _QUOTED_PAIR.sub(_hide_quoted, text)
    text = _SCHEMES.sub(rf"\1 {HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def _clean_all(value: Any, name: str, secrets: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        hides = is_secret_name(name)
        return {
            _clean(key, secrets) if isinstance(key, str) else key: _clean_all(
                each, name if hides else str(key), secrets
            )
            for key, each in items
        }
    if isinstance(value, list | tuple):
        return [_clean_all(each, name, secrets) for each in cast("Sequence[Any]", value)]
    return _clean_value(name, value, secrets) if isinstance(value, str) else value


def _clean_value(name: str, value: str, secrets: Sequence[str]) -> str:
    if is_secret_name(name):
        return value if _is_harmless(name, value) else HIDDEN
    if value.lstrip()[:1] in ("{", "["):
        try:
            content = json.loads(value)
        except ValueError:
            return _clean(value, secrets)
        cleaned = _clean_all(content, "", secrets)
        return value if cleaned == content else json.dumps(cleaned)
    if re.search(r"(^|\s)--\w[\w-]*\s", value):  # a command line in one word
        return _clean(clean_command_line(value), secrets)
    return _clean(value, secrets)


def _is_list(name: str) -> bool:
    words = _WORDS.findall(name)
    return bool(words) and words[-1].lower() in _SECRET_LISTS


def _is_harmless(name: str, value: str) -> bool:
    """Return whether the value under a secret's name is a switch, or a count under the name of a list."""
    return value.lower() in _NO_SECRET or (_is_list(name) and value.replace(".", "", 1).isdigit())


def _hide_pair(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    return f"{name}={HIDDEN}" if is_secret_name(name) and not _is_harmless(name, value) else match[0]


def _hide_quoted(match: re.Match[str]) -> str:
    if not is_secret_name(match["name"]) or _is_harmless(match["name"], match["value"]):
        return match[0]
    start, end = match.start("value") - match.start(), match.end("value") - match.start()
    return f"{match[0][:start]}{HIDDEN}{match[0][end:]}"


def _of_environment() -> list[str]:
    """List the values of variables with a secret's name; a path (SSH_AUTH_SOCK) only leads to a secret."""
    values = [os.environ.get(name, "") for name in os.environ if is_secret_name(name)]
    return [value for value in values if len(value) >= _LEAST_OF_ENVIRONMENT and not value.startswith(("/", "~", "."))]
