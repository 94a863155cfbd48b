"""What is computed while measuring: nothing, so that only the way there and back is seen."""

from __future__ import annotations

from rqproc.app import App
from rqproc.placement import Id

app = App()


@app.resource(ttl=3600)
def kept(id: Id) -> Id:
    return id


@app.resource(ttl=0)
def fresh(id: Id) -> Id:
    return id


def job(id: Id) -> Id:
    """The same for stock RQ."""
    return id
