"""A dispatcher that is told and asked by hand, on a clock that stands still."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable
from itertools import count
from typing import Any, NamedTuple

from rqproc.app import App
from rqproc.calls.requests import KINDS
from rqproc.ids import address
from rqproc.model import DEFAULT_RESOURCE, Request
from rqproc.node.cache import Cache
from rqproc.node.dispatcher import Dispatcher
from rqproc.node.lanes import Lanes
from rqproc.node.runs import Done, HandlerRun
from rqproc.protocol import answer_codec, codec
from rqproc.protocol.messages import Claim
from rqproc.protocol.node_commands import Ending

TTL_S = 5.0
KNOWN = ["brisk", "charge", "demo", "patient", "price", "prices", "rated", "timed"]


def timed(id: int) -> int:
    raise AssertionError("a dispatcher runs nothing")


def shop() -> App:
    app = App("redis://nowhere")

    @app.resource(ttl=TTL_S)
    def price(id: int) -> int:
        raise AssertionError("a dispatcher runs nothing")

    @app.resource(ttl=0.5, name=DEFAULT_RESOURCE)
    def demo(id: int) -> int:
        raise AssertionError("a dispatcher runs nothing")

    @app.resource(ttl=0)
    def charge(id: int, *amounts: int) -> int:
        raise AssertionError("a dispatcher runs nothing")

    @app.resource(ttl=TTL_S, batch=20)
    def prices(ids: list[int]) -> dict[int, int]:
        raise AssertionError("a dispatcher runs nothing")

    @app.resource(ttl=TTL_S, batch=3, batch_wait_s=1.0)
    def patient(ids: list[int]) -> dict[int, int]:
        raise AssertionError("a dispatcher runs nothing")

    @app.resource(ttl=TTL_S, rate=2, rate_per_id=1, stale_ttl=60)
    def rated(id: int) -> int:
        raise AssertionError("a dispatcher runs nothing")

    @app.resource(ttl=0, timeout=1.0)
    def brisk(id: int, *amounts: int) -> int:
        raise AssertionError("a dispatcher runs nothing")

    app.resource(ttl=TTL_S, timeout=1.0)(timed)
    return app


class End(NamedTuple):
    """What ends a call or a job, read as its caller, or RQ, reads it."""

    how: str
    id: str
    answer: answer_codec.Answer | None
    body: str = ""
    report: str = ""
    keep_ms: int = 0

    @property
    def source(self) -> str:
        assert self.answer
        return self.answer.source

    @property
    def value(self) -> Any:
        if self.how.startswith("job"):
            return json.loads(b64decode(self.body))
        assert self.answer
        return self.answer.value

    @property
    def error(self) -> Any:
        """The report of an error."""
        if self.how.startswith("job"):
            return json.loads(self.report)
        assert self.answer
        return self.answer.report


def read(ending: Ending) -> End:
    how, id, *rest = (part.decode() if isinstance(part, bytes) else part for part in ending)
    if how.startswith("job"):
        return End(how, id, None, body=rest[1], report=rest[2])
    payload = rest[0] if how == "hit" else rest[1]
    answer = None
    if payload:
        named, _, text = payload.partition(" ")
        assert named == id
        answer = answer_codec.decode_answer(text.encode())
    return End(how, id, answer, keep_ms=0 if how == "hit" else int(rest[2]))


class Bench:
    """A node's dispatcher, its queue and its server in one hand. Node "b"; of two members, "a" and
    "b", odd ids are its own.
    """

    def __init__(self, *, max_waiters: int = 1000, max_entries: int = 100) -> None:
        self.now = 100.0
        self.lanes = Lanes[HandlerRun](10)
        self.dispatcher = Dispatcher(
            "b", shop().resources, cache=Cache("b", max_entries), lanes=self.lanes,
            clock=lambda: self.now, max_waiters=max_waiters, chance=lambda: 0.0,
        )  # fmt: skip
        self.intake = self.dispatcher.intake
        self.scheduler = self.dispatcher.scheduler
        self.dispatcher.learn(1, ["a", "b"])
        self.data: dict[bytes, bytes] = {}
        self.claimed: list[str] = []
        self.due: float | None = None
        self._numbers = count(1)
        self._tokens = count(1)

    # --- ids ---

    def named(
        self, id: int, resource: str = "price", *args: Any, function: str = codec.REQUEST
    ) -> bytes:
        """Return the id of a call that is new."""
        kind = KINDS[function] if function != codec.REQUEST else "a" if args else "c"
        name = f"r0-{kind}{next(self._numbers):x}-{address(resource, id)}".encode()
        request = Request(resource, id, args)
        self.data[name] = codec.encode_request(request, function=function)
        return name

    def job(self, name: str, id: int, resource: str = "price", data: bytes | None = None) -> bytes:
        self.data[name.encode()] = data or codec.encode_request(Request(resource, id))
        self._addresses = getattr(self, "_addresses", {}) | {name: address(resource, id)}
        return name.encode()

    # --- what the server says ---

    def pop(self, *ids: bytes) -> list[str]:
        """Take ids, and have granted what is to be claimed; return what was claimed."""
        self.claimed = []
        self.intake.take(ids)
        while self.intake.has_asks:
            self.intake.groups()
            asks = self.intake.asks()
            for id in asks.claims:
                self.claimed.append(id.decode())
                self.grant(id)
            self.intake.go_on()
        return self.claimed

    def grant(self, id: bytes) -> Claim:
        name = id.decode()
        is_call = name.startswith("r0-")
        where = name.split("-", 2)[2] if is_call else self._addresses[name]
        claim = Claim(
            name, "call" if is_call else "job", where, next(self._tokens), 0, self.data[id]
        )
        self.dispatcher.receive(claim, due=self.due)
        return claim

    def ask(self, id: int, resource: str = "price", *args: int, due: float | None = None) -> str:
        """A call comes; return its id."""
        self.due = due
        name = self.named(id, resource, *args)
        self.pop(name)
        self.due = None
        return name.decode()

    def invalidate(self, id: int) -> str:
        name = self.named(id, function=codec.INVALIDATE)
        self.pop(name)
        return name.decode()

    def change(
        self, id: int, function: str, *args: Any, resource: str = "price", due: float | None = None
    ) -> str:
        """A refresh, or a value that is given, comes; return its id."""
        self.due = due
        name = self.named(id, resource, *args, function=function)
        self.pop(name)
        self.due = None
        return name.decode()

    def cached(self, id: int) -> Any:
        """Return the value that is kept, None if there is none."""
        entry = self.dispatcher.cache.get(address("price", id).encode(), self.now)
        return json.loads(entry.text) if entry else None

    def compute_nothing(self, id: int, resource: str = "price") -> Any:
        """Ask, and return the value that an entry has."""
        self.ask(id, resource)
        (end,) = self.ends()
        assert end.source == "hit"
        return end.value

    # --- runs ---

    def run(self) -> HandlerRun:
        run = self.scheduler.next_run()
        assert run
        return run

    def done(self, run: HandlerRun, text: str = "7") -> None:
        self.scheduler.complete(run, Done(text))

    def compute(self, id: int, value: object = 7) -> list[End]:
        """Ask, run and answer."""
        self.ask(id)
        self.done(self.run(), json.dumps(value))
        return self.ends()

    # --- answers ---

    def sent(self) -> list[Ending]:
        return self.dispatcher.collect()

    def ends(self) -> list[End]:
        """Collect, as if the server acknowledged at once."""
        found = self.sent()
        self.dispatcher.acknowledged(found)
        return list(map(read, found))


def told(ends: Iterable[End]) -> list[tuple[str, str, Any]]:
    """Of each its id, where it came from, and its value."""
    return [(end.id, end.source, end.value) for end in ends]
