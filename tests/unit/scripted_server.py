"""A server on a unix socket that knows of the protocol what callers need, and is told what to do.

It keeps what the functions keep: which calls are known, which answers, which fences. So it can say
how often each call was queued. Tests wait for what happens there by ``until``.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import hiredis

from rqproc.protocol.answer_codec import encode_answer, encode_group, encode_part
from rqproc.protocol.commands import Commands
from rqproc.protocol.keys import Keys
from rqproc.transport.connector import Connector

COMMANDS = Commands(Keys("shop"))
SOON_S = 5.0
HELLO = b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nversion\r\n"
NULL = b"_\r\n"
CHANNEL = COMMANDS.keys.reply("").encode()
PREFIX = COMMANDS.library.function("").encode()


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def array(parts: Sequence[bytes], mark: bytes = b"*") -> bytes:
    return b"%s%d\r\n%s" % (mark, len(parts), b"".join(parts))


def push(channel: bytes, payload: bytes) -> bytes:
    return array([bulk(b"message"), bulk(channel), bulk(payload)], b">")


def name_of(command: Sequence[bytes]) -> str:
    """What a command does, in a word: a function's name, or Redis' own."""
    if command[0] == b"FCALL":
        return command[1].removeprefix(PREFIX).decode()
    return command[0].decode()


def sent_ids(command: Sequence[bytes]) -> list[str]:
    """The ids that a call of route, scatter or withdraw names."""
    args = [part.decode() for part in command[4:]]
    if name_of(command) == "route":
        return args[5::4]
    if name_of(command) == "withdraw":
        return args[2::2]
    group, addresses = args[3], args[5:]
    stem = group.replace("-g", "-c")
    return [f"{stem}_{place}-{address}" for place, address in enumerate(addresses)]


class ScriptedServer:
    """All its state is guarded by ``changed``.

    Attributes:
        log: the commands that arrived, without those with which connections begin.
        queued: how often each call was queued.
        auto: whether a call is answered as soon as it is queued, and how: "hit" or "miss".
        held: calls that are not, told by the end of their ids.
        by_key: calls whose answers have to be fetched, told likewise.
        value: of an id's answer, unless it is told another.
        mute: nothing is carried out nor answered from now on; ``late`` has what came meanwhile.
        refuse: what the next functions are refused with, in turn; "" for those that are not.
        closes: how many connections are closed as soon as they are made.
        version: what it says that it is.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.log: list[list[bytes]] = []
        self.queued: Counter[str] = Counter()
        self.auto = ""
        self.held: tuple[str, ...] = ()
        self.by_key: tuple[str, ...] = ()
        self.value: Callable[[str], object] = lambda id: 7
        self.mute = False
        self.late: list[list[bytes]] = []
        self.refuse: list[str] = []
        self.closes = 0
        self.version = "7.4.0"
        self.made = 0
        self.kept: dict[bytes, bytes] = {}
        self.fences: set[str] = set()
        self.nobody = False
        self._known: set[str] = set()
        self._open: list[Connection] = []
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name) / "s"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen(64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def connector(self) -> Connector:
        return Connector(f"unix://{self.path}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join(SOON_S)
            assert not thread.is_alive()
        self._folder.cleanup()

    # --- what a test does ---

    def until(self, happened: Callable[[], object], *, within_s: float = SOON_S) -> None:
        with self.changed:
            assert self.changed.wait_for(happened, within_s), "it does not happen"

    def names(self) -> list[str]:
        """What was asked of it, each in a word."""
        with self.changed:
            return [name_of(command) for command in self.log]

    def calls(self, name: str) -> list[list[bytes]]:
        with self.changed:
            return [command for command in self.log if name_of(command) == name]

    def routed(self, count: int = 1) -> list[str]:
        """Wait until so many calls have been queued; return their ids in this order."""
        self.until(lambda: len(self.queued) >= count)
        with self.changed:
            return list(self.queued)

    def answer(self, id: str, value: object = None, *, source: str = "miss") -> None:
        """A node answers a call."""
        found = self.value(id) if value is None else value
        payload = encode_answer(id, source, repr(found), node="n1").encode()
        key = COMMANDS.keys.answer(id)
        with self.changed:
            if source != "hit":
                self.kept[key.encode()] = payload
        self.publish(
            f"{id} kept {len(payload)} {key}".encode() if id.endswith(self.by_key) else payload
        )

    def answer_group(self, group: str, *places: int, node: str = "n1") -> None:
        """A node answers calls of a group, each with its place for a value."""
        self.publish(encode_group(group, node, map(part, places)).encode())

    def publish(self, payload: bytes) -> None:
        channel = CHANNEL + payload.partition(b"-")[0]
        with self.changed:
            for connection in self._open:
                if channel in connection.channels:
                    connection.tell(push(channel, payload))

    @property
    def open(self) -> int:
        with self.changed:
            return len(self._open)

    @property
    def channels(self) -> list[bytes]:
        """What the newest connection listens to."""
        with self.changed:
            return self._open[-1].channels if self._open else []

    def cut(self) -> None:
        """All connections are lost."""
        with self.changed:
            for connection in self._open:
                connection.end()

    def stall(self) -> None:
        """From now on it takes everything in and does nothing."""
        with self.changed:
            self.mute = True

    def go_on(self) -> None:
        with self.changed:
            self.mute = False
            self.changed.notify_all()

    def deliver_late(self) -> None:
        """What came while it stood still is carried out after all."""
        with self.changed:
            late, self.late = self.late, []
            for command in late:
                if command[0] not in (b"HELLO", b"PING", b"SUBSCRIBE"):
                    self._reply(command)

    # --- what a server does ---

    def _accept(self) -> None:
        while True:
            try:
                found, _ = self._listening.accept()
            except OSError:
                return
            with self.changed:
                self.made += 1
                if self.closes:
                    self.closes -= 1
                    found.close()
                    continue
                connection = Connection(self, found)
                self._open.append(connection)
                self._threads.append(threading.Thread(target=connection.serve, daemon=True))
                self._threads[-1].start()

    def gone(self, connection: Connection) -> None:
        with self.changed:
            self._open.remove(connection)
            self.changed.notify_all()

    def take(self, connection: Connection, command: list[bytes]) -> None:
        with self.changed:
            if self.mute:
                self.late.append(command)
                self.changed.notify_all()
                return
            begins = self._begin(connection, command)
            connection.tell(begins or self._reply(command))
            self.changed.notify_all()
        if self.auto and not begins:
            self._answer_all()

    def _begin(self, connection: Connection, command: list[bytes]) -> bytes:
        if command[0] == b"HELLO":
            return HELLO + bulk(self.version.encode())
        if command[0] == b"PING":
            return b"+PONG\r\n"
        if command[0] == b"SUBSCRIBE":
            connection.channels = command[1:]
            return b"".join(
                array([bulk(b"subscribe"), bulk(channel), b":1\r\n"], b">")
                for channel in connection.channels
            )
        return b""

    def _reply(self, command: list[bytes]) -> bytes:
        self.log.append(command)
        if command[0] == b"GET":
            found = self.kept.get(command[1])
            return NULL if found is None else bulk(found)
        if command[0] == b"UNLINK":
            for key in command[1:]:
                self.kept.pop(key, None)
            return b":1\r\n"
        if command[0] == b"FUNCTION":
            return bulk(b"rqproc")
        if self.refuse and (error := self.refuse.pop(0)):
            return f"-{error}\r\n".encode()
        return {
            "route": self._route, "scatter": self._scatter, "fence": self._fence,
            "withdraw": self._withdraw,
        }[name_of(command)](command)  # fmt: skip

    def _fence(self, command: list[bytes]) -> bytes:
        self.fences.add(command[5].decode())
        return b":1\r\n"

    def _withdraw(self, command: list[bytes]) -> bytes:
        return array([bulk(b"")] * len(sent_ids(command)))

    def _route(self, command: list[bytes]) -> bytes:
        again = command[8] == b"again"
        ids = sent_ids(command)
        if not again and ids[0].partition("-")[0] in self.fences:
            return NULL
        told = []
        for id in ids:
            kept = self.kept.get(COMMANDS.keys.answer(id).encode()) if again else None
            if self.nobody:
                told.append(b'{"type":"NoLiveNode"}')
            elif kept is not None:
                told.append(kept)
            else:
                told.append(b"")
                if not (again and id in self._known):
                    self.queued[id] += 1
                    self._known.add(id)
        return array([bulk(text) for text in told]) if any(told) else NULL

    def _scatter(self, command: list[bytes]) -> bytes:
        if command[7].partition(b"-")[0].decode() in self.fences:
            return NULL
        for id in sent_ids(command):
            self.queued[id] += 1
            self._known.add(id)
        return NULL

    def _answer_all(self) -> None:
        with self.changed:
            todo = sorted(id for id in self._known if not id.endswith(self.held))
            self._known -= set(todo)
            for id in todo:  # at once: one that asks again finds it known, or kept
                self.answer(id, source=self.auto)


def part(place: int) -> str:
    return encode_part(str(place), "hit", str(place), age_s=0.0, expires_in_s=1.0, token=1)


class Connection:
    def __init__(self, server: ScriptedServer, found: socket.socket) -> None:
        self.channels: list[bytes] = []
        self._server = server
        self._socket = found
        self._reader = hiredis.Reader()

    def serve(self) -> None:
        try:
            while data := self._socket.recv(65536):
                self._reader.feed(data)
                while (command := self._reader.gets()) is not False:
                    self._server.take(self, command)
        except OSError:
            pass
        finally:
            self._server.gone(self)
            self._socket.close()

    def tell(self, data: bytes) -> None:
        with suppress(OSError):
            self._socket.sendall(data)

    def end(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
