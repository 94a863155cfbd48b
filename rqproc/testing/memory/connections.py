"""Connections to the server of a cluster under test, and what can go wrong with them.

Knows the fake server and the simulation. Must not know what the commands mean.

A packet is carried out when it is sent, up to a command that blocks; the rest when that has its
reply. A node that is cut off sends into the void and hears nothing; what was on its way arrives
when it is healed, as TCP would have it, if both ends are there still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, cast

import redis
from hiredis import PushNotification, Reader

from rqproc.runtime import Clock, Runtime
from rqproc.testing.memory.fake_server import Fake
from rqproc.testing.memory.participants import Group, Timer
from rqproc.testing.memory.primitives import Waiters
from rqproc.testing.memory.simulation import Simulation
from rqproc.transport.connection import Connection, ConnectionLost, Refused
from rqproc.transport.connector import CONNECT_TIMEOUT_S, Connector
from rqproc.transport.sockets import TimedSocket

NAME = "the cluster under test"


class SimNetwork:
    """Everybody's way to one server.

    Attributes:
        up: whether the server runs.
    """

    def __init__(self, simulation: Simulation, clock: Clock) -> None:
        self.simulation = simulation
        self.fake = Fake(clock)
        self.up = True
        self._connections: list[SimConnection] = []
        self._cut: set[Group] = set()
        self._loses: list[Group | None] = []

    # --- faults ---

    def stop(self) -> None:
        """The server ends: all connections break."""
        with self.simulation.mutex:
            self.up = False
            for connection in self._connections:
                connection.lose("Connection closed by server")
            self._connections.clear()

    def start(self) -> None:
        """It is there again, with its data."""
        with self.simulation.mutex:
            self.fake.restart()
            self.up = True

    def cut(self, group: Group) -> None:
        self._cut.add(group)

    def heal(self, group: Group) -> None:
        with self.simulation.mutex:
            self._cut.discard(group)
            for connection in [
                connection for connection in self._connections if connection.group is group
            ]:
                connection.deliver()
            self.look_around()

    def drop(self, group: Group) -> None:
        """A process has ended, and its connections with it."""
        with self.simulation.mutex:
            for connection in [
                connection for connection in self._connections if connection.group is group
            ]:
                connection.close()

    def lose_reply(self, group: Group) -> None:
        """The next packet of a group that calls a function is carried out, as far as it goes
        without waiting; its replies are lost, and so is the connection.
        """
        self._loses.append(group)

    def is_cut(self, group: Group) -> bool:
        return group in self._cut

    def loses(self, group: Group) -> bool:
        if group not in self._loses:
            return False
        self._loses.remove(group)
        return True

    # --- connections ---

    def connect(self, timeout_s: float, *, pushes: bool) -> SimConnection:
        """Raises: ConnectionLost: the server is away, or does not answer in time."""
        group = self.simulation.group
        if group in self._cut:
            self.simulation.sleep(timeout_s)
            raise ConnectionLost("it does not answer", spent_s=timeout_s)
        if not self.up:
            raise ConnectionLost("Error 111 connecting. Connection refused.")
        connection = SimConnection(self, group, pushes=pushes)
        self._connections.append(connection)
        return connection

    def forget(self, connection: SimConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    def look_around(self) -> None:
        """What was touched may be what others wait for."""
        fake = self.fake
        while fake.touched:
            touched = frozenset(fake.touched)
            fake.touched.clear()
            for connection in list(self._connections):
                connection.look_again(touched)


class NoSocket:
    """Stands for a socket, where whoever waits is woken by any reply, which comes whole."""

    waits = False

    def wake_at(self, size: int) -> None:
        """It makes no difference."""


class SimConnection(Connection):
    """One connection. Attributes: waiters: who waits for something to be read."""

    def __init__(self, network: SimNetwork, group: Group, *, pushes: bool) -> None:
        self.group = group
        self.waiters = Waiters(network.simulation)
        self._network = network
        self._simulation = network.simulation
        self._wire = network.fake.connect(self._hear)
        self._parser = Reader()
        self._timed = cast(TimedSocket, NoSocket())
        self._todo: deque[Sequence[bytes]] = deque()
        self._replies: deque[Any] = deque()
        self._unheard: list[Any] = []
        self._late: Timer | None = None
        self._blocked: set[bytes] | None = None
        self._broken = ""
        self._silent = False
        self._closed = False
        self._until = 0.0
        self._pushes = pushes
        # fakeredis lets no subscriber send commands, in RESP3 either: it listens on a socket of
        # its own.
        self._ear = network.fake.connect(self._hear) if pushes else self._wire

    # --- what a connection does ---

    def fileno(self) -> int:
        raise NotImplementedError(
            "connections under test have no file: wait with the runtime's poll"
        )

    @property
    def readable(self) -> bool:
        return bool(self._replies or self._broken or self._closed)

    def close(self) -> None:
        with self._simulation.mutex:
            self._closed = True
            self._todo.clear()
            self._unblock()
            self._network.forget(self)
            self.waiters.wake_all()

    def interrupt(self) -> None:
        with self._simulation.mutex:
            self.lose("interrupted")

    def send(self, packet: bytes, *, timeout_s: float) -> None:
        with self._simulation.mutex:
            self._sent_at = self._simulation.now
            self._until = self._sent_at + timeout_s
            if self._broken or self._closed:
                self.close()
                raise ConnectionLost(self._broken or "it is closed")
            self._parser.feed(packet)
            while (command := self._parser.gets()) is not False:
                self._todo.append(command)
            self.deliver()
            self._network.look_around()

    def receive(self, *, wait: bool = True) -> bool:
        while True:
            with self._simulation.mutex:
                if self._replies:
                    return True
                if self._broken or self._closed:
                    self.close()
                    raise ConnectionLost(self._broken or "it is closed")
                if not wait:
                    return False
                if self._simulation.now >= self._until:
                    self.close()
                    raise ConnectionLost("it does not answer", spent_s=self._until - self._sent_at)
                self.waiters.enlist()
            self.waiters.wait(self._until)

    def take(self, timeout_s: float) -> list[Any]:
        self._sent_at = self._simulation.now
        self._until = self._sent_at + timeout_s
        while True:
            with self._simulation.mutex:
                if self._replies:
                    found = list(self._replies)
                    self._replies.clear()
                    return found
                if self._broken or self._closed:
                    self.close()
                    raise ConnectionLost(self._broken or "it is closed")
                if self._simulation.now >= self._until:
                    return []
                self.waiters.enlist()
            self.waiters.wait(self._until)

    def has_unread(self, replies: int = 1) -> bool:
        return replies == 1 and bool(self._replies)

    def is_cut(self) -> bool:
        return bool(self._broken or self._closed)

    def next_reply(self) -> tuple[bool, Any]:
        with self._simulation.mutex:
            if not self._replies:
                return False, None
            reply = self._replies.popleft()
        if isinstance(reply, redis.ResponseError):
            self.close()
            raise Refused(str(reply))
        return True, reply

    def server_id(self, *, timeout_s: float) -> str:
        info: bytes = self.exchange((("INFO", "server"),), timeout_s=timeout_s)[0]
        return info.decode().partition("run_id:")[2].strip()

    # --- what becomes of a packet ---

    def lose(self, reason: str) -> None:
        """It breaks: whoever uses it finds that out."""
        self._broken = self._broken or reason
        self._todo.clear()
        self._unblock()
        self.waiters.wake_all()

    def deliver(self) -> None:
        """Carry out what was sent, as far as the network and the commands let."""
        if self._network.is_cut(self.group):
            return
        heard, self._unheard = self._unheard, []
        for reply in heard:
            self._hear(reply)
        while self._todo and self._blocked is None and not self._closed:
            command = self._todo[0]
            if command[0].upper() == b"FCALL" and self._network.loses(self.group):
                self._silent = True
            wire = self._ear if command[0].upper() == b"SUBSCRIBE" else self._wire
            wire.run(command)
            if self._wire.blocks_s is not None:
                self._block(command, self._wire.blocks_s)
            else:
                self._todo.popleft()
        if self._silent:
            self.lose("Connection reset by peer")

    def look_again(self, touched: Collection[bytes]) -> None:
        """Something has changed: perhaps what this one's command waits for."""
        if self._blocked is not None and not self._blocked.isdisjoint(touched):
            self._unblock()
            self.deliver()

    def _block(self, command: Sequence[bytes], blocks_s: float) -> None:
        self._blocked = set(command[1:])
        # It is run again when something has come; its time goes on from its beginning.
        if self._late is None and blocks_s:
            self._late = self._simulation.at(self._simulation.now + blocks_s, self._give_up)

    def _unblock(self) -> None:
        self._blocked = None

    def _give_up(self) -> None:
        """The server has blocked for as long as it was asked to."""
        self._late = None
        if self._blocked is None:
            return
        self._unblock()
        self._todo.popleft()
        self._hear(None)
        self.deliver()
        self._network.look_around()

    def _hear(self, reply: Any) -> None:
        if self._late and self._blocked is None:
            self._late.cancel()
            self._late = None
        if self._silent or self._closed:
            return
        if self._network.is_cut(self.group):
            self._unheard.append(reply)
            return
        if self._pushes and isinstance(reply, list) and reply[0] in (b"message", b"subscribe"):
            reply = PushNotification(reply)
        self._replies.append(reply)
        self.waiters.wake_all()


class SimConnector(Connector):
    """The way to the server of a cluster under test."""

    def __init__(self, network: SimNetwork, runtime: Runtime) -> None:
        self._network = network
        self.runtime = runtime
        self.revive = None
        self.server = NAME

    def without_revival(self) -> Connector:
        return self

    @property
    def secure(self) -> bool:
        return False

    @property
    def asks(self) -> bool:
        return False

    def connect(self, *, timeout_s: float = CONNECT_TIMEOUT_S, pushes: bool = False) -> Connection:
        return self._network.connect(timeout_s, pushes=pushes)

    def client(self) -> redis.Redis:
        from rqproc.testing.memory.redis_client import client_over  # for the few who ask for it

        return client_over(self._network.fake, lambda: self.connect())
