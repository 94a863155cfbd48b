"""The page of ``rqproc dashboard``, as a process of its own, and what is asked of it by HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from integration import kit
from integration.fixtures import Cluster
from integration.kit import Running

OWN = {"X-Rqproc": "drain"}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Page:
    """One page that is served."""

    def __init__(self, running: Running, url: str) -> None:
        self.running = running
        self.url = url
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 0

    def ask(self, path: str, *, method: str = "GET", body: object = None, **headers: str) -> Answer:
        """``headers``: "_" stands for "-"."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            text = None if body is None else json.dumps(body)
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, text, given)
            found = connection.getresponse()
            told = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, told, found.read().decode())
        finally:
            connection.close()

    def news(self, count: int) -> list[tuple[str, Any]]:
        """Return so many events of the stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/api/news")
            stream = connection.getresponse()
            assert stream.getheader("content-type", "").startswith("text/event-stream")
            found: list[tuple[str, Any]] = []
            kind = ""
            while len(found) < count:
                name, _, rest = stream.readline().decode().rstrip("\n").partition(": ")
                if name == "event":
                    kind = rest
                elif name == "data":
                    found.append((kind, json.loads(rest)))
            return found
        finally:
            connection.close()


@contextmanager
def page(cluster: Cluster, *options: str, **env: str) -> Iterator[Page]:
    command = ("dashboard", "--port", "0", "--interval", "0.2", *options)
    with kit.command(cluster.url, cluster.namespace, *command, **env) as running:
        kit.eventually(lambda: running.out or running.process.poll() is not None)
        assert running.out, running.stderr
        yield Page(running, running.out[0].strip())
