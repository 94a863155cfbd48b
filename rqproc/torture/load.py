"""The callers: threads and tasks that ask all the time, in every way that a client has.

Knows the clients and the ledger. Must not know what is done to the cluster meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from rqproc.aio import AsyncClient
from rqproc.client import Client
from rqproc.torture.app import app
from rqproc.torture.jobs import Jobs
from rqproc.torture.ledger import Ledger
from rqproc.torture.wishes import PATIENT_S, Wish, Wishes

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
    numbers = [ledger.ask("many", f"{resource}:{id}", timeout_s=timeout_s) for id in ids]
    found: dict[int | str, object]
    try:
        found = client.request_many(ids, resource, timeout=timeout_s, return_exceptions=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller got
        found = dict.fromkeys(ids, error)
    for id, number in zip(ids, numbers, strict=True):
        ledger.answered(number, found[id])
    return list(found.values())


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

        def wishes(who: str) -> Wishes:
            return Wishes(ledger, f"{seed}/{who}", longest_s=longest_s)

        bodies: list[Callable[[], None]] = [
            partial(self._ask, wishes(f"caller{number}")) for number in range(callers)
        ]
        kinds = [("nesting", NESTING, Wishes.nested), ("hasty", HASTY, Wishes.impatient)]
        bodies += [
            partial(self._have_all, wishes(f"{kind}{number}"), wish)
            for kind, count, wish in kinds
            for number in range(count)
        ]
        bodies.append(lambda: asyncio.run(self._ask_async(wishes, tasks=3)))
        bodies.append(lambda: self._enqueue(wishes("jobs")))
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), daemon=True) for body in bodies
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
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

    def _ask(self, wishes: Wishes) -> None:
        turns = (self._one, self._call, self._many, self._invalidate)
        while not self._end.is_set():
            (turn,) = wishes.chance.choices(turns, (6, 6, 2, 1))
            turn(wishes)
            self._end.wait(wishes.pause())

    def _have_all(self, wishes: Wishes, wish: Callable[[Wishes], Wish]) -> None:
        while not self._end.is_set():
            self._have(wish(wishes))
            self._end.wait(wishes.pause())

    def _one(self, wishes: Wishes) -> None:
        self._have(wishes.one())

    def _call(self, wishes: Wishes) -> None:
        self._have(wishes.call())

    def _have(self, wish: Wish) -> None:
        how = wish.how("request")
        number = self._ledger.ask(how, wish.key, tag=wish.tag, timeout_s=wish.timeout_s)
        self._note(
            number,
            lambda: self._client.request(
                wish.id, wish.resource, args=wish.args, timeout=wish.timeout_s,
                on_lost=wish.on_lost,
            ),
        )  # fmt: skip

    def _many(self, wishes: Wishes) -> None:
        ask_many(self._client, self._ledger, "kept", wishes.many(), timeout_s=PATIENT_S)

    def _invalidate(self, wishes: Wishes) -> None:
        id = wishes.kept()
        number = self._ledger.ask("invalidate", f"kept:{id}", timeout_s=PATIENT_S)
        self._note(number, lambda: self._client.invalidate(id, "kept", timeout=PATIENT_S))

    def _note(self, number: int, call: Callable[[], object]) -> None:
        try:
            outcome = call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller got
            outcome = error
        self._ledger.answered(number, outcome)

    # --- asyncio ---

    async def _ask_async(self, wishes: Callable[[str], Wishes], *, tasks: int) -> None:
        namespace = self._client.namespace
        async with AsyncClient(self._async_url, namespace=namespace, app=app) as client:
            bodies = (self._ask_task(client, wishes(f"task{n}")) for n in range(tasks))
            await asyncio.gather(*bodies)

    async def _ask_task(self, client: AsyncClient, wishes: Wishes) -> None:
        while not self._end.is_set():
            if wishes.chance.random() < 0.3:
                await self._many_async(client, wishes)
            else:
                await self._have_async(client, wishes.call())
            await asyncio.sleep(wishes.pause())

    async def _have_async(self, client: AsyncClient, wish: Wish) -> None:
        how = wish.how("async")
        number = self._ledger.ask(how, wish.key, tag=wish.tag, timeout_s=wish.timeout_s)
        outcome: object
        try:
            outcome = await client.request(
                wish.id, wish.resource, args=wish.args, timeout=wish.timeout_s,
                on_lost=wish.on_lost,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001
            outcome = error
        self._ledger.answered(number, outcome)

    async def _many_async(self, client: AsyncClient, wishes: Wishes) -> None:
        ids = wishes.many()
        numbers = [self._ledger.ask("async", f"kept:{id}", timeout_s=PATIENT_S) for id in ids]
        try:
            found = await client.request_many(
                ids, "kept", timeout=PATIENT_S, return_exceptions=True
            )
        except Exception as error:  # noqa: BLE001
            found = dict.fromkeys(ids, error)
        for id, number in zip(ids, numbers, strict=True):
            self._ledger.answered(number, found[id])

    # --- jobs ---

    def _enqueue(self, wishes: Wishes) -> None:
        jobs = Jobs(self._client, self._ledger)
        while not self._end.is_set():
            if jobs.has_room:
                jobs.enqueue(wishes.job())
            jobs.collect()
            self._end.wait(wishes.pause())
        jobs.collect_all(within_s=COLLECT_WITHIN_S)
