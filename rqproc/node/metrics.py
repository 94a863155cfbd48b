"""Prometheus metrics of one node (``pip install 'rqproc[metrics]'``).

Knows prometheus-client and a node's tally. ``rq_workers_success`` and ``rq_workers_failed`` keep
rq-exporter's names, since they mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AI_PASSIVE, SOCK_STREAM, getaddrinfo
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from rqproc.errors import ConfigError
from rqproc.protocol.messages import Tally

COUNTERS = {
    "rqproc_hits": ("Requests answered from an entry.", "hits"),
    "rqproc_joined": ("Requests that joined a running computation.", "joined"),
    "rqproc_misses": ("Handler runs.", "misses"),
    "rq_workers_success": ("Requests answered with a value.", "succeeded"),
    "rq_workers_failed": ("Requests answered with an error.", "failed"),
}


def serve(host: str, port: int, tally: Callable[[], Tally]) -> None:
    """Serve metrics over HTTP from threads of their own, at ``/metrics`` and nowhere else.

    Args:
        host: the address to listen at, or a name of it.

    Raises:
        ConfigError: prometheus-client is missing, or it cannot listen there.
    """
    try:
        from prometheus_client import CollectorRegistry, MetricsHandler
    except ImportError as error:
        raise ConfigError("--metrics-port needs `pip install 'rqproc[metrics]'`") from error

    class Handler(MetricsHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name is Python's
            if urlsplit(self.path).path == "/metrics":
                super().do_GET()
            else:
                self.send_error(HTTPStatus.NOT_FOUND, "metrics are at /metrics")

    registry = CollectorRegistry()
    registry.register(_Collector(tally))
    try:
        server = _Server(host, port, Handler.factory(registry))
    except OSError as error:
        raise ConfigError(f"--metrics-port {port} at {host}: {error.strerror}") from error
    Thread(target=server.serve_forever, name="rqproc-metrics", daemon=True).start()


class _Server(ThreadingHTTPServer):
    """Listens at an address of either family. Raises: OSError."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        found: Any = getaddrinfo(host, port, type=SOCK_STREAM, flags=AI_PASSIVE)[0]
        self.address_family, *_, address = found
        super().__init__(address, handler)


class _Collector:
    def __init__(self, tally: Callable[[], Tally]) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = self._tally()
        yield GaugeMetricFamily("rqproc_entries", "Values kept.", value=now.entries)
        yield GaugeMetricFamily("rqproc_stuck", "Handlers past their timeout.", value=now.stuck)
        for name, (text, field) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(now, field))
