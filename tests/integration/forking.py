"""An app whose handlers fork, and whose coroutines end what they run on."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from typing import Any

from rqproc import App

app = App()


@app.resource(ttl=0)
def pool(id: Any, wait_s: float) -> str:
    """A pool whose worker is left in the middle of its work."""
    with multiprocessing.get_context("fork").Pool(1) as workers:
        try:
            workers.apply_async(time.sleep, (20,)).get(timeout=wait_s)
        except multiprocessing.TimeoutError:
            return "left"
    return "done"


@app.resource(ttl=0)
def terminated(id: Any) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode


@app.resource(ttl=0)
def forked(id: Any, how: str) -> int:
    """Return how a child ends that leaves this handler by itself."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ValueError("of the child")
    return 0


@app.resource(ttl=0)
async def aforked(id: Any) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(4)


@app.resource(ttl=0)
async def ends_loop(id: Any, how: str) -> str:
    if how == "stop":
        asyncio.get_running_loop().stop()
        return "stopped"
    if how == "shut down its threads":
        await asyncio.get_running_loop().shutdown_default_executor()
        return "stopped"

    async def leave() -> None:
        sys.exit(2)

    await asyncio.create_task(leave())
    return "went on"


@app.resource(ttl=0)
async def fine(id: Any) -> str:
    return await asyncio.to_thread(str, "fine")
