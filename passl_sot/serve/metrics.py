"""What is counted, for Prometheus."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

# Several processes write their numbers to files in this folder, and each can then tell the sums.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The numbers of one process, or of all where `FOLDER` is set in the environment."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.requests = Counter(
            "passl_sot_requests",
            "Requests by path and status; 499: the client left before the answer",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "passl_sot_request_seconds", "From a request's head to its answer", ["path"], registry=registry
        )
        sizes = [*(2**power for power in range(11)), float("inf")]
        self.batches = Histogram(
            "passl_sot_batch_size", "Images or texts computed together", buckets=sizes, registry=registry
        )
        self.queue = Gauge(
            "passl_sot_queue_length",
            "Images or texts read, waiting or computed",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.loading = Gauge(
            "passl_sot_model_load_seconds",
            "Time that loading the model took, its first prediction included",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.loads = Counter(
            "passl_sot_model_loads", "Models loaded, by result", ["result"], registry=registry
        )
        self._registry = registry

    def text(self) -> bytes:
        """All numbers in Prometheus's text format."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
