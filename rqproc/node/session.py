"""A session: the two connections of a node's worker, from its reconciliation until one breaks.

Knows links and the scripts' calls. Must not know what becomes of a claim.

Per batch one packet goes out on the pull link: the finishes of the last one, a blocking look at the
queue, and the take of the next. BLMOVE of a list onto itself changes nothing and blocks while it is
empty: a pop that can lose nothing. What ends while that packet waits at the server (a handler's
run) goes out on the push link.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from rqproc import wire
from rqproc.bell import Bell
from rqproc.cluster import Claim, Cluster, Finish, FinishMany
from rqproc.link import Command, Dial, LinkLost, pack

BLOCK_S = 5.0
GRACE_S = 2.0
PATIENCE_S = BLOCK_S + GRACE_S
FINISH_REPLY_BYTES = 4  # "*0\r\n"; less than any other reply, and than any error
SCRIPTS = ("take", "finish", "reconcile", "drain")

Expected = Sequence[Finish | FinishMany] | Literal["look", "take"]


class Session:
    """Connected from the start.

    Args:
        number: higher than that of any session of this incarnation before.
        bell: rung by other threads; it ends ``wait`` too.

    Raises:
        LinkLost, RedisUnavailable: no connection.
    """

    def __init__(
        self, dial: Dial, cluster: Cluster, *, node: str, incarnation: str, number: int, bell: Bell
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._incarnation = incarnation
        self._number = number
        self._monotonic = dial.ground.monotonic
        self._expected: deque[Expected] = deque()
        self._asked: tuple[tuple[int, int, int], bytes] = ((0, 0, 0), b"")
        self._due = 0.0
        self._pull = dial.connect(timeout_s=GRACE_S)
        try:
            self._push = dial.connect(timeout_s=GRACE_S)
        except Exception:
            self._pull.close()
            raise
        self._poll = dial.ground.poll(self._pull, bell)

    def close(self) -> list[Finish | FinishMany]:
        """Close; return the finishes of which nobody knows whether they were carried out."""
        self._pull.close()
        self._push.close()
        unsure = [f for sent in self._expected if not isinstance(sent, str) for f in sent]
        self._expected.clear()
        return unsure

    @property
    def is_asking(self) -> bool:
        """Whether a packet is under way on the pull link."""
        return bool(self._expected)

    def reconcile(self, held: Iterable[Claim], *, rejoined: bool) -> Any:
        """Open it at the server; return the reply, for ``Cluster.read_take``.

        Args:
            held, rejoined: see ``Cluster.reconcile``.

        Raises:
            LinkLost, Refused.
        """
        reconcile = self._cluster.reconcile(
            self._incarnation,
            session=self._number,
            server=self._pull.server_id(timeout_s=GRACE_S),
            rejoined=rejoined,
            held=held,
        )
        commands = (*self._cluster.load(*SCRIPTS), reconcile)
        return self._pull.exchange(commands, timeout_s=GRACE_S)[-1]

    def ask(self, finishes: Sequence[Finish | FinishMany], *, epoch: int, most: int) -> None:
        """Send what is finished, and ask for up to ``most`` claims.

        Raises:
            LinkLost.
        """
        packet = self._look_and_take(epoch, most, int(time.time()))
        if finishes:
            finish = self._cluster.finish(self._incarnation, finishes)
            packet = pack((finish,)) + packet
            self._expected.append(finishes)
        self._expected += ("look", "take")
        self._due = self._monotonic() + PATIENCE_S
        self._pull.send(packet, timeout_s=GRACE_S)
        if finishes:
            self._pull.sleep_through(FINISH_REPLY_BYTES)

    def _look_and_take(self, epoch: int, most: int, second: int) -> bytes:
        """The part of the packet that is the same, batch for batch, for up to a second."""
        wanted = (epoch, most, second)
        if self._asked[0] != wanted:
            queue = self._cluster.keys.queue(self._node)
            look: Command = ("BLMOVE", queue, queue, "LEFT", "LEFT", BLOCK_S)
            take = self._cluster.take(
                self._incarnation, session=self._number, epoch=epoch, most=most, at=wire.utc()
            )
            self._asked = (wanted, pack((look, take)))
        return self._asked[1]

    def finish(self, finishes: Sequence[Finish | FinishMany], *, draining: bool) -> Sequence[bytes]:
        """Send what is finished on the push link; return the reply.

        Raises:
            LinkLost, Refused.
        """
        command = self._cluster.finish(self._incarnation, finishes, draining=draining)
        reply: Sequence[bytes] = self._push.exchange((command,), timeout_s=GRACE_S)[0]
        return reply

    def drain(self) -> None:
        """Say that this node is no member any more.

        Raises:
            LinkLost, Refused.
        """
        drain = self._cluster.drain(self._node, self._incarnation)
        self._push.exchange((drain,), timeout_s=GRACE_S)
        self._pull.sleep_through(0)  # from now on an acknowledgement alone matters

    def wait(self, patience_s: float) -> bool:
        """Wait for the server or the bell, and take in bytes; return whether the bell has rung.

        Raises:
            LinkLost: the connection broke, or the server does not answer in time.
        """
        rung, readable = self._poll.wait(patience_s)
        if readable:
            self._pull.receive(wait=False)
        elif self._expected and self._monotonic() > self._due:
            raise LinkLost("the server does not answer")
        return rung

    def replies(self) -> Iterator[tuple[Sequence[Finish | FinishMany], Any]]:
        """What has come: a take's reply with no finishes, or the reply to finishes.

        Raises:
            Refused.
        """
        while self._expected:
            arrived, reply = self._pull.next_reply()
            if not arrived:
                return
            expected = self._expected.popleft()
            if expected != "look":
                yield () if expected == "take" else expected, reply
