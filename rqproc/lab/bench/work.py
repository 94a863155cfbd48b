"""What is computed while measuring: nothing, so that only the way there and back is seen."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rqproc.app import App
from rqproc.ids import Id

KEPT, FRESH, TOLD, BURNT, TOGETHER = "kept", "fresh", "told", "burnt", "together"
BATCH = 100

BURN_S = 0.002


def declare(url: str | None = None, *, namespace: str | None = None) -> App:
    """Return an app that serves what is measured."""
    app = App(url, namespace=namespace)
    app.resource(ttl=3600, name=KEPT)(job)
    app.resource(ttl=3600, batch=BATCH, name=TOGETHER)(jobs)
    app.resource(ttl=0, name=FRESH)(job)
    app.resource(ttl=0, name=TOLD)(told)
    app.resource(ttl=0, name=BURNT)(burn)
    return app


def job(id: Id) -> Id:
    """Nothing; for stock RQ, too."""
    return id


def jobs(ids: Sequence[Id]) -> dict[Id, Id]:
    """Nothing, for many ids at once."""
    return {id: id for id in ids}


def told(id: Id, amount: int) -> int:
    """Nothing, with an argument."""
    return amount


def burn(id: Id) -> Id:
    """Two milliseconds of a core, whoever else wants it."""
    end = time.thread_time() + BURN_S
    while time.thread_time() < end:
        pass
    return id


app = declare()
