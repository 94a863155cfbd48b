"""The clients of an app, and where they ask.

Knows URLs and clients. Must not know handlers, nor what is asked.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from rqproc.calls.lookup import InProcessNodes
from rqproc.client import Client
from rqproc.connect import Backend
from rqproc.errors import ConfigError
from rqproc.resource import Declaring
from rqproc.runtime import Once
from rqproc.settings import LOCAL, resolve_namespace, resolve_url

if TYPE_CHECKING:
    from rqproc.aio import AsyncClient

Place = tuple[str | Backend, str]
"""A server's URL, or another backend; and a namespace."""


class Located(Declaring, Protocol):
    """Whose clients they are: an ``App``."""

    url: str | None
    namespace: str | None


class HasClients(Protocol):
    """Whose clients are asked over: an ``App``."""

    @property
    def client(self) -> Client: ...
    @property
    def async_client(self) -> AsyncClient: ...


class Clients:
    """What an app asks with. Each is made at its first use, once.

    Args:
        place: where to ask; without it where the app says, looked at once: clients and node must
            not mean different ones.
    """

    def __init__(self, app: Located, nearby: InProcessNodes, place: Place | None = None) -> None:
        self._app = app
        self._nearby = nearby
        self._given = place
        self.place = Once(self._find_place)
        self.blocking = Once(self._make)
        self.asyncio = Once(self._make_async)

    def server(self) -> tuple[str, str]:
        """Return the URL of the server, and the namespace, of a node of the app.

        Raises:
            ConfigError: there is no server that it could serve at, or its URL cannot be read.
        """
        where, namespace = self.place()
        if getattr(where, "server", where) == LOCAL:
            raise ConfigError(
                f"{LOCAL} serves in this process already, without a node: leave `app.node()` out, "
                "or give App(url=...) a server"
            )
        if not isinstance(where, str):
            raise ConfigError("the test kit runs the nodes itself: its cluster's join() adds one")
        return where, namespace

    def _find_place(self) -> Place:
        app = self._app
        return self._given or (resolve_url(app.url), resolve_namespace(app.namespace))

    def _make(self) -> Client:
        where, namespace = self.place()
        return Client(where, namespace=namespace, app=self._app, nearby=self._nearby)

    def _make_async(self) -> AsyncClient:
        from rqproc.aio import AsyncClient  # takes a while to import

        where, namespace = self.place()
        return AsyncClient(where, namespace=namespace, app=self._app, nearby=self._nearby)


def entered(
    app: Declaring, where: str | Backend, namespace: str
) -> AbstractContextManager[str | Backend]:
    """Return a context in which an app asks elsewhere: for ``local://`` a place of its own."""
    if not isinstance(where, str) or resolve_url(where) != LOCAL:
        return nullcontext(where)
    from rqproc.local.backend import fresh  # takes a while to import

    return fresh(app, namespace)
