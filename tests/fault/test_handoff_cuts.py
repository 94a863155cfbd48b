"""A hand-off that is cut in the middle loses entries, and nothing else."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from integration import kit
from integration.fixtures import Cluster, Fresh

from rqproc.placement import PLACEMENTS

HOW = ("--lease", "4", "--heartbeat", "0.3", "--handoff", "--placement")


def values(cluster: Cluster, asked: Sequence[int]) -> dict[int | str, int]:
    found = cluster.client.request_many(asked, "lasting", timeout=40)
    return {id: value["n"] for id, value in found.items()}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", ["a", "b"], ids=["who gives", "who takes"])
def test_one_that_is_cut_off_brings_nothing_back_that_was_dropped_meanwhile(
    cluster: Cluster, ids: Fresh, placement: str, how: signal.Signals, who: str
) -> None:
    cluster.start("a", "b", "c", options=(*HOW, placement))
    asked = ids(300)
    old = values(cluster, asked)
    dropped = asked[::3]
    with ThreadPoolExecutor(2) as pool:
        leaves = pool.submit(cluster.client.drain, "a")
        kit.eventually(lambda: "a" not in cluster.client.members(), what="a drain", every_s=0.001)
        cluster.nodes[who].signal(how)
        try:
            pool.submit(cluster.client.invalidate_many, dropped, "lasting").result(60)
            leaves.result(60)
        finally:
            cluster.nodes[who].signal(signal.SIGCONT)
        new = values(cluster, asked)
    assert all(new[id] > old[id] for id in dropped), "nothing is brought back"
    assert all(new[id] >= old[id] for id in asked)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_invalidation_is_never_overtaken_by_what_is_handed_over(
    cluster: Cluster, ids: Fresh, placement: str
) -> None:
    options = (*kit.PATIENT, "--handoff", "--placement", placement)
    cluster.start("a", "b", "c", options=options)
    asked = ids(400)
    latest = values(cluster, asked)
    for name in ("a", "b"):
        with ThreadPoolExecutor(1) as pool:
            stops = pool.submit(cluster.nodes[name].stop)
            for id in asked[::2]:
                cluster.client.invalidate(id, "lasting")
            new = values(cluster, asked)
            assert all(new[id] > latest[id] for id in asked[::2])
            assert all(new[id] >= latest[id] for id in asked[1::2])
            assert stops.result(60) == 0
        latest = new
        cluster.start(name, options=options)
