"""Checks the API key of requests."""

from __future__ import annotations

import hmac

from starlette.requests import Request

from minicpmv.serving.errors import RequestError

__all__ = ["Access"]


class Access:
    """Lets in requests that carry the key.

    Args:
        api_key: The key; None lets in every request.
    """

    def __init__(self, api_key: str | None) -> None:
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    def check(self, request: Request) -> None:
        """Refuse a request without the key.

        Raises:
            RequestError: The key is missing or wrong.
        """
        if self._expected is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._expected):  # constant time
            found = "a wrong key" if given else "no key"
            raise RequestError(
                401,
                f"authorization: found {found}, expected 'Bearer KEY'\n  fix: send the server's key",
                code="invalid_api_key",
            )
