"""The callers: threads and tasks that ask all the time, in every way that a client has.

Knows the clients and the ledger. Must not know what is done to the cluster meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import redis

from rqproc.aio import AsyncClient
from rqproc.client import Client
from rqproc.torture.ledger import Ledger

if TYPE_CHECKING:
    from rq.job import Job

KEPT = tuple(range(1, 9))
SERIAL = ("charge", "acharge")
SERIAL_IDS = tuple(range(1, 5))
PATIENT_S = 8.0
BRIEF_S = 0.5
RESULT_TTL_S = 60
HOLD_S = 0.08
MOST_JOBS = 8
COLLECT_WITHIN_S = 20.0


def keys() -> tuple[str, ...]:
    """Return every key that is asked for."""
    kept = tuple(f"kept:{id}" for id in KEPT)
    return kept + tuple(f"{name}:{id}" for name in SERIAL for id in SERIAL_IDS)


@dataclass(frozen=True, slots=True)
class Wish:
    """A request of a serial resource, before it is sent."""

    resource: str
    id: int
    tag: str
    hold_s: float
    timeout_s: float

    @property
    def key(self) -> str:
        return f"{self.resource}:{self.id}"

    @property
    def args(self) -> tuple[str, float]:
        return (self.tag, self.hold_s)


class Wishes:
    """What one caller will ask next, by its own dice."""

    def __init__(self, ledger: Ledger, seed: str, *, longest_s: float) -> None:
        self._ledger = ledger
        self._longest_s = longest_s
        self.chance = random.Random(seed)  # noqa: S311

    def serial(self) -> Wish:
        chance = self.chance
        hold_s = chance.uniform(0.0, HOLD_S)
        if self._longest_s and chance.random() < 0.03:
            hold_s = chance.uniform(0.0, self._longest_s)
        resource, id = chance.choice(SERIAL), chance.choice(SERIAL_IDS)
        return Wish(resource, id, self._ledger.tag(), hold_s, self.timeout())

    def timeout(self) -> float:
        return BRIEF_S if self.chance.random() < 0.05 else PATIENT_S

    def kept(self) -> int:
        return self.chance.choice(KEPT)

    def many(self) -> list[int]:
        return self.chance.sample(KEPT, self.chance.randint(2, len(KEPT)))

    def pause(self) -> float:
        return self.chance.uniform(0.0, 0.06)


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
            thread.join(max(0.0, end + 5.0 - time.monotonic()))
        if self._failures:
            raise self._failures[0]

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - told by finish
            self._failures.append(error)

    # --- blocking callers ---

    def _ask(self, wishes: Wishes) -> None:
        turns = (self._one, self._charge, self._charge, self._many, self._invalidate)
        while not self._end.is_set():
            (turn,) = wishes.chance.choices(turns, (6, 3, 3, 2, 1))
            turn(wishes)
            self._end.wait(wishes.pause())

    def _one(self, wishes: Wishes) -> None:
        id, timeout_s = wishes.kept(), wishes.timeout()
        number = self._ledger.ask("request", f"kept:{id}", timeout_s=timeout_s)
        self._note(number, lambda: self._client.request(id, "kept", timeout=timeout_s))

    def _charge(self, wishes: Wishes) -> None:
        wish = wishes.serial()
        number = self._ledger.ask("request", wish.key, tag=wish.tag, timeout_s=wish.timeout_s)
        self._note(
            number,
            lambda: self._client.request(
                wish.id, wish.resource, args=wish.args, timeout=wish.timeout_s
            ),
        )

    def _many(self, wishes: Wishes) -> None:
        ids = wishes.many()
        numbers = [self._ledger.ask("many", f"kept:{id}", timeout_s=PATIENT_S) for id in ids]
        try:
            found = self._client.request_many(
                ids, "kept", timeout=PATIENT_S, return_exceptions=True
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the caller got
            found = dict.fromkeys(ids, error)
        for id, number in zip(ids, numbers, strict=True):
            self._ledger.answered(number, found[id])

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
        async with AsyncClient(self._async_url, namespace=self._client.namespace) as client:
            bodies = (self._ask_task(client, wishes(f"task{n}")) for n in range(tasks))
            await asyncio.gather(*bodies)

    async def _ask_task(self, client: AsyncClient, wishes: Wishes) -> None:
        while not self._end.is_set():
            if wishes.chance.random() < 0.3:
                await self._many_async(client, wishes)
            else:
                await self._charge_async(client, wishes)
            await asyncio.sleep(wishes.pause())

    async def _charge_async(self, client: AsyncClient, wishes: Wishes) -> None:
        wish = wishes.serial()
        number = self._ledger.ask("async", wish.key, tag=wish.tag, timeout_s=wish.timeout_s)
        outcome: object
        try:
            outcome = await client.request(
                wish.id, wish.resource, args=wish.args, timeout=wish.timeout_s
            )
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
        jobs: deque[tuple[int, Job]] = deque()
        while not self._end.is_set():
            if len(jobs) < MOST_JOBS:
                self._enqueue_one(wishes, jobs)
            self._collect(jobs)
            self._end.wait(wishes.pause())
        end = time.monotonic() + COLLECT_WITHIN_S
        while jobs and time.monotonic() < end:
            self._collect(jobs)
            time.sleep(0.02)
        for number, _ in jobs:
            self._ledger.given_up(number)

    def _enqueue_one(self, wishes: Wishes, jobs: deque[tuple[int, Job]]) -> None:
        wish = wishes.serial()
        number = self._ledger.ask("enqueue", wish.key, tag=wish.tag)
        try:
            job = self._client.enqueue(
                wish.id, wish.resource, args=wish.args, result_ttl=RESULT_TTL_S
            )
        except Exception as error:  # noqa: BLE001
            self._ledger.answered(number, error)
            return
        self._ledger.accepted(number)
        jobs.append((number, job))

    def _collect(self, jobs: deque[tuple[int, Job]]) -> None:
        """Look once for each job's end."""
        for _ in range(len(jobs)):
            number, job = jobs.popleft()
            try:
                outcome = _result(job)
            except redis.RedisError:
                jobs.append((number, job))
            except JobGone:
                self._ledger.given_up(number)
            else:
                if outcome is None:
                    jobs.append((number, job))
                else:
                    self._ledger.answered(number, outcome)


def _result(job: Job) -> object:
    """Return a job's value or, as an error, that it failed; None where there is neither yet.

    Raises:
        JobGone, redis.RedisError.
    """
    known = job.connection.exists(job.key)
    if (result := job.latest_result()) is None:
        if not known:
            raise JobGone
        return None
    if result.type.name == "SUCCESSFUL":
        return result.return_value
    return JobFailed(str(result.exc_string)[-300:])


class JobGone(Exception):
    """The server knows nothing of a job."""


class JobFailed(Exception):
    """An enqueued job ended as failed."""
