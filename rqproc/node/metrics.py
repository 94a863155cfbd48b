"""Prometheus metrics of one node (``pip install 'rqproc[metrics]'``).

Knows prometheus-client and a node's tally. ``rq_workers_success`` and ``rq_workers_failed`` keep
rq-exporter's names, since they mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rqproc.errors import ConfigError
from rqproc.protocol.messages import Tally

COUNTERS = {
    "rqproc_hits": ("Requests answered from an entry.", "hits"),
    "rqproc_joined": ("Requests that joined a running computation.", "joined"),
    "rqproc_misses": ("Handler runs.", "misses"),
    "rq_workers_success": ("Requests answered with a value.", "succeeded"),
    "rq_workers_failed": ("Requests answered with an error.", "failed"),
}


def serve(port: int, tally: Callable[[], Tally]) -> None:
    """Serve metrics over HTTP from a thread of its own.

    Raises:
        ConfigError: prometheus-client is missing, or the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise ConfigError("--metrics-port needs `pip install 'rqproc[metrics]'`") from error
    registry = CollectorRegistry()
    registry.register(_Collector(tally))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise ConfigError(f"--metrics-port {port}: {error.strerror}") from error


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
