"""Prometheus metrics. Every server has its own registry, so that two in one process do not add up."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from darkroom.serving.follower import Follower
from darkroom.serving.worker_process import Image

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CAUSES = ("memory", "time", "signal", "exit")  # of the end of a worker, see pool.py
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def seconds(name: str, of: str) -> Histogram:
            return Histogram(f"darkroom_{name}_seconds", f"Seconds {of}", buckets=SECONDS, registry=registry)

        self.requests = Counter("darkroom_requests", "Requests answered", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "darkroom_request_seconds",
            "Seconds from request headers to response",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.predictions = Counter("darkroom_predictions", "Images classified", ["version", "label"], registry=registry)
        self.unknown = Counter(
            "darkroom_unknown", "Images that the model finds unknown", ["version"], registry=registry
        )
        self.abstained = Counter(
            "darkroom_abstained", "Images answered below the model's own threshold", ["version"], registry=registry
        )
        self.images_refused = Counter("darkroom_images_refused", "Images that could not be read", registry=registry)
        self.feedback = Counter("darkroom_feedback", "True labels stored", ["known"], registry=registry)
        self.batch_images = Histogram("darkroom_batch_images", "Images per batch", buckets=BATCHES, registry=registry)
        self.queue_seconds = seconds("queue", "that an image waited for a worker")
        self.decode_seconds = seconds("decode", "of decoding an image")
        self.network_seconds = seconds("network", "of the network on a batch of images")
        self.log_dropped = Counter(
            "darkroom_log_dropped", "Rows and images that the log of predictions lost", ["what"], registry=registry
        )
        for what in ("rows", "images"):
            self.log_dropped.labels(what)  # exported at 0 too: an alert needs a series
        self._restarts = Counter(
            "darkroom_worker_restarts",
            "Worker processes that ended and were replaced, by why: memory, time, signal, exit",
            ["cause"],
            registry=registry,
        )
        for cause in CAUSES:
            self._restarts.labels(cause)
        self.stale = Gauge(
            "darkroom_model_stale",
            "1 if the loaded version is not the one under the alias, or if that is not known",
            registry=registry,
        )
        self.registry_read = Gauge(
            "darkroom_registry_read_timestamp_seconds", "When the registry was last read", registry=registry
        )
        self.waiting = Gauge("darkroom_images_waiting", "Images in the queue", registry=registry)
        self.model = Gauge("darkroom_model_info", "The loaded version", ["model", "version"], registry=registry)

    def restarted(self, cause: str) -> None:
        """Count an unexpected end of a worker."""
        self._restarts.labels(cause).inc()

    def note(self, version: str, images: Sequence[Image], notes: Mapping[str, Any]) -> None:
        """Count an answered batch.

        Args:
            notes: of the worker.
        """
        self.batch_images.observe(len(images))
        self.network_seconds.observe(notes["network_seconds"])
        self.unknown.labels(version).inc(sum(one["unknown"] for one in notes["images"]))
        self.abstained.labels(version).inc(sum(one["abstained"] for one in notes["images"]))
        for image, one in zip(images, notes["images"], strict=True):
            self.predictions.labels(version, one["label"]).inc()
            self.queue_seconds.observe(image.sent - image.since)
            self.decode_seconds.observe(one["decode_seconds"])

    def text(self, follower: Follower) -> bytes:
        """Return everything in Prometheus' text format."""
        version = follower.served.version
        self.model.clear()
        self.model.labels(version.name, version.version).set(1)
        self.stale.set(follower.problem is not None)
        self.registry_read.set(follower.read)
        return generate_latest(self._registry)
