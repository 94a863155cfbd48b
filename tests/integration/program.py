"""An app with a node inside the tests' own process, and what its handlers have told."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from typing import Any

import redis

from rqproc import App, Client, current

GATE_S = 20


class House:
    """One app of a namespace. Several of one namespace serve the same resources, as they must."""

    def __init__(self, url: str, namespace: str, told: Told | None = None) -> None:
        self.app = App(url, namespace=namespace)
        self.told = told or Told()
        self.price = self.app.resource(ttl=60)(_named("price", self.told.count))
        self.brief = self.app.resource(ttl=0.3)(_named("brief", self.told.count))
        self.charge = self.app.resource(ttl=0)(_named("charge", self.told.count))
        self.gated = self.app.resource(ttl=60)(_named("gated", self.told.wait))
        self.double = self.app.resource(ttl=60)(_named("double", self._double))
        self.adouble = self.app.resource(ttl=60)(self._adouble)

    def close(self) -> None:
        self.app.client.close()

    def beside(self) -> House:
        """Another app of the same cluster: another program, were it not for the process."""
        return House(self.app.url or "", self.app.namespace or "", self.told)

    def stranger(self) -> Client:
        """A client that knows nothing of a node in this process."""
        return Client(self.app.url, namespace=self.app.namespace)

    def _double(self, id: int) -> dict[str, Any]:
        """Asks for another id, by way of the app that its node is of."""
        return {"of": self.price.reply(id + 1).source, "node": current().node}

    async def _adouble(self, id: int) -> dict[str, Any]:
        try:
            reply = await self.app.async_client.reply(id + 1, "price")
            return {"of": reply.source, "node": current().node}
        finally:
            await self.app.async_client.close()


class Told:
    """What handlers tell, whichever node of this process runs them."""

    def __init__(self) -> None:
        self.runs: Counter[object] = Counter()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self._numbers = itertools.count(1)

    def count(self, id: object) -> dict[str, Any]:
        self.runs[id] += 1
        return {"n": next(self._numbers), "node": current().node}

    def wait(self, id: object) -> dict[str, Any]:
        self.entered.set()
        assert self.gate.wait(GATE_S)
        return self.count(id)


def _named(name: str, does: Any) -> Any:
    def handler(id: Any) -> Any:
        return does(id)

    handler.__name__ = name
    return handler


def commands(client: redis.Redis) -> int:
    """How many commands the server has carried out."""
    found: Any = client.info("commandstats")
    return sum(stats["calls"] for stats in found.values())
