"""Prometheus metrics. Every server has its own registry, so that two in one process do not add up."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("darkroom_requests", "Requests answered", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "darkroom_request_seconds",
            "Seconds from request headers to response",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.predictions = Counter("darkroom_predictions", "Images classified", ["version", "label"], registry=registry)
        self.images_refused = Counter("darkroom_images_refused", "Images that could not be read", registry=registry)
        self.feedback = Counter("darkroom_feedback", "True labels stored", ["known"], registry=registry)
        self.batch_images = Histogram("darkroom_batch_images", "Images per batch", buckets=BATCHES, registry=registry)
        self.waiting = Gauge("darkroom_images_waiting", "Images in the queue", registry=registry)
        self.model = Gauge("darkroom_model_info", "The loaded version", ["model", "version"], registry=registry)

    def text(self, *, model: str, version: str) -> bytes:
        """Return everything in Prometheus' text format."""
        self.model.clear()
        self.model.labels(model, version).set(1)
        return generate_latest(self._registry)
