"""The server's metrics, as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self.requests = Counter("effnets_requests", "Requests to /predict.", ["status"], registry=registry)
        self.images = Counter("effnets_images", "Images, classified and unreadable.", ["outcome"], registry=registry)
        self.seconds = Histogram(
            "effnets_request_seconds", "From headers to answer.", buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram("effnets_batch_size", "Images in a batch.", buckets=_SIZES, registry=registry)
        self.queue = Gauge("effnets_queue_images", "Images waiting and in work.", registry=registry)
        self.replicas = Gauge("effnets_replicas_ready", "Replicas that can work.", registry=registry)
        self.restarts = Counter("effnets_replica_restarts", "Attempts to replace a replica.", registry=registry)
