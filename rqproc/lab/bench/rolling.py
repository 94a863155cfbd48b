"""What a rolling restart leaves of what is kept: the share of requests that are hits after it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rqproc.lab.bench.environment import Bench, nodes
from rqproc.lab.bench.timing import Probe, Reading
from rqproc.lab.bench.work import KEPT
from rqproc.lab.processes import OwnCluster
from rqproc.model import Reply

NODES = 4
IDS = range(4000)
SETTLE_S = 1.0
"""Between one node and the next, as a deploy that waits for each to be ready."""

OPTIONS = ("--log-level", "warning", "--placement", "slots", "--lease", "10")


def _kept(bench: Bench, *options: str) -> Reading:
    with nodes(bench.url, NODES, *OPTIONS, *options) as found:
        found.client.request_many(IDS, KEPT, timeout=60.0)
        for node in list(found.nodes):
            node.stop()
            found.nodes.remove(node)
            found.start([node.name], *OPTIONS, *options, "rqproc.lab.bench.work:app")
            time.sleep(SETTLE_S)
        return {"kept_share": _share_of_hits(found, IDS)}


def _share_of_hits(found: OwnCluster, ids: Sequence[int]) -> float:
    replies = found.client.reply_many(ids, KEPT, timeout=60.0).values()
    hits = [reply for reply in replies if isinstance(reply, Reply) and reply.source == "hit"]
    return len(hits) / len(ids)


WITH = Probe(
    "rolling", "a rolling restart with --handoff",
    lambda bench, seconds: _kept(bench, "--handoff"), alone=True,
)  # fmt: skip
WITHOUT = Probe(
    "rolling-without", "the same without it", lambda bench, seconds: _kept(bench), alone=True
)
