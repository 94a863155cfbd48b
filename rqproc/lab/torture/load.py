"""The callers: threads and tasks that ask all the time, in every way that a client has.

Knows the clients and the ledger. Must not know what is done to the cluster meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Self

from rqproc.aio import AsyncClient
from rqproc.client import Client
from rqproc.errors import RqprocError
from rqproc.lab.torture.app import app
from rqproc.lab.torture.choices import KEPT, PATIENT_S, RENEWED, Choice, Choices
from rqproc.lab.torture.jobs import Jobs
from rqproc.lab.torture.ledger import Ledger
from rqproc.lab.torture.records import How
from rqproc.lab.torture.run_log import put
from rqproc.model import Reply

COLLECT_WITHIN_S = 20.0
GRACE_S = 5.0
NESTING = 2
"""Callers that want nothing but what asks for other ids, so that circles come about."""
HASTY = 3
"""Callers that never want to wait, so that some are there when a node dies."""


def ask_many(
    client: Client, ledger: Ledger, resource: str, ids: Sequence[int], *, timeout_s: float
) -> list[object]:
    """Ask for many ids at once; return the value or the error of each, which are noted."""
    keys = _keys(resource, ids)
    with ledger.asking("many", keys, timeout_s=timeout_s) as found:
        if resource == RENEWED:
            replies = client.reply_many(ids, resource, timeout=timeout_s)
            found.update(zip(keys, map(_with_age, replies.values()), strict=True))
        else:
            values = client.request_many(ids, resource, timeout=timeout_s, return_exceptions=True)
            found.update(zip(keys, values.values(), strict=True))
    return list(found.values())


def _with_age(reply: Reply | RqprocError) -> object:
    """Return what is noted: the value, and whether it was told to be an old one; or the error."""
    if isinstance(reply, RqprocError):
        return reply
    return {**reply.value, "stale": reply.source == "stale"}


def _keys(resource: str, ids: Sequence[int]) -> list[str]:
    return [f"{resource}:{id}" for id in ids]


class Load:
    """Callers, until the end of the ``with`` block.

    Args:
        longest_s: how long some handlers run; 0 for short ones only.
    """

    def __init__(
        self, client: Client, async_url: str, ledger: Ledger, *, seed: int, callers: int = 7,
        longest_s: float = 0.0,
    ) -> None:  # fmt: skip
        self._client = client
        self._async_url = async_url
        self._ledger = ledger
        self._end = threading.Event()
        self._failures: list[BaseException] = []

        def choices(who: str) -> Choices:
            return Choices(ledger, f"{seed}/{who}", longest_s=longest_s)

        bodies: list[Callable[[], None]] = [
            partial(self._ask, choices(f"caller{number}")) for number in range(callers)
        ]
        kinds = [("nesting", NESTING, Choices.nested), ("hasty", HASTY, Choices.impatient)]
        bodies += [
            partial(self._have_all, choices(f"{kind}{number}"), choice)
            for kind, count, choice in kinds
            for number in range(count)
        ]
        bodies.append(lambda: asyncio.run(self._ask_async(choices, tasks=3)))
        bodies.append(lambda: self._enqueue(choices("jobs")))
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), daemon=True) for body in bodies
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()

    def finish(self) -> None:
        """Ask no more, and wait for what is open; whoever hangs longer is left open.

        Raises:
            BaseException: what ended a caller; no client may raise it.
        """
        self._end.set()
        end = time.monotonic() + COLLECT_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, end + GRACE_S - time.monotonic()))
        if self._failures:
            raise self._failures[0]

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - told by finish
            self._failures.append(error)

    # --- blocking callers ---

    def _ask(self, choices: Choices) -> None:
        turns: tuple[Callable[[Choices], None], ...] = (
            lambda choices: self._have(choices.one()),
            lambda choices: self._have(choices.call()),
            self._many,
            self._invalidate,
            self._flush,
            self._refresh,
            self._set,
        )
        while not self._end.is_set():
            (turn,) = choices.chance.choices(turns, (12, 12, 4, 2, 1, 1, 1))
            turn(choices)
            self._end.wait(choices.pause())

    def _have_all(self, choices: Choices, choice: Callable[[Choices], Choice]) -> None:
        while not self._end.is_set():
            self._have(choice(choices))
            self._end.wait(choices.pause())

    def _have(self, choice: Choice) -> None:
        with self._asking("request", choice) as found:
            reply = self._client.reply(
                choice.id, choice.resource, args=choice.args, timeout=choice.timeout_s,
                on_lost=choice.on_lost,
            )  # fmt: skip
            found[choice.key] = _with_age(reply)

    def _asking(self, way: How, choice: Choice) -> AbstractContextManager[dict[str, object]]:
        how, timeout_s = choice.how(way), choice.timeout_s
        return self._ledger.asking(how, [choice.key], tag=choice.tag, timeout_s=timeout_s)

    def _many(self, choices: Choices) -> None:
        ids = choices.many()
        ask_many(self._client, self._ledger, choices.keeping(), ids, timeout_s=PATIENT_S)

    def _invalidate(self, choices: Choices) -> None:
        one = choices.one()
        with self._ledger.asking("invalidate", [one.key], timeout_s=PATIENT_S) as found:
            found[one.key] = self._client.invalidate(one.id, one.resource, timeout=PATIENT_S)

    def _flush(self, choices: Choices) -> None:
        resource = choices.keeping()
        with self._ledger.asking("flush", _keys(resource, KEPT), timeout_s=PATIENT_S) as found:
            self._client.invalidate_all(resource, timeout=PATIENT_S)
            found.update(dict.fromkeys(_keys(resource, KEPT)))

    def _refresh(self, choices: Choices) -> None:
        one = choices.one()
        with self._ledger.asking("refresh", [one.key], timeout_s=PATIENT_S) as found:
            reply = self._client.refresh(one.id, one.resource, timeout=PATIENT_S)
            found[one.key] = _with_age(reply)

    def _set(self, choices: Choices) -> None:
        one = choices.one()
        with self._ledger.asking("set", [one.key], timeout_s=PATIENT_S) as found:
            value = put(one.key)
            is_kept = self._client.set(one.id, value, one.resource, timeout=PATIENT_S)
            found[one.key] = value if is_kept else None

    # --- asyncio ---

    async def _ask_async(self, choices: Callable[[str], Choices], *, tasks: int) -> None:
        namespace = self._client.namespace
        async with AsyncClient(self._async_url, namespace=namespace, app=app) as client:
            bodies = (self._ask_task(client, choices(f"task{n}")) for n in range(tasks))
            await asyncio.gather(*bodies)

    async def _ask_task(self, client: AsyncClient, choices: Choices) -> None:
        while not self._end.is_set():
            if choices.chance.random() < 0.3:
                await self._many_async(client, choices)
            else:
                await self._have_async(client, choices.call())
            await asyncio.sleep(choices.pause())

    async def _have_async(self, client: AsyncClient, choice: Choice) -> None:
        with self._asking("async", choice) as found:
            reply = await client.reply(
                choice.id, choice.resource, args=choice.args, timeout=choice.timeout_s,
                on_lost=choice.on_lost,
            )  # fmt: skip
            found[choice.key] = _with_age(reply)

    async def _many_async(self, client: AsyncClient, choices: Choices) -> None:
        ids = choices.many()
        with self._ledger.asking("async", _keys("kept", ids), timeout_s=PATIENT_S) as found:
            values = await client.request_many(
                ids, "kept", timeout=PATIENT_S, return_exceptions=True
            )
            found.update(zip(_keys("kept", ids), values.values(), strict=True))

    # --- jobs ---

    def _enqueue(self, choices: Choices) -> None:
        jobs = Jobs(self._client, self._ledger)
        while not self._end.is_set():
            if jobs.has_room:
                jobs.enqueue(choices.job())
            jobs.collect()
            self._end.wait(choices.pause())
        jobs.collect_all(within_s=COLLECT_WITHIN_S)
