"""A node inside a program: what ``with app.node()`` enters and leaves.

Knows a node, the thread that it runs in, and where the app's clients find it. Must not
know how a node serves.

The program's signals stay its own. What a node does where it cannot do otherwise, ending its
process, is no choice here; so a handler that outlasts ``drain_s`` keeps its node alive behind the
program's back, until it has ended: its id is in no other place meanwhile.
"""

from __future__ import annotations

import logging
import math
import os
from concurrent.futures import Future
from dataclasses import replace
from threading import Thread
from types import TracebackType
from typing import Self

from rqproc.calls.functions import connector
from rqproc.calls.lookup import InProcessNodes
from rqproc.errors import ConfigError
from rqproc.log_events import tell
from rqproc.node.node import Node, check_threads
from rqproc.protocol.keys import Keys, check_node_name
from rqproc.protocol.messages import Joined
from rqproc.resource import Declaring
from rqproc.sample import with_demo
from rqproc.settings import NodeOptions, NodeSettings

log = logging.getLogger("rqproc.node")

LEAVING_S = 1.0
"""What a node that holds nothing may take to say goodbye, in threads and to the server."""


class InProcessNode:
    """One node of an app, from when it is entered until it is left. It is a ``ServingNode``.

    Args:
        nodes_here: where the app's clients look for it.
        url, namespace: where they ask.
        settings: as ``NodeSettings`` takes.

    Attributes:
        name: under which it is a member, once it is entered.

    Raises:
        ConfigError: settings out of bounds, a malformed name, or gevent or eventlet has patched
            Python.
    """

    def __init__(
        self, app: Declaring, nodes_here: InProcessNodes, *, url: str, namespace: str,
        name: str | None, settings: NodeOptions,
    ) -> None:  # fmt: skip
        check_threads()
        self._app = app
        self._nodes_here = nodes_here
        self._url = url
        self._keys = Keys(namespace)
        self._given_name = check_node_name(name) if name else None
        self._settings = _settings(settings)
        self._pid = 0
        self.name = name or ""

    @property
    def server(self) -> str:
        return self._node.server

    def __enter__(self) -> Self:
        """Join, and serve. Raises: ConfigError, NameTaken, RedisUnavailable."""
        self._nodes_here.take()
        try:
            self._begin()
        except BaseException:
            self._nodes_here.leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Drain and leave. Raises: what the node has died of, if the body has not raised."""
        if os.getpid() != self._pid:
            return  # a forked child has no node to leave
        self._nodes_here.leave()
        self._node.stop()
        self._thread.join(self._settings.drain_s + LEAVING_S)
        if self._thread.is_alive():
            tell(
                log, "node_outlives", "node %s has requests under way: it stays until they end",
                self.name, node=self.name,
            )  # fmt: skip
        if self._failure is None:
            return
        if error is None:
            raise self._failure
        error.add_note(f"The node {self.name} in this program had died: {self._failure!r}")

    def _begin(self) -> None:
        self._started: Future[str] = Future()
        self._failure: BaseException | None = None
        self._node = Node(
            connector(self._url),
            self._keys,
            with_demo(self._app),
            settings=replace(self._settings, drain_s=math.inf),
            name=self._given_name,
        )
        self._pid = os.getpid()
        self._thread = Thread(target=self._run, name="rqproc-node", daemon=True)
        self._thread.start()
        try:
            self.name = self._started.result()
        except BaseException:  # an interrupt too: it must not go on to join
            self._node.stop()
            raise

    def _run(self) -> None:
        try:
            self._node.run(ready=self._ready)
        except BaseException as error:  # noqa: BLE001 - leaving raises it
            if not self._started.done():
                self._started.set_exception(error)
                return
            self._failure = error
            tell(
                log, "node_died", "node %s in this program has died", self.name, level="critical",
                exc_info=error, node=self.name, error=error,
            )  # fmt: skip

    def _ready(self, name: str, joined: Joined) -> None:
        assert self._node.own_entries
        self._nodes_here.open(self._node.own_entries)
        self._started.set_result(name)
        tell(
            log, "node_ready", "node %s ready in this program (epoch %d)", name, joined.epoch,
            node=name, epoch=joined.epoch, server=self.server,
        )  # fmt: skip


def _settings(wanted: NodeOptions) -> NodeSettings:
    try:
        settings = NodeSettings(**wanted)
    except TypeError as error:
        raise ConfigError(f"invalid settings of a node: {error}") from error
    if settings.ends_process:
        raise ConfigError(
            "a node that is strict, or has max_age_s, max_rss_mib or max_requests, ends its whole "
            "process: run it on its own, `rqproc node start --strict`"
        )
    return settings
