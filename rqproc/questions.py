"""A question to the cluster, from the arguments of a call to its outcome: for both clients.

Knows requests, answers, losses and errors. Must not know connections, threads or event loops: a
client carries out what a question says, which is the same for threads and for tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rqproc import calls, conversation, wire
from rqproc.context import ASKING, Asking
from rqproc.errors import RedisUnavailable, RqprocError
from rqproc.ground import MACHINE, Ground
from rqproc.keys import Keys
from rqproc.losses import Errand, Losses
from rqproc.model import OnLost, Reply, Request
from rqproc.nearby import Nearby, find_all
from rqproc.placement import Id, canonical, check_resource
from rqproc.wanted import Wanted

if TYPE_CHECKING:
    from rqproc.link import Dial
    from rqproc.nearcache import NearCache


class NoNearCache:
    """In the place of a ``NearCache``, for a client that keeps nothing."""

    def __init__(self) -> None:
        self.kept = self

    def find(self, id: object, resource: str) -> None:
        return None

    reply = find

    def replies(self, ids: Iterable[Id], resource: str) -> dict[Id, Reply]:
        return {}

    def expect(self, requests: Iterable[Request]) -> None:
        return None

    def dropping(self, resource: str, id: Id) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        """Nothing is open."""


def near_cache(
    most: int, losses: Losses, *, dial: Dial, channel: str, app: object
) -> NearCache | NoNearCache:
    """Return what a client keeps replies in. A cache takes a while to import.

    Raises:
        ConfigError: ``most`` is no number of replies.
    """
    if app is None and most == 0 and type(most) is int:
        return NoNearCache()
    from rqproc.nearcache import NearCache

    return NearCache(most, losses.resources, dial=dial, channel=channel)


class Questions:
    """Makes questions, by the defaults of one client.

    Args:
        timeout: seconds, where a question does not say.
        near: replies that the client keeps itself.
        nearby: what is asked before the cluster is.
        ground: by whose clock callers wait.
    """

    def __init__(
        self,
        keys: Keys,
        losses: Losses,
        *,
        timeout: float,
        near: NearCache | NoNearCache,
        nearby: Nearby | None,
        ground: Ground = MACHINE,
    ) -> None:
        self.keys = keys
        self.ground = ground
        self.losses = losses
        self.timeout_s = calls.check_timeout(timeout)
        self.near = near
        self._nearby = nearby

    def find(self, id: Id, resource: str) -> Reply | None:
        """Return the reply to a request without arguments where nobody need be asked for it.

        Raises:
            InvalidId.
        """
        found = self.near.kept.reply(id, resource)
        if found is None and self._nearby:
            found = self._nearby.find(resource, id)
        return found

    def one(
        self, request: Request, *, timeout: float | None, on_lost: OnLost | None,
        function: str = wire.REQUEST,
    ) -> Question:  # fmt: skip
        """Ask for one id. Raises: ConfigError."""
        return self._each([request], timeout=timeout, on_lost=on_lost, function=function)

    def many(
        self, ids: Iterable[object], resource: str, *, timeout: float | None, on_lost: OnLost | None
    ) -> Question:
        """Ask for ids, each of them once. Raises: InvalidId, ConfigError."""
        check_resource(resource)
        asked = list(dict.fromkeys(map(canonical, ids)))
        found = self.near.replies(asked, resource) | find_all(self._nearby, resource, asked)
        question = self._many([id for id in asked if id not in found], resource, timeout, on_lost)
        question.found = {id: found[id] for id in asked if id in found}
        question.asked = asked
        return question

    def _many(
        self, wanted: Sequence[Id], resource: str, timeout: float | None, on_lost: OnLost | None
    ) -> Question:
        if len(wanted) < 2 or ASKING.get():  # who waits for whom is told call by call
            requests = [Request(resource, id) for id in wanted]
            return self._each(requests, timeout=timeout, on_lost=on_lost)
        timeout_s = self._timeout(timeout)
        sent = calls.together(resource, wanted, timeout_s=timeout_s)
        return Question(self, sent, self.losses.choose(resource, on_lost))

    def _each(
        self, requests: Sequence[Request], *, timeout: float | None, on_lost: OnLost | None,
        function: str = wire.REQUEST,
    ) -> Question:  # fmt: skip
        timeout_s = self._timeout(timeout)
        wish = self.losses.choose(requests[0].resource, on_lost) if requests else "wait"
        run, parent = ASKING.get(), ""
        # An invalidation waits for no run: it closes no circle.
        if run and run.namespace == self.keys.namespace and function == wire.REQUEST:
            parent = run.address
        sent = calls.batch(
            requests, kind="call", timeout_s=timeout_s, function=function, parent=parent
        )
        return Question(self, sent, wish, run=run, keeps=function == wire.REQUEST)

    def _timeout(self, timeout: float | None) -> float:
        return self.timeout_s if timeout is None else calls.check_timeout(timeout)


class Question:
    """Calls that are asked together.

    Attributes:
        run: the handler's run that asks; it lets others run while it waits.
        found: replies of ids that need not be asked for, among all that were asked.
    """

    __slots__ = (
        "_deadline", "_expected", "_makers", "_outage", "_outcomes", "_sent", "_wish", "asked",
        "found", "run", "wanted",
    )  # fmt: skip

    def __init__(
        self, makers: Questions, sent: calls.Batch, wish: OnLost, *, run: Asking | None = None,
        keeps: bool = True,
    ) -> None:  # fmt: skip
        self._makers = makers
        self._sent = sent
        self._wish = wish
        self._deadline = makers.ground.monotonic() + sent.order.timeout_s
        self._outage: RedisUnavailable | None = None
        self._outcomes: dict[Id, Reply | RqprocError] | None = None
        self._expected = makers.near.expect(sent.requests.values()) if keeps else None
        self.wanted = Wanted(sent.order)
        self.run = run
        self.found: dict[Id, Reply] = {}
        self.asked: Sequence[Id] = ()

    def talk(self, server: str) -> conversation.Request:
        """What is to be said about it."""
        ground = self._makers.ground
        return conversation.ask(
            self.wanted, server=server, clock=ground.monotonic, on_lost=self._wish,
            chance=ground.chance,
        )  # fmt: skip

    def begin(self) -> None:
        if self.run:
            self.run.changed(True)

    def end(self) -> None:
        if self.run:
            self.run.changed(False)

    def fail(self, error: RedisUnavailable) -> None:
        """Raises: the error, unless this process is to do without the cluster."""
        if self._wish != "local":
            raise error
        self._outage = error

    def errands(self) -> list[Errand]:
        """Return what this process is to do itself."""
        if self._wish != "local":
            return []
        makers = self._makers
        return makers.losses.errands(
            self.outcomes,
            self._sent,
            deadline=self._deadline,
            keys=makers.keys,
            ground=makers.ground,
        )

    def served(self, errands: Sequence[Errand], found: Sequence[Reply | RqprocError]) -> None:
        """Take in what this process has done itself."""
        ids = (errand.request.id for errand in errands)
        self.outcomes.update(zip(ids, found, strict=True))

    @property
    def outcomes(self) -> dict[Id, Reply | RqprocError]:
        """For each id, in the order asked, its reply or its error."""
        if self._outcomes is None:
            self._outcomes = self._made()
        return self._outcomes

    def _made(self) -> dict[Id, Reply | RqprocError]:
        made = calls.outcomes(
            self._sent, self.wanted.answers, self._makers.keys, outage=self._outage
        )
        if self._expected:
            self._expected.keep(made)
        if not self.found:
            return made
        return {id: self.found.get(id) or made[id] for id in self.asked}

    def reply(self) -> Reply:
        """Return the only one's reply. Raises: its error."""
        (outcome,) = self.outcomes.values()
        return calls.value_or_raise(outcome)

    def values(self, *, return_exceptions: bool) -> dict[Id, Any]:
        """Return each id's value; the first error is raised, or each stands in its id's place."""
        return calls.values(self.outcomes, return_exceptions=return_exceptions)
