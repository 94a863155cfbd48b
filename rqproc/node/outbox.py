"""What a node has to tell the server: the ends of calls and jobs, each with its answer.

Knows answers, as callers and RQ read them. Must not know why a call ends as it does. Pure: it sends
nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from rqproc.ids import parse_address, quote, request_name
from rqproc.log_events import tell
from rqproc.model import DEFAULT_RESOURCE
from rqproc.node.counts import Counts
from rqproc.node.entries import Entry
from rqproc.node.hot_ids import BATCH
from rqproc.node.runs import Failure, Taken
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.commands import Commands
from rqproc.protocol.node_commands import Ending, Outcome
from rqproc.runtime import Clock

log = logging.getLogger("rqproc.node")

KEEP_S = 60.0
"""Seconds that an answer outlives its caller's patience: it may have to ask for it again."""

CHANGES = (":dropped", ":flushed", ":flushed-all")
"""Ends of what was no request for a value."""

DEFAULT = f"-{quote(DEFAULT_RESOURCE)}-"
_DEFAULT = DEFAULT.encode()


class Outbox:
    """Ends that are to be sent, in order.

    Attributes:
        hits, succeeded, failed: how many there were.
    """

    def __init__(self, node: str, clock: Clock, counts: Counts) -> None:
        self._node = node
        self._counts = counts
        self._hits_of = counts.hits
        self._raw_node = node.encode()
        self._clock = clock
        self._endings: list[Ending] = []
        self.hits = self.succeeded = self.failed = 0

    def __bool__(self) -> bool:
        return bool(self._endings)

    def collect(self) -> list[Ending]:
        """Return the endings to send, once."""
        if len(self._hits_of) >= BATCH:
            self._counts.fold()
        out, self._endings = self._endings, []
        return out

    def again(self, endings: Sequence[Ending]) -> None:
        """The server may not have had these: they go first.

        But for hits. What has one is open until it is answered, so it is queued anew if it was not:
        it is looked up then, and may be computed anew.
        """
        self._endings[:0] = [ending for ending in endings if ending[0] not in ("hit", "many")]

    def clear(self) -> None:
        self._endings.clear()

    # --- what is found in an entry ---

    def hit(self, id: bytes, address: bytes, entry: Entry, now: float) -> None:
        """A call that was not claimed has an entry."""
        computed_at, expires_at, token, text = entry
        payload = answer_codec.encode_hit(
            id, text, node=self._raw_node, age_s=now - computed_at, expires_in_s=expires_at - now,
            token=token,
        )  # fmt: skip
        self._endings.append(Commands.hit(id, payload))
        self.hits += 1
        self._hits_of[address] += 1
        if _DEFAULT in address or log.isEnabledFor(logging.DEBUG):
            self._log(id, address.decode(), "hit", text.decode())

    def kept(self, id: bytes, address: str, entry: Entry, source: str, now: float) -> None:
        """A call that was not claimed has what is no plain hit: an error, or an old value."""
        text = entry.text.decode()
        payload = answer_codec.encode_answer(
            id.decode(), source, text, node=self._node, age_s=now - entry.computed_at,
            expires_in_s=max(0.0, entry.expires_at - now), token=entry.token,
        )  # fmt: skip
        self._endings.append(Commands.hit(id, payload))
        self.hits += 1
        kind = answer_codec.kind_of(text) if source == "error" else source
        self._counts.found(address.encode(), kind)
        self._log(id, address, source, text)

    def told(self, id: bytes, text: str) -> None:
        """A call that was not claimed asks what this node knows: it counts as no request."""
        payload = answer_codec.encode_answer(id.decode(), "hit", text, node=self._node)
        self._endings.append(Commands.hit(id, payload))

    def part(self, group: str, place: bytes, address: bytes, entry: Entry, now: float) -> str:
        """Return the answer to one call of a group."""
        computed_at, expires_at, token, raw = entry
        text = raw.decode()
        self.hits += 1
        self._hits_of[address] += 1
        if _DEFAULT in address or log.isEnabledFor(logging.DEBUG):
            call = f"{group.replace('-g', '-c', 1)}-{address.decode()}"
            self._log(call.encode(), address.decode(), "hit", text)
        return answer_codec.encode_part(
            place.decode(), "hit", text, age_s=now - computed_at, expires_in_s=expires_at - now,
            token=token,
        )  # fmt: skip

    def many(self, group: str, answers: Sequence[str], length: int) -> None:
        """All calls of a group have entries."""
        self._endings.append(Commands.many(group, self.payload(group, answers), length))

    def payload(self, group: str, answers: Sequence[str]) -> str:
        return answer_codec.encode_group(group, self._node, answers)

    # --- what was claimed, or has joined ---

    def value(self, taken: Taken, entry: Entry, source: str, outcome: Outcome = "") -> None:
        """It ends with a value."""
        text, now = entry.text.decode(), self._clock()
        if source == "hit":
            self.hits += 1
        else:
            self.succeeded += 1
        shown = "changed" if outcome in CHANGES else source
        self._counts.answered(taken, shown, now)
        self._log(taken.id, taken.address, shown, text)
        if taken.renews:
            outcome = ":dropped"
        taken.ended = True
        name = taken.name
        if taken.serializer is not None:
            body = codec.return_value(text, taken.serializer)
            self._endings.append(Commands.job(outcome, name, taken.address, body, ""))
            return
        payload = answer_codec.encode_answer(
            name, source, text, node=self._node, age_s=now - entry.computed_at,
            expires_in_s=max(0.0, entry.expires_at - now), token=entry.token,
        )  # fmt: skip
        keep_s = self._keep_s(taken, now)
        self._endings.append(Commands.call(outcome, name, taken.address, payload, keep_s))

    def failure(self, taken: Taken, failure: Failure, outcome: Outcome = "") -> None:
        """It ends with an error; a run that has been told as stuck may end with the same."""
        now = self._clock()
        if outcome != ":ended":
            self.failed += 1
            self._counts.failed(taken, failure, now)
        taken.ended = True
        name = taken.name
        if taken.serializer is not None:
            text = codec.exc_string(failure.text)
            self._endings.append(Commands.job(outcome, name, taken.address, text, failure.report))
            return
        payload = answer_codec.encode_answer(
            name, "error", failure.report, node=self._node, token=taken.token
        )
        keep_s = self._keep_s(taken, now)
        self._endings.append(Commands.call(outcome, name, taken.address, payload, keep_s))

    def nothing(self, taken: Taken, outcome: Outcome) -> None:
        """It ends without an answer."""
        taken.ended = True
        name = taken.name
        if taken.serializer is not None:
            self._endings.append(Commands.job(outcome, name, taken.address, "", ""))
        else:
            self._endings.append(Commands.call(outcome, name, taken.address, "", KEEP_S))

    def _keep_s(self, taken: Taken, now: float) -> float:
        return KEEP_S + max(0.0, taken.due - now if taken.due is not None else 0.0)

    def _log(self, call: bytes, address: str, source: str, text: str) -> None:
        """Log an answer: the default resource's for everyone to see, others' for those who
        debug.
        """
        shown = DEFAULT in address
        if not log.isEnabledFor(logging.INFO if shown else logging.DEBUG):
            return
        _, resource, id = parse_address(address)
        request = request_name(call.decode(errors="surrogateescape"))
        did = {
            "hit": "answered from its entry",
            "joined": "answered a caller that joined",
            "stale": "answered with its old value",
            "error": "answered with the error that is remembered",
            "changed": "dropped what is kept:",
        }
        verb = did.get(source, "computed")
        tell(
            log, "answered", "%s %s %s: %s %s", self._node, resource, id, verb, text[:200],
            level="info" if shown else "", resource=resource, id=id, request=request,
            source=source,
        )  # fmt: skip


def crowded(node: str, queued: int, limit: int) -> str:
    """Return the report on an id with too many requests under way."""
    return json.dumps({"type": "Crowded", "node": node, "queued": queued, "limit": limit})


def node_lost(attempts: int) -> str:
    """Return the report on a request that too many nodes have died on."""
    return json.dumps({"type": "NodeLost", "attempts": attempts})
