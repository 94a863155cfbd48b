"""Entries of ids that move go to their next owners: what is kept, what is not, and what it says."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh

from rqproc import Client
from rqproc.model import Reply
from rqproc.placement import PLACEMENTS

NAMES = ("a", "b", "c", "d")


def options(placement: str, *more: str) -> tuple[str, ...]:
    return (*kit.PATIENT, "--placement", placement, *more)


def sources(client: Client, asked: list[int], resource: str = "lasting") -> dict[int, str]:
    found = client.reply_many(asked, resource, timeout=30)
    return {id: reply.source for id, reply in found.items() if isinstance(reply, Reply)}  # type: ignore[misc]


def kept(client: Client, asked: list[int], resource: str = "lasting") -> float:
    found = Counter(sources(client, asked, resource).values())
    return found["hit"] / len(asked)


def arrived(cluster: Cluster, count: float) -> None:
    """Wait until four nodes say that they have so many entries, each its share."""

    def have() -> bool:
        found = [node.entries for node in cluster.client.membership().nodes]
        return sum(found) >= count and min(found) >= count / 5

    kit.eventually(have, what="entries with their next owners")


def restart_all(cluster: Cluster, how: tuple[str, ...], *, keeping: float = 0) -> None:
    for name in NAMES:
        assert cluster.nodes[name].stop() == 0
        cluster.start(name, options=how)
        arrived(cluster, keeping)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_rolling_restart_keeps_the_hits_with_it_and_loses_them_without(
    cluster: Cluster, ids: Fresh, placement: str
) -> None:
    how = options(placement, "--handoff")
    cluster.start(*NAMES, options=how)
    asked = ids(400)
    kit.settle(cluster.client)
    assert kept(cluster.client, asked) == 0
    restart_all(cluster, how, keeping=0.8 * len(asked))
    assert kept(cluster.client, asked) > 0.75
    for name in NAMES:
        assert cluster.nodes[name].stop() == 0
    how = options(placement)
    cluster.start(*NAMES, options=how)
    assert kept(cluster.client, asked) == 0
    restart_all(cluster, how)
    assert kept(cluster.client, asked) < 0.3


def test_a_supervisor_gives_its_nodes_the_option(cluster: Cluster, ids: Fresh) -> None:
    with kit.command(
        cluster.url, cluster.namespace, "node", "start", "shop:app", "--name", "n", "--count", "2",
        "--handoff", "--placement", "slots",
    ) as running:  # fmt: skip
        kit.eventually(lambda: len(cluster.client.members()) == 2, what="two nodes")
        asked = ids(100)
        kept(cluster.client, asked)
        cluster.client.drain("n-1")
        kit.eventually(lambda: cluster.client.members() == ("n-2",), what="a drain", every_s=0.001)
        kit.eventually(
            lambda: any(re.search(r"n-1: \d+ entries handed over", line) for line in running.lines)
        )
        assert running.stop() == 0
