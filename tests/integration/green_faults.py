"""What greenlets do where servers are silent or away; see ``greenlets.py``."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from green import (
    URL,
    Shop,
    app,
    begin,
    green,
    runs,
    say,
    together,
    told,
    until,
)  # fmt: skip

from rqproc import Client

# --- time is over ---


def deadlines(first: int) -> Any:
    """Each has its own time, while one waits for all."""
    shop, times = Shop(), (0.2, 0.4, 0.6, 0.8)
    say("asking alone")
    alone = together([lambda: shop.client.request(first + 5, "gated", timeout=0.2)])
    say("over alone")
    waiting = shop.gated(first)
    say("asking together")
    asked = [
        begin(lambda i=i, timeout=timeout: shop.client.request(first + i, "gated", timeout=timeout))
        for i, timeout in enumerate(times, 1)
    ]
    found = []
    for one in asked:
        found.append(green.wait(one))
        say(f"over {len(found)}")
    shop.release(*range(first, first + 6))
    return {"errors": alone + found, "one": green.wait(waiting)["n"]}


def silent(first: int, server: int) -> Any:
    """The server stands still while some wait, and others begin to ask."""
    shop, near = Shop(), Shop(near=10)
    until(lambda: near.client.reply(first, "price").source == "near")
    old = [shop.gated(first + i, timeout=4) for i in range(5)]
    say("asking")
    os.kill(server, signal.SIGSTOP)
    new = [begin(lambda i=i: shop.client.request(i, "echo", timeout=4)) for i in range(5)]
    survey = begin(lambda: shop.client.membership())
    until(lambda: isinstance(told(lambda: near.client.request(first, "price", timeout=0.1)), str))
    say("kept no longer")
    found = {"new": [green.wait(one) for one in new]}
    say("new over")
    found["old"] = [green.wait(one) for one in old]
    say("old over")
    found["survey"] = green.wait(survey)
    say("survey over")
    os.kill(server, signal.SIGCONT)
    return {**found, "works": shop.works()}


def refused() -> Any:
    """Nobody listens there."""
    return _asked_in_vain(Client("redis://127.0.0.1:1"))


def full() -> Any:
    """Who listens accepts nobody, and no more can wait there."""
    return _asked_in_vain(Client(URL))


def _asked_in_vain(client: Client) -> Any:
    say("asking")
    found = together([lambda i=i: client.request(i) for i in range(20)])
    say("over")
    return found


def restarted(first: int) -> Any:
    """The server ends, and comes again, while some wait."""
    shop = Shop()
    waiting = [shop.gated(first + i, timeout=60) for i in range(5)]
    say("waiting")
    return {"values": [green.wait(one)["n"] for one in waiting], "works": shop.works()}


def followed(first: int) -> Any:
    """Some ask all the time, whichever server is the primary, until the test says so."""
    shop, errors, over = Shop(), set(), threading.Event()

    def ask(id: int) -> None:
        while not over.is_set():
            found = told(lambda: shop.client.request(id, "price", timeout=2))
            if isinstance(found, str):
                errors.add(found)

    asking = [begin(lambda i=i: ask(first + i)) for i in range(5)]
    say("asking")
    until(lambda: shop.book.lpop("test:followed"))
    over.set()
    for one in asking:
        green.wait(one)
    return {"errors": sorted(errors), "works": shop.works()}


def stalled(first: int) -> Any:
    """One greenlet lets no other have a turn, for longer than a server may be silent."""
    shop = Shop()
    ids = range(first, first + 20)
    shop.client.request(first, "echo")
    before = shop.connections()
    waiting = [begin(lambda id=id: shop.client.request(id, "price")) for id in ids]
    time.sleep(0)  # they have asked then
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        pass
    found = [green.wait(one)["n"] for one in waiting]
    return {"values": found, "same": shop.connections() == before}


def lost(server: int) -> Any:
    """The server stands still, and handlers run in this process instead."""
    client = Client(URL, app=app, timeout=3)
    client.request(0, "echo")
    os.kill(server, signal.SIGSTOP)
    say("asking")
    found = together(
        [lambda i=i: client.reply(i % 10, "price", on_lost="local").source for i in range(30)]
    )
    say("over")
    os.kill(server, signal.SIGCONT)
    return {"sources": found, "runs": sorted(runs)}
