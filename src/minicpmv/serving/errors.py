"""Defines the errors of requests, each with an HTTP status and OpenAI's error body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["RequestError", "not_finite", "refused", "unknown_model"]


class RequestError(Exception):
    """Says why a request is not answered.

    Args:
        status: HTTP status.
        message: Message for the client.
        code: OpenAI's short name for it, which clients evaluate.
        param: The parameter at fault.
        retry_after: Seconds after which a retry may work.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """Return the body of the response."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refused(where: str, found: str, expected: str, fix: str, *, code: str | None = None) -> RequestError:
    """Return the error for an invalid request."""
    param = where.partition("[")[0].partition(".")[0]
    return RequestError(400, f"{where}: found {found}, expected {expected}\n  fix: {fix}", code=code, param=param)


def unknown_model(name: str, known: Iterable[str]) -> RequestError:
    """Return the error for an unknown model."""
    return RequestError(
        404,
        f"model: found {name!a:.200}, expected one of {', '.join(known)}\n  fix: use one that GET /v1/models lists",
        code="model_not_found",
        param="model",
    )


def not_finite(name: str) -> RequestError:
    """Return the error for logits that are not finite, so that no token can be chosen."""
    return RequestError(
        500,
        f"model: found logits of {name!a:.200} that are not finite (NaN or infinite), expected numbers to choose a "
        "token by: its weights are not finite, or its numbers too large for its precision\n"
        "  fix: see the server's log; serve an earlier checkpoint, or restart with --dtype float32 or bfloat16",
        code="not_finite",
        param="model",
    )
