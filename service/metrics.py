"""What a pod tells Prometheus. Arrivals are counted on arrival and results at the end: a pod that hangs shows.

With several processes, PROMETHEUS_MULTIPROC_DIR names the folder in which they add up; `service.serve` sets it before
anything imports prometheus_client, which reads it once.
"""

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector

from service.bundle import Edges
from service.schema import ModelInfo
from service.scorer import Score

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
LATENCIES = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # seconds
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The metrics of one process. Probes and scrapes are not requests: nobody would judge a model by them."""

    def __init__(self, edges: Edges, model: ModelInfo) -> None:
        disable_created_metrics()  # twice the series, and nobody asks
        self._registry = registry = CollectorRegistry()
        if _FOLDER in os.environ:
            _forget_the_dead(Path(os.environ[_FOLDER]))
        else:
            ProcessCollector(registry=registry)
        arrived = Counter("sentiment_requests_arrived", "Requests, counted on arrival", registry=registry)
        results = Counter("sentiment_requests", "Requests, counted when answered", ["code"], registry=registry)
        in_flight = Gauge(
            "sentiment_requests_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._observe_latency = Histogram(
            "sentiment_request_seconds", "Time to answer, streams excepted", buckets=LATENCIES, registry=registry
        ).observe
        self._observe_score, self._observe_words, self._observe_oov_share = (
            Histogram(f"sentiment_{signal}", text, buckets=getattr(edges, signal), registry=registry).observe
            for signal, text in {
                "score": "Probability that a review is positive",
                "words": "Words in a review",
                "oov_share": "Share of a review's distinct words that the vocabulary lacks",
            }.items()
        )
        info = {"version": model.model_version, "scorer_sha256": model.scorer_sha256, "git_sha": model.git_sha}
        Gauge("sentiment_model_info", "The model served", info, registry=registry, multiprocess_mode="max").labels(
            **info
        ).set(1)
        self._arrive, self._enter, self._leave = arrived.inc, in_flight.inc, in_flight.dec
        self._results = {code: results.labels(str(code)) for code in (200, 500)}
        self._result_of = results.labels

    def arrived(self) -> None:
        self._arrive()
        self._enter()

    def answered(self, code: int, seconds: float | None) -> None:
        """`seconds` is None for a stream, which lasts as long as its client wishes."""
        self._leave()
        if code not in self._results:
            self._results[code] = self._result_of(str(code))
        self._results[code].inc()
        if seconds is not None:
            self._observe_latency(seconds)

    def scored(self, score: Score) -> None:
        self._observe_score(score.positive)
        self._observe_words(score.words)
        self._observe_oov_share(score.oov_share)

    def expose(self) -> bytes:
        """The metrics of all processes, in Prometheus' text format."""
        registry = self._registry
        if _FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """What a killed process had in flight is in flight no more. Called by the one that takes its place."""
    for path in folder.glob("gauge_livesum_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))
