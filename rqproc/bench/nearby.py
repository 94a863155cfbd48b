"""Answers that need no other process: the caller's near-cache, and a node in the caller itself."""

from __future__ import annotations

from functools import partial
from secrets import token_hex

from rqproc.bench import rivals, timing
from rqproc.bench.asking import warm_nodes
from rqproc.bench.figures import Reading
from rqproc.bench.ground import Ground
from rqproc.bench.probes import Probe
from rqproc.bench.work import KEPT, declare
from rqproc.client import Client
from rqproc.stage import swept


def _near(ground: Ground, seconds: float) -> Reading:
    nodes = ground.have(warm_nodes).nodes
    with Client(nodes.url, namespace=nodes.namespace, near=1000) as client:
        return {"call_s": timing.per_call(partial(client.request, 1, KEPT), seconds=seconds)}


def _get(ground: Ground, seconds: float) -> Reading:
    return {"call_s": timing.per_call(ground.have(rivals.redis_get), seconds=seconds)}


def _embedded(ground: Ground, seconds: float) -> Reading:
    app = declare(ground.url, namespace=f"bench-{token_hex(4)}")
    with app.client, swept(app.client, ground.url), app.node(name="bench"):
        app.client.request(1, KEPT)
        call = partial(app.client.request, 1, KEPT)
        return {"call_s": timing.per_call(call, seconds=seconds)}


NEAR = Probe("near", "near-cache hits", _near)
GET = Probe("redis-get", "GETs of redis-py", _get, rival="redis-get")
EMBEDDED = Probe("embedded", "hits of a node in this process", _embedded)
