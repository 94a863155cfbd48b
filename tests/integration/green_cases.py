"""What greenlets do where nothing is wrong; see ``greenlets.py``."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

from green import (
    LIBRARY,
    Shop,
    app,
    asleep,
    begin,
    gate,
    green,
    patch,
    price,
    runs,
    say,
    together,
    told,
    until,
    waits,
    why,
)  # fmt: skip

from rqproc import App, AsyncClient, Client
from rqproc.testing import LocalCluster

# --- many at once ---


def many(first: int) -> Any:
    """Five hundred ask at once for the same fifty ids, by one client."""
    shop = Shop()
    ids = [first + i % 50 for i in range(500)]
    values = together([lambda id=id: shop.client.request(id, "price") for id in ids])
    again = together([lambda id=id: shop.client.reply(id, "price").source for id in ids])
    return {
        "asked": ids,
        "runs": [value["n"] for value in values],
        "again": sorted(set(again)),
        "connections": len(shop.connections()),
    }


def slow(id: int) -> Any:
    """One waits long, and a hundred do not wait for it."""
    shop = Shop()
    waiting = shop.gated(id)
    works = shop.works()
    shop.release(id)
    return {"works": works, "slow": green.wait(waiting)["n"]}


def groups(first: int) -> Any:
    """Ten ask for 300 ids each, most of which they share."""
    shop = Shop()

    def ask(i: int) -> Any:
        found = shop.client.request_many(range(first + i, first + i + 300), "price")
        return [list(found) == list(range(first + i, first + i + 300)), *found.values()]

    found = together([lambda i=i: ask(i) for i in range(10)])
    if errors := {one for one in found if isinstance(one, str)}:
        return sorted(errors)
    return {
        "ordered": all(one[0] for one in found),
        "runs": sorted({value["n"] for one in found for value in one[1:]}),
    }


def jobs(first: int) -> Any:
    """What goes over connections of its own: jobs, and what is asked of the cluster."""
    shop = Shop()

    def ask(i: int) -> Any:
        job: Any = shop.client.enqueue(first + i, "price")
        until(lambda: job.get_status(refresh=True) == "finished")
        return [len(shop.client.members()), job.return_value()["n"]]

    return together([lambda i=i: ask(i) for i in range(20)])


def in_asyncio(first: int) -> Any:
    async def ask() -> list[Any]:
        async with AsyncClient() as client:
            asked = (client.request(first + i, "price") for i in range(20))
            return [value["n"] for value in await asyncio.gather(*asked)]

    return asyncio.run(ask())


def threads(id: int) -> Any:
    """Native threads, each with greenlets of its own, share a client (gevent)."""
    from gevent import get_hub

    shop = Shop()
    waiting = shop.gated(id)
    pool = get_hub().threadpool
    asked = [pool.spawn(shop.works) for _ in range(4)]
    works = [shop.works(), *(one.get() for one in asked)]
    shop.release(id)
    return {"works": works, "slow": green.wait(waiting)["n"]}


def forked(id: int) -> Any:
    """A child asks, and so does its parent, while another waits in both."""
    shop = Shop()
    waiting = shop.gated(id)
    child = os.fork()
    if not child:
        try:
            green.renew()
            os._exit(not shop.works())
        finally:
            os._exit(9)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    works = shop.works()
    shop.release(id)
    return {"child": code, "works": works, "slow": green.wait(waiting)["n"]}


# --- ended in the middle ---


def killed(first: int) -> Any:
    """Whoever reads for all is killed, and then it is whoever reads next."""
    shop = Shop()
    ids = range(first, first + 6)
    waiting = [shop.gated(id) for id in ids]
    before = shop.connections()
    for one in waiting[:3]:
        green.kill(one)
        time.sleep(0)
    shop.release(*ids)
    others = [green.wait(one)["n"] for one in waiting[3:]]
    return {"others": others, "same": shop.connections() == before, "works": shop.works()}


def timed_out(first: int) -> Any:
    """gevent's and eventlet's own timeouts, around requests."""
    shop = Shop()
    other = shop.gated(first)

    def ask(i: int) -> str:
        try:
            with green.timeout(0.05 * i):
                shop.client.request(first + i, "gated")
        except green.timeout:
            return "over"
        return "answered"

    before = shop.connections()
    found = together([lambda i=i: ask(i) for i in range(1, 7)])
    shop.release(*range(first, first + 7))
    one = green.wait(other)["n"]
    same = shop.connections() == before
    return {"timeouts": found, "one": one, "same": same, "works": shop.works()}


def killed_anywhere(seed: int) -> Any:
    """Killed at whatever moment: while they connect, send, wait and read."""
    chance, shop = random.Random(seed), Shop()
    for _ in range(40):
        asked = [begin(lambda i=i: shop.client.request(i, "echo")) for i in range(20)]
        time.sleep(chance.choice((0, 0, 0.0005, 0.001, 0.002)))
        for one in chance.sample(asked, 12):
            green.kill(one)
        if chance.random() < 0.2:
            shop.client.close()
    return shop.works()


# --- what is kept here, and what is done here ---


def near(id: int) -> Any:
    """Replies are kept by the caller until they are dropped."""
    shop = Shop(near=100)
    together([lambda: shop.client.request(id, "price") for _ in range(20)])
    until(lambda: shop.client.reply(id, "price").source == "near")
    before = shop.client.request(id, "price")["n"]
    connections = len(shop.connections())
    with Client() as stranger:
        stranger.invalidate(id, "price")
    until(lambda: shop.client.request(id, "price")["n"] > before)
    until(lambda: shop.client.reply(id, "price").source == "near")
    return {"connections": connections}


def local() -> Any:
    """Handlers that run in this process run in greenlets, with all that holds elsewhere."""
    beside = why(lambda: asyncio.run(asleep.arequest(1, 0.05)))
    waiting = begin(lambda: waits.request(1))
    values = together([lambda i=i: price.request(i % 10) for i in range(100)])
    late = together([lambda: waits.with_options(timeout=0.3).request(2)])
    sleepers = together([lambda i=i: asleep.request(i, 0.05) for i in range(10)])
    result: Any = price.enqueue(3).latest_result(timeout=10)
    gate.set()
    return {
        "values": values, "runs": sorted(runs), "late": late, "asleep": sleepers,
        "job": result and result.return_value, "waits": green.wait(waiting),
        "beside": beside,
    }  # fmt: skip


def in_memory() -> Any:
    """The test kit's cluster, in memory."""
    shop = App()
    shop.resource(ttl=30, name="price")(lambda id: id)
    with LocalCluster(shop) as cluster:
        found = [shop.client.reply(1, "price").source for _ in range(2)]
        cluster.advance(31)
        return [*found, shop.client.reply(1, "price").source]


# --- how Python is patched ---


def late(first: int) -> Any:
    """Python is patched when rqproc is there, with a client that was used, and one that was not."""
    used, idle, here = Shop(), Shop(near=10), Client("local://", app=app)
    used.client.request(first, "echo")
    used.client.membership()
    patch()
    if LIBRARY == "eventlet":
        return why(lambda: idle.client.request(first, "echo"))
    together([lambda: idle.client.request(first, "price") for _ in range(100)])
    found: dict[str, Any] = {}
    for name, shop in (("used", used), ("idle", idle)):
        waiting = shop.gated(first)
        say(f"asking {name}")
        found[name] = shop.works()
        say(f"answered {name}")
        shop.release(first)
        green.wait(waiting)
    until(lambda: idle.client.reply(first, "price").source == "near")
    found["connections"] = [len(used.connections()), len(idle.connections())]
    values = together([lambda i=i: here.request(i % 10, "price") for i in range(100)])
    return {**found, "local": values}


def halfway() -> Any:
    """Sockets are patched, and threads are not."""
    return why(lambda: Client().request(1, "echo"))


def node() -> Any:
    return why(lambda: App().node().__enter__())


def embedded() -> Any:
    """Many need the embedded server at once, where nobody has started it."""

    def ask() -> Any:
        with Client("embedded", namespace="green") as client:
            return [client.server, client.members(), told(lambda: client.request(1))]

    return together([ask] * 10)
