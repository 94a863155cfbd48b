"""Prometheus metrics of one node, and its probes (``pip install 'rqproc[metrics]'``).

Knows prometheus-client and what a node counts. Names follow Prometheus' conventions: ``_total`` for
what only grows, seconds and bytes, labels with few values. ``rq_workers_success`` and
``rq_workers_failed`` keep rq-exporter's names, since they mean the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from io import BytesIO
from itertools import accumulate
from socket import AI_PASSIVE, SOCK_STREAM, getaddrinfo
from threading import Thread
from typing import Any, Protocol
from urllib.parse import urlsplit

from rqproc.errors import ConfigError
from rqproc.protocol.messages import Tally
from rqproc.stats import BOUNDS_S, Histogram, NodeStats

TALLIED = {
    "rqproc_hits": ("Requests answered from an entry.", "hits"),
    "rqproc_joined": ("Requests that joined a running computation.", "joined"),
    "rqproc_misses": ("Handler runs.", "misses"),
    "rq_workers_success": ("Requests answered with a value.", "succeeded"),
    "rq_workers_failed": ("Requests answered with an error.", "failed"),
}
"""Counters by their names: what they count, and where they are in a tally; ``_total`` is added."""

COUNTED = {
    "rqproc_evictions": ("Values that had to go for others.", "evictions"),
    "rqproc_heartbeats": ("Heartbeats that were answered.", "beats"),
    "rqproc_heartbeats_missed": ("Heartbeats that were not answered.", "beats_missed"),
    "rqproc_member_changes": ("How often other members were learned of.", "epochs"),
    "rqproc_entries_handed_over": ("Entries given to their ids' new owners.", "handed_over"),
    "rqproc_entries_taken_over": ("Entries got from their ids' former owners.", "taken_over"),
}
"""The same of what is in ``NodeStats``."""

MEASURED = {
    "rqproc_entries": ("Values kept.", "entries"),
    "rqproc_entries_bytes": ("Memory that is kept values', and old ones' and errors'.", "bytes"),
    "rqproc_objects": ("Objects of stateful ids in memory.", "objects"),
    "rqproc_held": ("Requests taken and not answered.", "held"),
    "rqproc_lanes": ("Handlers that may run side by side.", "lanes"),
    "rqproc_lanes_busy": ("Ids of which a handler runs.", "lanes_busy"),
}
"""Gauges by their names, likewise."""

TIMED = {
    "rqproc_queue_duration_seconds": ("How long requests waited for their run.", "queueing"),
    "rqproc_run_duration_seconds": ("How long handlers ran.", "run"),
    "rqproc_request_duration_seconds": (
        "From queued to answered, of requests that were run or joined a run.", "whole",
    ),
}  # fmt: skip
"""Histograms by their names, and where they are in ``ResourceStats``."""

SILENCE_S = 10
"""Who connects and says nothing for so long is left: each connection takes a thread."""


class Observed(Protocol):
    """The node whose metrics these are.

    Attributes:
        lease_left_s: float, seconds for which its lease may be relied on; 0 where it may not.
    """

    def tally(self) -> Tally: ...
    def stats(self) -> NodeStats: ...
    def unready(self) -> str:
        """Return why it does not serve as a member just now; "" where it does."""

    @property
    def lease_left_s(self) -> float: ...


def serve(host: str, port: int, node: Observed) -> None:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` over HTTP, from threads of their own.

    Args:
        host: the address to listen at, or a name of it.

    Raises:
        ConfigError: prometheus-client is missing, or it cannot listen there.
    """
    try:
        from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector
    except ImportError as error:
        raise ConfigError("--metrics-port needs `pip install 'rqproc[metrics]'`") from error

    registry = CollectorRegistry()
    registry.register(_Collector(node))
    ProcessCollector(registry=registry)
    try:
        server = _Server(host, port, _handler(MetricsHandler, node).factory(registry))
    except OSError as error:
        raise ConfigError(f"--metrics-port {port} at {host}: {error.strerror}") from error
    Thread(target=server.serve_forever, name="rqproc-metrics", daemon=True).start()


def _handler(base: type[BaseHTTPRequestHandler], node: Observed) -> Any:
    """Return what answers requests; ``base`` is prometheus-client's, which knows ``/metrics``."""

    class Handler(base):  # type: ignore[valid-type, misc]
        timeout = SILENCE_S

        def do_HEAD(self) -> None:  # noqa: N802 - the name is Python's
            self.do_GET()

        def end_headers(self) -> None:
            super().end_headers()
            if self.command == "HEAD":  # what follows is the body, which has no place there
                self.wfile = BytesIO()

        def do_GET(self) -> None:  # noqa: N802
            path = urlsplit(self.path).path
            if path == "/metrics":
                super().do_GET()
            elif path == "/healthz":  # it answers, so the process lives
                _answer(self, HTTPStatus.OK, "ok")
            elif path == "/readyz":
                why = node.unready()
                status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
                _answer(self, status, why or "ready")
            else:
                self.send_error(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")

    return Handler


def _answer(handler: BaseHTTPRequestHandler, status: HTTPStatus, text: str) -> None:
    body = f"{text}\n".encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "text/plain; charset=utf-8")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Listens at an address of either family. Raises: OSError."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        found: Any = getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)[0]
        self.address_family, *_, address = found
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what went wrong, unless who asked has gone: a log has no use for that."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Collector:
    """Makes metric families of what a node has counted, when they are asked for."""

    def __init__(self, node: Observed) -> None:
        self._node = node

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        tally, stats = self._node.tally(), self._node.stats()
        ready, left_s = not self._node.unready(), self._node.lease_left_s
        info = GaugeMetricFamily("rqproc_node_info", "The node.", labels=("node", "version"))
        info.add_metric((stats.node, version("rqproc")), 1)
        yield info
        yield GaugeMetricFamily("rqproc_ready", "1 as a member with a good lease.", value=ready)
        text = "For how long the lease may be relied on."
        yield GaugeMetricFamily("rqproc_lease_left_seconds", text, value=left_s)
        yield GaugeMetricFamily("rqproc_stuck", "Handlers past their timeout.", value=tally.stuck)
        for name, (text, field) in MEASURED.items():
            yield GaugeMetricFamily(name, text, value=getattr(stats, field))
        for name, (text, field) in TALLIED.items():
            yield CounterMetricFamily(name, text, value=getattr(tally, field))
        for name, (text, field) in COUNTED.items():
            yield CounterMetricFamily(name, text, value=getattr(stats, field))
        yield from _of_resources(stats)


def _of_resources(stats: NodeStats) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    answers = CounterMetricFamily(
        "rqproc_answers", "Requests answered with a value.", labels=("resource", "source")
    )
    errors = CounterMetricFamily(
        "rqproc_errors", "Requests answered with an error.", labels=("resource", "type")
    )
    runs = CounterMetricFamily("rqproc_runs", "Handler runs.", labels=("resource",))
    timed = {
        field: HistogramMetricFamily(name, text, labels=("resource",))
        for name, (text, field) in TIMED.items()
    }
    for one in stats.resources:
        for source, count in one.answers.items():
            answers.add_metric((one.name, source), count)
        for type, count in one.errors.items():
            errors.add_metric((one.name, type), count)
        runs.add_metric((one.name,), one.runs)
        for field, family in timed.items():
            found: Histogram = getattr(one, field)
            family.add_metric((one.name,), _buckets(found), found.sum_s)
    yield from (answers, errors, runs, *timed.values())


def _buckets(found: Histogram) -> list[tuple[str, float]]:
    """Return how many were not above each bound, as Prometheus has it."""
    bounds = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
    return list(zip(bounds, accumulate(found.counts), strict=True))
