"""The server's metrics, in Prometheus's text format."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)


class Metrics:
    """One server's metrics, in a registry of its own, so that a process can hold several servers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "headstart_requests",
            "Requests, by route and HTTP status",
            ["route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "headstart_request_seconds",
            "Time from a request's head to its answer, by route",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.batches = Histogram(
            "headstart_batch_images",
            "Images (or texts) that the model answered together",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.reloads = Counter(
            "headstart_reloads", "Looks at a new version, by outcome", ["outcome"], registry=self.registry
        )
        self.collected = Counter(
            "headstart_collected_images",
            "Images (or texts) for --collect, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.collected_bytes = Counter(
            "headstart_collected_bytes", "Bytes of what was kept for --collect", registry=self.registry
        )
        self.images = Counter(
            "headstart_images",
            "Images (or texts) answered, by whether they resemble what the model was trained on",
            ["familiar"],
            registry=self.registry,
        )
        self.version = Gauge("headstart_model_version", "The version that answers; 0 for none", registry=self.registry)
        self.waiting = Gauge(
            "headstart_waiting_images", "Images (or texts) that wait for the model", registry=self.registry
        )

    def count(self, familiar: Iterable[bool | None]) -> None:
        """Counts answered images; None is of a model that does not say it."""
        for each, images in Counts(familiar).items():
            self.images.labels("unknown" if each is None else str(each).lower()).inc(images)

    def watch(self, version: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Reads the two gauges when they are requested."""
        self.version.set_function(version)
        self.waiting.set_function(waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)
