"""Who may ask."""

from __future__ import annotations

import hmac

from starlette.requests import Request

from minicpmv.serving.errors import RequestError

__all__ = ["Access"]


class Access:
    """Lets in whoever sends the key.

    Args:
        api_key: The key; None lets everybody in.
    """

    def __init__(self, api_key: str | None) -> None:
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()

    def check(self, request: Request) -> None:
        """Refuse a request without the key.

        Raises:
            RequestError: It has none, or another one.
        """
        if self._expected is None:
            return
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._expected):  # takes as long whatever is wrong
            found = "another key than the server's" if given else "no key"
            raise RequestError(
                401,
                f"authorization: found {found}, expected 'Bearer KEY'\n  fix: send the key that the server was given",
                code="invalid_api_key",
            )
