"""One asyncio client in any number of event loops, side by side or one after the other.

Knows event loops. Must not know what is asked: see ``tasks``.

Futures and connections belong to one loop, so each loop has ``Tasks`` of its own. They live as long
as the loop keeps their connection: nothing here keeps a loop that has ended, nor what it has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from rqproc.calls.call import Call
from rqproc.calls.tasks import Tasks
from rqproc.errors import ConfigError
from rqproc.protocol.commands import Commands
from rqproc.transport.connector import Connector

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that runs the caller.

    Raises:
        ConfigError: there is none, as in trio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConfigError(
            "no asyncio event loop runs here. In trio, and anyio on trio, ask in a thread: "
            "`await trio.to_thread.run_sync(price.request, 42)`, or anyio.to_thread.run_sync; "
            "outside of coroutines there is `price.request`, and rqproc.Client"
        ) from error


class EventLoops:
    """What the requests of a client go over; shared by the tasks of all event loops."""

    def __init__(self, connector: Connector, commands: Commands) -> None:
        self._connector = connector
        self._commands = commands
        self._tasks: WeakValueDictionary[int, Tasks] = WeakValueDictionary()

    def ask(self, call: Call) -> Coroutine[Any, Any, None]:
        """Have a call answered in the running loop; see ``Tasks.ask``. Raises: ConfigError."""
        loop = running_loop()
        tasks = self._tasks.get(id(loop))
        if tasks is None or tasks.loop is not loop:  # a loop has the number of one that has ended
            tasks = self._tasks[id(loop)] = Tasks(self._connector, self._commands, loop)
        return tasks.ask(call)

    async def run(self, work: Callable[[], T]) -> T:
        """Do what blocks, in a thread of the loop's."""
        running_loop()
        return await asyncio.to_thread(work)

    async def close(self) -> None:
        """Close all connections, each as soon as nobody needs it any more."""
        here = asyncio._get_running_loop()
        for found in self._tasks.valuerefs():  # a list: other threads may add to it meanwhile
            tasks = found()
            if tasks and tasks.loop is here:
                await tasks.close()
            elif tasks:
                tasks.close_from_elsewhere()
