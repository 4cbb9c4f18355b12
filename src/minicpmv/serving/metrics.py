"""Counts requests, times and tokens, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Holds the counters of one server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "minicpmv_requests", "Chat completions by HTTP status; 499 for a client that left", ["status"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "minicpmv_request_seconds", "From a request's first byte to its answer's last", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.first_piece_seconds = Histogram(
            "minicpmv_first_piece_seconds", "From a request's first byte to its answer's first text", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("minicpmv_prompt_tokens", "Tokens of answered prompts", registry=registry)
        self.completion_tokens = Counter("minicpmv_completion_tokens", "Tokens of finished answers", registry=registry)
        self.waiting = Gauge("minicpmv_requests_waiting", "Requests being read or waiting", registry=registry)
        self.running = Gauge("minicpmv_requests_running", "Requests in the running batch", registry=registry)
        self.batch_size = Histogram(
            "minicpmv_batch_size", "Requests answered together", buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """Return all counters as text."""
        return generate_latest(self._registry)
