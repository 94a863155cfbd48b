"""One pending call: what one caller waits for, one id or many of one resource, and what has come.

Knows ids, addresses, answers and errors. Must not know connections, threads, event loops or clocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal

from rqproc.errors import (
    NOT_DONE,
    NOT_HEARD,
    ConfigError,
    PayloadTooLarge,
    RequestTimeout,
    RqprocError,
)
from rqproc.ids import Id, address, canonical, check_resource, request_name
from rqproc.log_events import tell
from rqproc.model import OnLost, Reply, Request
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.answer_codec import Answer
from rqproc.protocol.commands import MOST_TOGETHER
from rqproc.protocol.reports import from_remote
from rqproc.tracing import Carrier

log = logging.getLogger("rqproc.client")

MAX_TIMEOUT_S = 7 * 86400.0

Kind = Literal["c", "a", "i", "e"]
"""Without arguments, with arguments, an invalidation, or a question what its node knows of an id;
stands in the id of a call."""


Raw = bytes | answer_codec.Part | Answer | Reply | RqprocError
"""An answer as it came, without its id, which is read where it is wanted; or what this process has
made of it itself."""


class Call:
    """What one caller waits for.

    Attributes:
        ids: asked together, each once; ``addresses`` and ``answers`` are in the same order.
        args, kwargs: for the handler; only a call of one id has any.
        function: what is asked for, as ``codec`` names it.
        timeout_s: seconds that the caller allows; ``deadline`` is when they are over, on its clock.
        parent: address of the handler run that asks and waits; "" where none does.
        trace: the context of its span, empty where that is not sampled; None where it has none.
        answers: for each id the answer as it came, without its id; read where it is wanted.
        left: how many are missing.
        names: for each id what the cluster knows the call by, once it has been sent; empty where it
            follows from ``groups``.
        groups: ids of the groups that they were sent in, one after another.
        carried: the server has had them.
        heard: it has spoken of them since the last trouble with it.
        unsure: some may have been sent twice: their answers must not be removed.
        no_node_answers: the answers that no node lives, by place, where calls that were known
            before are asked again.
        error: what the connection failed of, until it is fetched.
        outage: why the answers that are missing did not come, if that is known.
        advice: what to do about those that are late, where no server is asked.
        wake: called when all answers are there, or an error; from whichever thread finds out.
    """

    __slots__ = (
        "_data", "_unread", "addresses", "advice", "answers", "args", "carried", "deadline",
        "error", "function", "groups", "heard", "ids", "kind", "kwargs", "left", "names",
        "no_node_answers", "on_lost", "outage", "parent", "resource", "timeout_s", "trace",
        "unsure", "wake",
    )  # fmt: skip

    def __init__(
        self, kind: Kind, resource: str, ids: Sequence[Id], addresses: Sequence[str],
        timeout_s: float, deadline: float, on_lost: OnLost = "wait", parent: str = "",
        args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
        function: str | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.function = function or (codec.INVALIDATE if kind == "i" else codec.REQUEST)
        self.resource = resource
        self.ids = ids
        self.addresses = addresses
        self.timeout_s = timeout_s
        self.deadline = deadline
        self.on_lost = on_lost
        self.parent = parent
        self.trace: Carrier | None = None
        self.args = args
        self.kwargs = kwargs
        self.left = len(ids)
        self.answers: list[Raw | None] = [None] * self.left
        self.names: Sequence[str] = ()
        self.groups: list[str] = []
        self.carried = self.heard = self.unsure = False
        self.no_node_answers: dict[int, Answer] | None = None
        self.error: Exception | None = None
        self.outage: RqprocError | None = None
        self.advice = ""
        self.wake: Callable[[], None] | None = None
        self._data: bytes | None = None
        self._unread: list[tuple[int, bytes]] | None = None

    @property
    def quiet(self) -> bool:
        """Whether it is no answer that nobody lives: the server has known these calls before."""
        return self.carried and self.on_lost == "wait"

    def take(self, place: int, answer: Raw) -> bool:
        """Take in an answer, and return True; False where there is one, or it was given up."""
        if self.answers[place] is not None:
            return False
        self.answers[place] = answer
        self.left -= 1
        return True

    def take_group(self, first: int, rest: bytes) -> None:
        """Take in answers of a group whose first call is the one at that place; each comes once, as
        long as nothing was asked again.
        """
        unread = self._unread
        if unread is None:
            unread = self._unread = []
        unread.append((first, rest))
        if self.unsure or (len(unread) > 1 and self.left < answer_codec.count_group(rest)):
            self._read_groups()
        else:
            self.left -= answer_codec.count_group(rest)

    def _read_groups(self) -> None:
        for first, rest in self._unread or ():
            for place, answer in answer_codec.decode_group(rest):
                self.answers[first + place] = self.answers[first + place] or answer
        self.left = self.answers.count(None)
        self._unread = None  # last: this may be interrupted

    def missing(self) -> list[int]:
        """Return the places of the ids without an answer.

        Nothing is changed: another thread may be taking in an answer at this moment.
        """
        found = {
            first + place
            for first, rest in tuple(self._unread or ())
            for place, _ in answer_codec.decode_group(rest)
        }
        return [
            place
            for place, answer in enumerate(self.answers)
            if answer is None and place not in found
        ]

    def data(self, place: int) -> str | bytes:
        """Return the data of the RQ job that carries one of the calls.

        Raises:
            ConfigError: the arguments are not JSON. PayloadTooLarge. Of the first time alone:
                whoever makes a call finds out before it is sent together with those of others.
        """
        if self.kind == "c":
            return plain(self.resource, self.ids[place])[2]
        data = self._data if len(self.ids) == 1 else None
        if data is None:
            data = self._data = self._encoded(place)
        return data

    def _encoded(self, place: int) -> bytes:
        """A context is left out where there is no room for it."""
        request = Request(self.resource, self.ids[place], tuple(self.args), self.kwargs or {})
        if self.trace:
            with suppress(PayloadTooLarge):
                return codec.encode_request(request, function=self.function, trace=self.trace)
        return codec.encode_request(request, function=self.function)

    def take_along(self, trace: Carrier) -> None:
        """Have the context of its span in the data of its job; before it is sent."""
        self.trace = trace
        self._data = None
        if trace and self.kind == "c":
            self.kind = "a"

    def fetch_error(self) -> Exception | None:
        """Return what the connection failed of since the last time."""
        error, self.error = self.error, None
        return error

    # --- what came of it ---

    def value(self, namespace: str) -> Any:
        """Return the only id's value. Raises: its error."""
        answer = self.answers[0]
        if type(answer) is bytes and answer[:5] != b"error":
            try:
                return answer_codec.decode_value(answer)
            except answer_codec.UNREADABLE:
                return self.reply(namespace).value  # which raises it as what it is
        return self.reply(namespace).value

    def reply(self, namespace: str) -> Reply:
        """Return the only id's reply. Raises: its error."""
        outcome = self.outcome(0, namespace)
        if isinstance(outcome, RqprocError):
            raise outcome
        return outcome

    def outcome(self, place: int, namespace: str) -> Reply | RqprocError:
        """Return one id's reply or error; RequestTimeout where there is no answer."""
        if self._unread:
            self._read_groups()
        answer = self.answers[place]
        if answer is None:
            if self.outage:
                return self.outage
            return self._named(place, RequestTimeout(
                self.resource, self.ids[place], self.timeout_s,
                advice=self.advice or (NOT_DONE if self.heard else NOT_HEARD),
            ))  # fmt: skip
        if isinstance(answer, Reply | RqprocError):
            return answer
        if isinstance(answer, bytes):
            answer = answer_codec.decode_answer(answer)
        elif isinstance(answer, answer_codec.Part):
            answer = answer_codec.decode_part(answer)
        if answer.report is None:
            return answer.reply(self.ids[place])
        return self._named(place, from_remote(
            answer.report, resource=self.resource, id=self.ids[place], namespace=namespace
        ))  # fmt: skip

    def _named(self, place: int, error: RqprocError) -> RqprocError:
        """Have an error say which request it is the end of."""
        if self.names:
            error.request = request_name(self.names[place])
        elif self.groups:
            group = self.groups[min(place // MOST_TOGETHER, len(self.groups) - 1)]
            error.request = f"{group.replace('-g', '-c', 1)}-{self.addresses[place]}"
        if log.isEnabledFor(logging.DEBUG):
            tell(
                log, "request_failed", "%s %s: %s", self.resource, self.ids[place], error,
                resource=self.resource, id=self.ids[place], request=error.request, error=error,
            )  # fmt: skip
        return error

    def values(self) -> dict[Id, Any] | None:
        """Return each id's value, in the order asked, where groups brought them all; else None."""
        if self._unread:
            self._read_groups()
        found: dict[Id, Any] = {}
        for id, answer in zip(self.ids, self.answers, strict=True):
            if type(answer) is not Answer or answer.report is not None:
                return None
            found[id] = answer.value
        return found

    def outcomes(self, namespace: str) -> dict[Id, Reply | RqprocError]:
        """Return for each id, in the order asked, its reply or its error."""
        return {id: self.outcome(place, namespace) for place, id in enumerate(self.ids)}

    def settled(self, namespace: str) -> list[Reply | RqprocError]:
        """``outcomes`` in a list, when it is over; whoever asks later has the same."""
        found = list(self.outcomes(namespace).values())
        self.answers = list(found)
        return found

    def give_up(self) -> None:
        """Time is over: where nobody lived, last, that is the answer."""
        if self.no_node_answers:
            self._read_groups()
            for place, answer in dict(self.no_node_answers).items():  # others may read
                self.take(place, answer)


@lru_cache(maxsize=4096, typed=True)
def plain(resource: str, id: object) -> tuple[Id, str, str]:
    """Return what a request without arguments is made of: canonical id, address, data of its job.

    Raises:
        InvalidId, ConfigError.
    """
    check_resource(resource)
    found = canonical(id)
    data = codec.encode_request(Request(resource, found)).decode()
    return found, address(resource, found), data


def check_timeout(timeout_s: float) -> float:
    """Return a timeout unchanged.

    Raises:
        ConfigError: not a number over 0 and up to a week.
    """
    if isinstance(timeout_s, int | float) and 0 < timeout_s <= MAX_TIMEOUT_S:
        return timeout_s
    raise ConfigError(f"invalid timeout {timeout_s!r}: seconds, over 0 and up to a week")


def check_result_ttl(result_ttl: int | None) -> int | None:
    """Return a job's result ttl unchanged.

    Raises:
        ConfigError: not a whole number of seconds, -1 (for ever) or more.
    """
    if result_ttl is None or (isinstance(result_ttl, int) and -1 <= result_ttl < 2**31):
        return result_ttl
    raise ConfigError(f"invalid result_ttl {result_ttl!r}: whole seconds, 0 for none, -1 for ever")
