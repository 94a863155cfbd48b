"""``Embedded``: attach to the server of this user, start it if need be, stop it.

Knows in which order the locks are taken; the protocol is told in ``keeper``'s docstring. Must not
know what the server is used for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rqproc.errors import ConfigError, EmbeddedUnavailable, RqprocError
from rqproc.runtime import renew_after_fork
from rqproc.server import locks
from rqproc.server.background import BackgroundStart
from rqproc.server.binary import find_binary
from rqproc.server.places import Places, claim
from rqproc.server.probe import info, ping
from rqproc.server.startup import ANSWER_S, LOADING_S, PAUSE_S, Record, Startup, serves

GRACE_S = 10.0
"""What a server may take to write its data and exit, before it is killed."""
END_S = GRACE_S + ANSWER_S
"""After this it is given up."""
LOOK_S = 0.05
"""What is kept of a caller's time to tell it how the server is."""
TURN_S = LOADING_S + END_S
"""What the process that has start.lock may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of the server.

    Attributes:
        running: whether its process is there.
        users: the processes that use it; None where the system does not tell (macOS). Children
            that a user forked are not among them.
        in_use: whether any process does, this one included.
        version: its name and version; this and what follows is None if it does not answer.
        memory_bytes: what its process takes.
        keys: how many it holds.
    """

    url: str
    data_dir: Path
    log: Path
    running: bool = False
    in_use: bool = False
    users: tuple[int, ...] | None = None
    pid: int | None = None
    version: str | None = None
    uptime_s: float | None = None
    memory_bytes: int | None = None
    keys: int | None = None


class Embedded:
    """The server that rqproc starts itself. Its methods may be called from any thread."""

    def __init__(self, places: Places | None = None, *, program: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            places: where it lives; by default, where this user's shared server does.
            program: the server to run, in place of the one that ``binary`` finds.
        """
        self.places = Places.of_user(os.environ) if places is None else places
        self._program = program
        self._hold = locks.hold_on(self.places.users_lock)
        self._start_under_way: BackgroundStart | None = None
        renew_after_fork(self)

    def forget_parent(self) -> None:
        """In a forked child: the thread is not here that starts the server."""
        self._start_under_way = None

    def url(self) -> str:
        """Return the server's URL, whether it runs or not."""
        return self.places.url

    def binary(self) -> Path:
        """Return the server program; raises EmbeddedUnavailable if there is none."""
        return self._program or find_binary()

    def ensure(self) -> str:
        """Make sure that the server runs, and return its URL.

        From now on, until it ends or calls ``release``, this process is a user of the server, which
        therefore keeps running. Cheap to call again, which starts it again if it has gone.

        Raises:
            EmbeddedUnavailable: it cannot run here, or did not start.
        """
        with self._guarded():
            try:
                self._attach_or_start()
                self._hold.owners.add(self)
            finally:
                self._drop_if_unwanted()
        return self.url()

    def ensure_within(self, timeout_s: float) -> str:
        """``ensure``, as far as it gets in so many seconds; it goes on when they are over.

        Returns:
            Why the server does not serve yet; nothing if it does.

        Raises:
            EmbeddedUnavailable: it cannot run here, or did not start.
        """
        start = self._start_under_way
        if start is None or start.ended:
            start = self._start_under_way = BackgroundStart(self._ensure_as_user)
        if start.ends_within(timeout_s - LOOK_S):
            return ""
        found = ping(self.places.socket, timeout_s=LOOK_S)
        return f"the embedded server is not ready yet: {found.value}; its log is {self.places.log}"

    def _ensure_as_user(self) -> None:
        """``ensure``; but a server that another has started is used from now on, be it silent.

        Whoever connects to it later, when it answers again, must be a user of it by then.
        """
        with self._guarded():
            if locks.held(self.places.keeper_lock):
                self._hold.owners.add(self)
        self.ensure()

    def release(self) -> None:
        """Stop using the server; after its last user has done so, it ends."""
        with self._hold.mutex:
            self._hold.owners.discard(self)
            self._drop_if_unwanted()

    def status(self) -> Status:
        """Look at the server without starting it.

        Raises:
            EmbeddedUnavailable: its data is in use by a server of another runtime directory.
        """
        with self._guarded():
            status = Status(url=self.url(), data_dir=self.places.data, log=self.places.log)
            record = Record.read(self.places)
            return self._completed(status, record) if record else status

    def stop(self, force: bool = False) -> bool:
        """Stop the server; return whether there was one.

        Raises:
            ConfigError: other processes use it, and ``force`` is not set.
            EmbeddedUnavailable: it did not stop.
        """
        with self._guarded():
            if not locks.held(self.places.server_lock):
                return False
            claim(self.places.runtime)
            with self._start_lock(wait_s=TURN_S) as ours:
                if not ours:
                    raise EmbeddedUnavailable("another process is starting or stopping it")
                with self._users_kept_out(force):
                    self._end_server()
            self._hold.owners.clear()
            return True

    def _attach_or_start(self) -> None:
        claim(self.places.runtime)
        until_s = time.monotonic() + TURN_S
        while not self._attach():
            with self._start_lock() as ours:
                if ours:
                    self._start()
                    return
            if time.monotonic() > until_s:
                raise EmbeddedUnavailable("another process has been starting it for too long")
            time.sleep(PAUSE_S)

    def _attach(self) -> bool:
        return self._hold.take() and serves(self.places)

    def _start(self) -> None:
        until_s = time.monotonic() + END_S
        while not self._hold.take():  # its keeper has the lock: it is about to end
            if time.monotonic() > until_s:
                raise EmbeddedUnavailable("a server that was to stop does not end")
            time.sleep(PAUSE_S)
        Startup(self.places, self.binary).run()

    def _end_server(self) -> None:
        """Return when neither the server nor its keeper is there any more."""
        began_s = time.monotonic()
        sent: signal.Signals | None = None
        while locks.held(self.places.server_lock):
            waited_s = time.monotonic() - began_s
            if waited_s > END_S:
                raise EmbeddedUnavailable(f"it does not end, see {self.places.log}")
            wanted = signal.SIGTERM if waited_s < GRACE_S else signal.SIGKILL
            record = Record.read(self.places)
            if record and sent is not wanted:
                record.signal(wanted)
                sent = wanted
            time.sleep(PAUSE_S)

    def _completed(self, status: Status, record: Record) -> Status:
        users = locks.sharers(self.places.users_lock)
        said = info(self.places.socket)
        return replace(
            status,
            running=True,
            pid=record.pid,
            users=users,
            in_use=self._in_use() if users is None else bool(users),
            **(_facts(said) if said else {}),
        )

    def _in_use(self) -> bool:
        """Look whether anyone shares users.lock; start.lock keeps ``stop`` from looking too."""
        claim(self.places.runtime)
        with self._start_lock() as ours:
            if self._hold.taken or not ours:
                return True
            gate = locks.try_lock(self.places.users_lock)
            if gate is None:
                return True
            locks.unlock(gate)
            return False

    def _drop_if_unwanted(self) -> None:
        if not self._hold.owners:
            self._hold.drop()

    @contextlib.contextmanager
    def _users_kept_out(self, force: bool) -> Iterator[None]:
        """Keep users.lock exclusively meanwhile, so that nobody attaches to what is about to end.

        1. This process gives up its share. If users.lock can be had now, there is no other user.
        2. Else either others share it, and then we can too: that is a refusal.
        3. Or the keeper has it: it is stopping the server already.
        """
        self._hold.drop()
        gate = locks.try_lock(self.places.users_lock)
        if gate is None and not force and self._hold.take():
            self._drop_if_unwanted()
            raise ConfigError(self._refusal())
        try:
            yield
        finally:
            if gate is not None:
                locks.unlock(gate)

    def _refusal(self) -> str:
        others = set(locks.sharers(self.places.users_lock) or ()) - {os.getpid()}
        named = f" (process ids {', '.join(map(str, sorted(others)))})" if others else ""
        return (
            f"other processes use the embedded server{named}: end them first, or give --force to "
            "stop it all the same"
        )

    @contextlib.contextmanager
    def _start_lock(self, wait_s: float = 0.0) -> Iterator[bool]:
        """Hold start.lock, if it can be had within this time."""
        until_s = time.monotonic() + wait_s
        while (start := locks.try_lock(self.places.start_lock)) is None:
            if time.monotonic() >= until_s:
                break
            time.sleep(PAUSE_S)
        try:
            yield start is not None
        finally:
            if start is not None:
                locks.unlock(start)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let one thread in, and let only our own errors out."""
        locks.require()
        with self._hold.mutex:
            try:
                yield
            except RqprocError:
                raise
            except OSError as error:
                raise EmbeddedUnavailable(str(error)) from error


def _facts(said: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of Status that INFO answers."""
    name = said.get("server_name", "redis")
    databases = (value for key, value in said.items() if key.startswith("db"))
    return {
        "version": f"{name} {said.get(f'{name}_version', said['redis_version'])}",
        "uptime_s": float(said["uptime_in_seconds"]),
        "memory_bytes": int(said["used_memory_rss"]),
        "keys": sum(int(value.partition(",")[0].removeprefix("keys=")) for value in databases),
    }
